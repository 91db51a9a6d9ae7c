"""The output folder: it appears whole or not at all, strangers' files are safe, and write failures are told plainly."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from quantwright.errors import ArtifactError
from quantwright.report import folder as folders
from quantwright.report.folder import MANIFEST, is_ours, published, read_json, require_publishable


def fill(folder: Path, text: str = "new") -> None:
    (folder / "model.onnx").write_text(text)
    (folder / MANIFEST).write_text('{"quantwright": {"format": 1}}')


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    with published(out) as temporary:
        fill(temporary)
        assert not out.exists()
    assert names(out) == [MANIFEST, "model.onnx"] and names(out.parent) == ["out"]
    assert is_ours(out)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize("trouble", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_stays_behind_when_the_work_fails(tmp_path: Path, trouble: type[BaseException]) -> None:
    out = tmp_path / "out"
    with published(out) as temporary:
        fill(temporary, "old")
    with pytest.raises(trouble), published(out) as temporary:
        fill(temporary, "new")
        raise trouble
    assert (out / "model.onnx").read_text() == "old" and names(tmp_path) == ["out"]


def test_our_folder_is_replaced_and_other_files_are_carried_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with published(out) as temporary:
        fill(temporary, "old")
        (temporary / "report.html").write_text("old")
    (out / "notes.txt").write_text("mine")
    with published(out) as temporary:
        fill(temporary)
    assert names(out) == [MANIFEST, "model.onnx", "notes.txt"]  # the old report went, the notes stayed
    assert (out / "model.onnx").read_text() == "new" and names(tmp_path) == ["out"]


def test_strangers_folders_are_refused_unless_asked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with published(out) as temporary:  # an empty one is nobody's
        fill(temporary)
    (out / MANIFEST).write_text('{"name": "somebody else"}')
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"3 files that quantwright did not write.*\n.*--overwrite"), published(out):
        pytest.fail("the block must not run")
    with published(out, overwrite=True) as temporary:
        fill(temporary)
    assert (out / "thesis.tex").read_text() == "years of work" and is_ours(out)


def test_a_file_or_a_closed_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArtifactError):
            require_publishable(path)
    monkeypatch.setattr(folders.os, "access", lambda *_: False)  # root may write anywhere: pretend
    with pytest.raises(ArtifactError, match="no permission"):
        require_publishable(tmp_path / "out")


def test_the_current_folder_keeps_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    inode = tmp_path.stat().st_ino
    with published(".", overwrite=True) as temporary:
        fill(temporary, "old")
        (temporary / "report.html").write_text("old")
    with published(".") as temporary:
        fill(temporary)
    assert tmp_path.stat().st_ino == inode and names(tmp_path) == [MANIFEST, "mine.txt", "model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "new"


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with published(tmp_path / "link") as temporary:
        fill(temporary)
    assert (tmp_path / "link").is_symlink() and is_ours(tmp_path / "real")


def test_what_was_there_is_put_back_when_the_last_step_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    with published(out) as temporary:
        fill(temporary, "old")
    rename = Path.rename

    def fail_to_publish(self: Path, target: Path) -> Path:
        if ".tmp-" in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_publish)
    with pytest.raises(ArtifactError, match="cannot write: No space left on device"), published(out) as temporary:
        fill(temporary)
    assert (out / "model.onnx").read_text() == "old" and names(tmp_path) == ["out"]


def test_damaged_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"half": ')
    with pytest.raises(ArtifactError, match=r"a.json: the file is damaged or truncated"):
        read_json(tmp_path / "a.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ArtifactError, match=r"b.json: the file is damaged or truncated"):
        read_json(tmp_path / "b.json")
    with pytest.raises(ArtifactError, match="the file is missing"):
        read_json(tmp_path / "c.json")
    assert not is_ours(tmp_path)


def test_a_request_to_end_cleans_up(tmp_path: Path) -> None:
    """A real process, a real SIGTERM in the middle of filling the folder."""
    code = f"""
import os, signal, sys
from pathlib import Path
from quantwright import cli
from quantwright.report.folder import published

def run(options):
    with published({str(tmp_path / "out")!r}) as temporary:
        (temporary / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        (temporary / "other half").write_text("never")

cli._run = run
sys.exit(cli.main(["list", "rounding"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 143, done.stderr
    assert names(tmp_path) == []
