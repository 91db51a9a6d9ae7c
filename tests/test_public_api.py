"""The public names: exactly the documented ones, documented, and light until they are used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest
from conftest import ROOT

import quantwright
from quantwright import errors

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FUNCTIONS = {"load_config", "prepare", "quantize", "load", "observe", "fake_quantize", "translate"}
CLASSES = {"PreparedModel", "QuantConfig", "QuantSpec", "Plan", "QParams"}
ERRORS = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, errors.QuantwrightError)}


def python(code: str) -> str:
    """Returns what a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_names_are_the_documented_ones() -> None:
    assert set(quantwright.__all__) == FUNCTIONS | CLASSES | ERRORS
    assert len(quantwright.__all__) == len(set(quantwright.__all__))
    assert set(quantwright.__all__) <= set(dir(quantwright))


def test_every_name_is_mentioned_in_the_readme_or_the_error_tree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in quantwright.__all__ if name not in readme and name not in (errors.__doc__ or "")]
    assert missing == []


@pytest.mark.parametrize("name", sorted(FUNCTIONS | CLASSES | ERRORS))
def test_every_name_is_there_and_documented(name: str) -> None:
    value = getattr(quantwright, name)
    assert inspect.getdoc(value)
    assert inspect.isclass(value) == (name not in FUNCTIONS)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_fully_annotated(name: str) -> None:
    signature = inspect.signature(getattr(quantwright, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_the_methods_of_a_prepared_model() -> None:
    for method in ("calibrate", "refine", "verify", "export", "save"):
        assert inspect.getdoc(getattr(quantwright.PreparedModel, method))


def test_importing_the_package_imports_none_of_it() -> None:
    loaded = python("import sys, quantwright; print(sorted(m for m in sys.modules if m.startswith('quantwright.')))")
    assert loaded == "[]"


def test_reading_a_config_imports_no_torch() -> None:
    code = "import sys, quantwright as q; q.load_config, q.QuantConfig, q.Plan; print('torch' in sys.modules)"
    assert python(code) == "False"


def test_prepare_stays_the_function_after_its_module_is_imported() -> None:
    code = "import inspect, quantwright, quantwright.prepare; print(inspect.isfunction(quantwright.prepare))"
    assert python(code) == "True"
    code = "from quantwright.prepare import insert; from quantwright import prepare; print(prepare.__name__)"
    assert python(code) == "prepare"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        quantwright.quantise  # noqa: B018


def test_the_version_is_the_one_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert quantwright.__version__ == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_package_is_typed() -> None:
    assert (ROOT / "src" / "quantwright" / "py.typed").exists()
