"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

import pytest

from quantwright.errors import ArtifactError
from quantwright.files import atomic_path, sha256, write_text


def names(folder: Path) -> list[str]:
    """Returns everything in a folder, hidden files too."""
    return sorted(os.listdir(folder))


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    final = tmp_path / "deep" / "er" / "model.onnx"
    with atomic_path(final) as temporary:
        temporary.write_bytes(b"abc")
        assert not final.exists()
        assert temporary.parent == final.parent
    assert final.read_bytes() == b"abc"
    assert names(final.parent) == ["model.onnx"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()])
def test_nothing_is_left_when_the_block_fails(tmp_path: Path, failure: BaseException) -> None:
    final = tmp_path / "model.onnx"
    final.write_bytes(b"old")
    with pytest.raises(type(failure)), atomic_path(final) as temporary:
        temporary.write_bytes(b"half")
        raise failure
    assert final.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    final = tmp_path / "model.onnx"
    with pytest.raises(ArtifactError, match="No space left on device") as caught, atomic_path(final):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(final) in str(caught.value) and "fix:" in str(caught.value)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ArtifactError, match="cannot write") as caught:
        write_text(tmp_path / "taken" / "plan.json", "{}")
    assert caught.value.exit_code == 2


def test_text_is_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old and long")
    write_text(tmp_path / "a.txt", "ü")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xbc"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, (1 << 20) + 1])
def test_sha256_reads_in_blocks(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "blob").write_bytes(content)
    assert sha256(tmp_path / "blob") == hashlib.sha256(content).hexdigest()
