"""Saving and loading: bit-equal outputs, equal files for equal runs, and plain words for anything damaged."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quantwright import artifacts
from quantwright.api import PreparedModel, load, prepare
from quantwright.errors import ArtifactError
from quantwright.report.folder import MANIFEST, NEEDED
from quantwright.report.record import RunRecord


class Small(nn.Module):
    """Two convolutions, one with batch norm, a sum, a concatenation and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv1(x)))
        y = x + self.conv2(x)
        return self.fc(torch.cat([self.pool(x), self.pool(y)], 1).flatten(1))


class Pair(nn.Module):
    """Several inputs, one of them in a dict; several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)
        self.b = nn.Linear(3, 6)

    def forward(self, x: Tensor, other: dict[str, Tensor]) -> dict[str, Any]:
        total = self.a(x) + self.b(other["y"])
        return {"sum": total, "both": (total.relu(), x)}


CONFIGS: dict[str, dict[str, Any]] = {
    "generic": {"version": 1, "target": "generic"},
    "refined": {"version": 1, "target": "generic", "refine": ["bias_correction"]},
    "int4": {
        "version": 1,
        "target": "generic",
        "default": {"weight": {"format": "int4", "granularity": "per_channel", "observer": "mse"}},
        "rules": [{"match": {"name": "fc"}, "exclude": True}],
    },
    "dpu": {"version": 1, "target": "dpu"},
}


def small(config: str = "generic", seed: int = 0) -> tuple[PreparedModel, Tensor]:
    """Returns a calibrated and refined model, and inputs it has not seen."""
    torch.manual_seed(seed)
    model = Small().eval()
    model.bn.running_var.uniform_(0.5, 2)
    batches = [torch.randn(6, 3, 8, 8) for _ in range(2)]
    prepared = prepare(model, CONFIGS[config], batches[0])
    prepared.calibrate(batches)
    prepared.refine(batches)
    return prepared, torch.randn(5, 3, 8, 8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PreparedModel, Tensor]:
    prepared, x = small("refined")
    return artifacts.save(prepared, tmp_path_factory.mktemp("saved") / "out"), prepared, x


@pytest.fixture
def copy(saved: tuple[Path, PreparedModel, Tensor], tmp_path: Path) -> Path:
    """A copy of the saved folder, to damage."""
    (tmp_path / "out").mkdir()
    for path in saved[0].iterdir():
        (tmp_path / "out" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "out"


def rehash(folder: Path) -> None:
    """Writes the manifest's hashes anew, as somebody who edits files on purpose could."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in manifest["files"]}
    (folder / MANIFEST).write_text(json.dumps(manifest))


# -- equal ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_outputs_are_bit_equal_after_reload(config: str, tmp_path: Path) -> None:
    prepared, x = small(config)
    with torch.no_grad():
        want = prepared(x)
        with prepared.floating():
            want_float = prepared(x)
    prepared.save(tmp_path / "out")
    again = load(tmp_path / "out")
    assert type(again) is PreparedModel and not again.training
    with torch.no_grad():
        assert torch.equal(again(x), want)
        with again.floating():
            assert torch.equal(again(x), want_float)
        assert torch.equal(again(x), want) and torch.equal(prepared(x), want)  # saving changed nothing
    assert again.plan == prepared.plan and again.config == prepared.config
    assert again.changes == prepared.changes
    assert not torch.equal(want, want_float)
    again.save(tmp_path / "again")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_another_process_without_the_users_code_gets_the_same_bits(
    saved: tuple[Path, PreparedModel, Tensor], tmp_path: Path
) -> None:
    folder, prepared, x = saved
    with torch.no_grad():
        save_file({"x": x, "y": prepared(x).contiguous()}, tmp_path / "io.safetensors")
    code = (
        "import sys, torch, quantwright; from safetensors.torch import load_file\n"
        "io = load_file(sys.argv[1]); model = quantwright.load(sys.argv[2])\n"
        "with torch.no_grad(): sys.exit(not torch.equal(model(io['x']), io['y']))"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "io.safetensors"), str(folder)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_equal_runs_give_equal_files(tmp_path: Path) -> None:
    folders = []
    for name, seconds in (("a", 1.0), ("b", 2.0)):
        prepared, _ = small("refined")
        record = RunRecord.start({"model": "Small", "target": "generic"}, seed=3).finish(timings={"calibrate": seconds})
        folders.append(artifacts.save(prepared, tmp_path / name, record))
    for path in folders[0].iterdir():
        same = path.read_bytes() == (folders[1] / path.name).read_bytes()
        assert same == (path.name != "timings.json"), path.name
    run = json.loads((folders[0] / "run.json").read_text())
    assert set(run["files"]) == set(NEEDED) and run["seed"] == 3
    assert run["files"]["plan.json"] == hashlib.sha256((folders[0] / "plan.json").read_bytes()).hexdigest()


def test_nothing_is_a_pickle_and_nothing_is_doubled(saved: tuple[Path, PreparedModel, Tensor]) -> None:
    folder, prepared, _ = saved
    for path in folder.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            with safe_open(path, framework="pt") as file:
                assert file.metadata() in (None, {})
                assert path.suffix == ".safetensors"
    parameters = load_file(folder / "model.safetensors")
    assert sum(value.nbytes for value in parameters.values()) == sum(
        value.nbytes for value in prepared.graph.tensors().values()
    )


def test_the_graph_without_quantizers_is_the_float_network(saved: tuple[Path, PreparedModel, Tensor]) -> None:
    _, prepared, x = saved
    graph = artifacts.without_quantizers(prepared.graph)
    kept = {node.name for node in graph.module.graph.nodes}
    inserted = {node.name for node in prepared.graph.module.graph.nodes if node.op == "call_module"}
    assert inserted and kept == {node.name for node in prepared.graph.module.graph.nodes} - inserted
    before = {name: prepared.graph.parameter(name) for name in prepared.graph.tensors()}
    assert all(graph.parameter(name) is value for name, value in before.items())  # shared, not copied
    modes = {name: quantizer.mode for name, quantizer in prepared.quantizers.items()}
    prepared.set_mode("float")
    with torch.no_grad():
        assert torch.equal(graph(x), prepared(x))
    for name, mode in modes.items():
        prepared.quantizers[name].mode = mode  # type: ignore[assignment]


def test_nested_inputs_and_several_outputs_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = (torch.randn(9, 4), {"y": torch.randn(9, 3)})
    prepared = prepare(Pair().eval(), CONFIGS["generic"], batch)
    prepared.calibrate([batch])
    prepared.save(tmp_path / "out")
    again = load(tmp_path / "out")
    x, other = again.example.args
    assert x.shape[0] == artifacts.EXAMPLE_SAMPLES and torch.equal(other["y"], batch[1]["y"][: len(x)])
    with torch.no_grad():
        want, got = prepared(*batch), again(*batch)
    assert torch.equal(want["sum"], got["sum"]) and torch.equal(want["both"][0], got["both"][0])


# -- damaged ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*NEEDED, MANIFEST])
def test_missing_truncated_and_altered_files_are_named(name: str, copy: Path) -> None:
    path = copy / name
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-2] + bytes([whole[-2] ^ 1, whole[-1]])):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError) as caught:
            load(copy)
        assert caught.value.where is not None and (name in caught.value.where or name == MANIFEST)
    path.unlink()
    with pytest.raises(ArtifactError, match=name):
        load(copy)


def test_a_graph_that_asks_for_other_functions_is_refused(copy: Path) -> None:
    text = (copy / "graph.json").read_text()
    assert "aten.relu.default" in text
    for evil in ("os.system", "builtins.eval", "aten.from_file.default", "operator.methodcaller"):
        (copy / "graph.json").write_text(text.replace("aten.relu.default", evil))
        rehash(copy)
        with pytest.raises(ArtifactError):
            load(copy)


@pytest.mark.parametrize("name", NEEDED)
def test_files_of_another_model_are_refused(name: str, copy: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = (torch.randn(9, 4), {"y": torch.randn(9, 3)})
    other = prepare(Pair().eval(), CONFIGS["generic"], batch).calibrate([batch]).save(tmp_path / "other")
    (copy / name).write_bytes((other / name).read_bytes())
    rehash(copy)
    with pytest.raises(ArtifactError):
        load(copy)


@pytest.mark.parametrize("key", ["config", "changes", "example", "target", "files"])
def test_a_manifest_without_a_part_is_refused(key: str, copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest[key]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError):
        load(copy)


def test_paths_that_lead_out_of_the_folder_are_refused(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"]["../secret"] = "0" * 64
    with pytest.raises(ArtifactError, match="does not list"):
        artifacts.check_files(copy, manifest)


def test_other_folders_and_newer_formats_are_told(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="was not written by quantwright"):
        load(tmp_path / "empty")
    manifest = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**manifest, "quantwright": {"format": 99, "version": "9.0"}}))
    with pytest.raises(ArtifactError, match=r"format 99, written by quantwright 9.0.*\n.*allowed: up to format 1"):
        load(copy)
    (copy / MANIFEST).write_text("[1]")
    with pytest.raises(ArtifactError, match="not a manifest"):
        load(copy)


# -- full disk --------------------------------------------------------------------------------------------------
LIMITED = """
import resource, sys
from pathlib import Path
import torch, quantwright
from quantwright import tensorfile
from quantwright.errors import ArtifactError
from quantwright.report.folder import published
folder, limit, what = sys.argv[1:]
model = quantwright.load(folder)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    if what == "save":
        model.save(folder)
    else:
        with published(folder) as temporary:
            tensorfile.write(temporary / "model.safetensors", {"w": torch.zeros(50_000)})
except ArtifactError as error:
    print(f"refused: {error}")
"""


@pytest.mark.parametrize("what", ["save", "tensors"])
def test_a_full_disk_leaves_nothing_and_keeps_what_was_there(what: str, copy: Path) -> None:
    """The kernel refuses to write more than some bytes to a file, as a full disk would."""
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    limit = 2_000
    assert len(before["graph.json"]) > limit
    arguments = [sys.executable, "-c", LIMITED, str(copy), str(limit), what]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.startswith(f"refused: {copy}: cannot write "), done.stderr
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before
    assert [path.name for path in copy.parent.iterdir()] == ["out"]


def test_files_are_readable_by_others_as_the_umask_says(saved: tuple[Path, PreparedModel, Tensor]) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in saved[0].iterdir()} == {
        path.name: oct(0o666 & ~umask) for path in saved[0].iterdir()
    }
