"""MODEL and DATA references: what they give, and what is said when they cannot be used."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from quantwright.errors import DataError, ModelError
from quantwright.graph.graph import Graph
from quantwright.loading import reference
from quantwright.loading.images import ImageOptions, read_image
from quantwright.loading.model import input_names, load_model
from quantwright.loading.source import load_data

CODE = """
import torch
from torch import nn
from helper_{tag} import WIDTH

network = nn.Linear(WIDTH, 2)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.drop = nn.Dropout()
    def forward(self, x, scale=None):
        return self.fc(x)

def factory():
    return Net()

def needs(argument):
    return Net()

def broken():
    weights = {{}}
    return weights["missing"]

def returns_class():
    return Net

def returns_text():
    return "net"

def generator():
    for i in range(3):
        yield torch.full((2, 4), float(i))

def batches():
    return [(torch.ones(2, 4), torch.tensor([0, 1])), (torch.zeros(1, 4), torch.tensor([1]))]

def one_tensor():
    return torch.ones(2, 4)

def fails_later():
    yield torch.ones(2, 4)
    raise OSError("the disk went away")

def numpy_batches():
    import numpy as np
    return [np.ones((2, 4), np.float32)]

used_up = iter([torch.ones(2, 4)])
"""


KINDS = ["npy", "npz", "packed", "safetensors"]


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(CODE.splitlines(), 1) if text in line)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    tag = str(abs(hash(tmp_path)))
    (tmp_path / f"helper_{tag}.py").write_text("WIDTH = 4\n")
    path = tmp_path / f"user_{tag}.py"
    path.write_text(CODE.format(tag=tag))
    return path


# -- models -----------------------------------------------------------------------------------------------------
def test_a_factory_a_class_and_an_instance_are_models(code: Path) -> None:
    for name in ("factory", "Net", "network"):
        model = load_model(f"{code}:{name}")
        assert isinstance(model, nn.Module) and not model.training
    assert input_names(load_model(f"{code}:factory")) == ("x", "scale")
    assert type(load_model(f"{code}:factory")) is type(load_model(f"{code}:Net"))  # the file is imported once


def test_types_are_called_after_the_file(code: Path) -> None:
    assert type(load_model(f"{code}:factory")).__module__ == code.stem


def test_a_file_named_like_an_installed_module_does_not_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text("from torch import nn\ndef factory():\n    return nn.Identity()\n")
    model = load_model(f"{path}:factory")
    import json

    assert isinstance(model, nn.Identity) and json.loads("1") == 1


def test_a_module_reference_sees_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mypackage_x").mkdir()
    (tmp_path / "mypackage_x" / "__init__.py").write_text("")
    (tmp_path / "mypackage_x" / "nets.py").write_text("import torch\nclass A:\n    net = torch.nn.Linear(2, 2)\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("mypackage_x.nets:A.net"), nn.Linear)
    with pytest.raises(ModelError, match="there is no module 'mypackage_x.nests'"):
        load_model("mypackage_x.nests:A.net")


@pytest.mark.parametrize(
    ("ref", "says"),
    [
        ("factry", ["there is no 'factry' in it", "did you mean 'factory'"]),
        ("needs", ["cannot be called without arguments", "argument"]),
        ("broken", ["KeyError: 'missing'", f".py:{line_of('weights[')}: ", 'return weights["missing"]']),
        ("returns_class", ["returns the class Net"]),
        ("returns_text", ["returns a str", "torch.nn.Module"]),
    ],
)
def test_a_wrong_factory_is_explained(code: Path, ref: str, says: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        load_model(f"{code}:{ref}")
    for text in says:
        assert text in str(caught.value)


def test_a_missing_or_broken_file_is_explained(code: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"did you mean '.*{code.name}'"):
        load_model(f"{code.with_name(code.stem[:-1] + '.py')}:factory")
    with pytest.raises(ModelError, match="the folder .* does not exist"):
        load_model(f"{tmp_path}/nowhere/m.py:factory")
    with pytest.raises(ModelError, match="names no object inside the file"):
        load_model(str(code))
    broken = tmp_path / "broken.py"
    broken.write_text("def factory(:\n")
    with pytest.raises(ModelError, match=r"broken.py:1: this is not valid Python"):
        load_model(f"{broken}:factory")
    raising = tmp_path / "raising.py"
    raising.write_text("x = 1\ny = x / 0\ndef factory():\n    return 1\n")
    with pytest.raises(ModelError, match=r"raising.py:2: importing .* failed: ZeroDivisionError"):
        load_model(f"{raising}:factory")
    leaving = tmp_path / "leaving.py"
    leaving.write_text("import sys\ndef factory():\n    sys.exit(3)\n")
    with pytest.raises(ModelError, match=r"leaving.py:3: .*SystemExit"):
        load_model(f"{leaving}:factory")
    with pytest.raises(ModelError, match="there is no module 'weights/net'"):
        load_model("weights/net:pth")


def test_looking_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "side_effect.py"
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef factory():\n    return 1\n")
    reference.look(f"{path}:factory", what="model", error=ModelError)
    with pytest.raises(ModelError):
        reference.look(f"{path}:factori", what="model", error=ModelError)
    assert not (tmp_path / "ran").exists()


def test_names_that_only_appear_at_run_time_are_not_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "late.py"
    path.write_text("from torch import nn\nglobals()['factory'] = nn.Identity\n")
    assert isinstance(load_model(f"{path}:factory"), nn.Identity)


def test_an_archive_becomes_a_graph(tmp_path: Path) -> None:
    x = torch.randn(2, 4)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval()
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "net.pt2")
    graph = load_model(str(tmp_path / "net.pt2"))
    assert isinstance(graph, Graph)
    torch.testing.assert_close(graph(x), model(x))
    (tmp_path / "cut.pt2").write_bytes((tmp_path / "net.pt2").read_bytes()[:500])
    with pytest.raises(ModelError, match="cut.pt2"):
        load_model(str(tmp_path / "cut.pt2"))
    with pytest.raises(ModelError, match="no such file"):
        load_model(str(tmp_path / "none.pt2"))


# -- data from code ---------------------------------------------------------------------------------------------
def test_a_factory_gives_batches_again_and_again(code: Path) -> None:
    source = load_data(f"{code}:generator")
    first = [batch.args[0][0, 0].item() for batch in source]
    assert first == [batch.args[0][0, 0].item() for batch in source] == [0, 1, 2]
    assert [len(list(source.take(2))) for _ in range(2)] == [2, 2]
    labelled = list(load_data(f"{code}:batches"))
    assert labelled[0].labels is not None and labelled[0].labels.tolist() == [0, 1]
    assert load_data(f"{code}:batches").length == 2
    assert torch.equal(next(iter(load_data(f"{code}:numpy_batches"))).args[0], torch.ones(2, 4))


def test_a_data_loader_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = TensorDataset(torch.randn(5, 4), torch.arange(5))
    monkeypatch.setitem(reference.sys.modules, "loader_module", type("M", (), {"data": DataLoader(dataset, 2)}))
    monkeypatch.setattr(reference, "_require_module", lambda *_: None)
    batches = list(load_data("loader_module:data"))
    assert [batch.size for batch in batches] == [2, 2, 1] and batches[2].labels is not None


def test_wrong_data_code_is_explained(code: Path) -> None:
    with pytest.raises(DataError, match="one Tensor, not an iterable of batches"):
        load_data(f"{code}:one_tensor")
    line = line_of("raise OSError")
    with pytest.raises(DataError, match=rf"\.py:{line}: .*failed giving its batches: OSError: the disk went away"):
        list(load_data(f"{code}:fails_later"))
    source = load_data(f"{code}:used_up")
    assert len(list(source)) == 1
    with pytest.raises(DataError, match="iterator that is used up"):
        list(source)


# -- arrays -----------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=25)
@given(samples=st.integers(1, 17), size=st.integers(1, 9), kind=st.sampled_from(KINDS))
def test_every_sample_comes_once_in_order(
    tmp_path_factory: pytest.TempPathFactory, samples: int, size: int, kind: str
) -> None:
    path = tmp_path_factory.mktemp("arrays") / ("a." + kind.replace("packed", "npz"))
    x = np.random.default_rng(samples).normal(size=(samples, 2, 3)).astype(np.float32)
    if kind == "npy":
        np.save(path, x)
    elif kind == "safetensors":
        save_file({"x": torch.from_numpy(x)}, path)
    else:
        (np.savez if kind == "npz" else np.savez_compressed)(path, x=x, y=np.arange(samples))
    source = load_data(str(path), batch_size=size)
    batches = list(source)
    assert torch.equal(torch.cat([batch.args[0] for batch in batches]), torch.from_numpy(x))
    assert len(batches) == source.length == -(-samples // size) and source.samples == samples
    if kind in ("npz", "packed"):
        assert torch.cat([batch.labels for batch in batches]).tolist() == list(range(samples))


def test_a_stored_archive_is_mapped_not_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "big.npz", x=np.ones((64, 1024, 64), np.float32))
    source = load_data(str(tmp_path / "big.npz"), batch_size=1)
    import tracemalloc

    tracemalloc.start()
    next(iter(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20  # the whole array is 16 MiB


def test_layouts_orders_and_endianness_do_not_matter(tmp_path: Path) -> None:
    x = np.arange(24, dtype=">f4").reshape(4, 6)
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(x))
    np.save(tmp_path / "b.npy", x)
    for name in ("a.npz", "b.npy"):
        got = torch.cat([batch.args[0] for batch in load_data(str(tmp_path / name), batch_size=3)])
        assert got.tolist() == x.tolist()


def test_the_first_array_serves_when_there_is_no_x_and_names_feed_several_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=np.ones((3, 2)), other=np.zeros((3, 2)))
    source = load_data(str(tmp_path / "a.npz"))
    assert next(iter(source)).args[0].dtype == torch.float32
    assert any("used array 'images'" in note for note in source.notes)
    assert any("float64" in note for note in source.notes)
    batch = next(iter(load_data(str(tmp_path / "a.npz"), parameters=("images", "other"))))
    assert set(batch.kwargs) == {"images", "other"} and batch.args == ()


def _objects() -> np.ndarray:
    return np.array([{"a": 1}, None], dtype=object)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((0, 3), np.float32)}, "is empty"),
        ({"x": np.float32(3)}, "is one number"),
        ({"x": np.zeros((2, 3), np.uint8)}, "uint8: raw pixels"),
        ({"x": np.zeros((2, 3), np.complex64)}, "complex64"),
        ({"x": np.array(["a", "b"])}, "dtype <U1"),
        ({"x": _objects()}, "Python objects"),
        ({"y": np.zeros(3, np.int64)}, "labels 'y' but no inputs"),
        ({"x": np.zeros((3, 2), np.float32), "y": np.zeros(2, np.int64)}, "3 inputs but 2 labels"),
        ({"x": np.zeros((3, 2), np.float32), "y": np.zeros(3, np.float32)}, "labels 'y' have dtype float32"),
        ({"x": np.zeros((3, 2), np.float32), "y": np.zeros((3, 5), np.int64)}, "argmax"),
    ],
)
def test_wrong_arrays_are_refused_when_opened(tmp_path: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=says):
        load_data(str(tmp_path / "a.npz"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_the_sample(tmp_path: Path, bad: float) -> None:
    x = np.ones((7, 5), np.float32)
    x[5, 2] = bad
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(DataError, match=r"a.npy, batch 1: NaN/Inf in the data: sample 1 "):
        list(load_data(str(tmp_path / "a.npy"), batch_size=4))


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "p.npz", "a.safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(tmp_path: Path, name: str, keep: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", x=x)
    np.savez_compressed(tmp_path / "p.npz", x=x)
    save_file({"x": torch.from_numpy(x)}, tmp_path / "a.safetensors")
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(DataError, match=r"cannot be read as .*\n.*truncated"):
        list(load_data(str(path)))


def test_an_archive_whose_member_is_cut_inside_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((10, 10), np.float32))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        content = archive.read("x.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", content[:-50])
    with pytest.raises(DataError, match="shorter than its header says"):
        load_data(str(tmp_path / "b.npz"))


# -- images -----------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from PIL import Image

    random = np.random.default_rng(0)
    for kind, size in (("cat", (20, 30)), ("dog", (40, 24))):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for index in range(3):
            pixels = random.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / kind / f"{index}.png")
    return tmp_path / "images"


def test_a_folder_per_class_gives_labels_in_sorted_order(folder: Path) -> None:
    options = ImageOptions(resize=18, crop=16, mean=(0.5, 0.4, 0.3), std=(0.2,))
    source = load_data(str(folder), batch_size=4, images=options)
    batches = list(source)
    assert [tuple(batch.args[0].shape) for batch in batches] == [(4, 3, 16, 16), (2, 3, 16, 16)]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    assert source.samples == 6
    flat = load_data(str(folder / "cat"), images=options)
    assert next(iter(flat)).labels is None


def test_pixels_are_those_of_pillow(folder: Path) -> None:
    from PIL import Image

    path = folder / "cat" / "0.png"
    with Image.open(path) as image:
        want = torch.from_numpy(np.array(image)).float().permute(2, 0, 1)
    got = read_image(path, ImageOptions(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    torch.testing.assert_close(got, (want / 255 - mean[:, None, None]) / std[:, None, None])
    cropped = read_image(path, ImageOptions(crop=10))
    torch.testing.assert_close(cropped, want[:, 5:15, 10:20] / 255)
    assert read_image(path, ImageOptions(grayscale=True)).shape == (1, 20, 30)
    assert read_image(path, ImageOptions(resize=10)).shape == (3, 10, 15)


def test_unusable_images_are_explained(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"differ in size: .*\n.*--resize"):
        list(load_data(str(folder)))
    with pytest.raises(DataError, match="smaller than the crop of 32"):
        list(load_data(str(folder), images=ImageOptions(crop=32)))
    (folder / "cat" / "1.png").write_bytes((folder / "cat" / "1.png").read_bytes()[:200])
    with pytest.raises(DataError, match=r"cat/1.png: not a readable image"):
        list(load_data(str(folder), images=ImageOptions(resize=8, crop=8)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in the folder"):
        load_data(str(tmp_path / "empty"))
    (folder / "stray.png").write_bytes(b"")
    with pytest.raises(DataError, match="beside 2 class folders"):
        load_data(str(folder))
