"""The public face: prepare, load, and a PreparedModel that can also verify, export and save itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from torch import nn

from quantwright import artifacts, registry
from quantwright.api_modules import PreparedModules, load_modules, prepare_modules
from quantwright.config.availability import missing
from quantwright.config.callsite import placed
from quantwright.config.config import QuantConfig, Step
from quantwright.config.document import HasDocument
from quantwright.config.load import load_config
from quantwright.data import Batch, as_batch, as_batches, forward_parameters
from quantwright.errors import InputError, did_you_mean
from quantwright.graph.capture import capture as capture_graph
from quantwright.graph.graph import Graph
from quantwright.passes import Change
from quantwright.plan.available import require_available
from quantwright.plan.plan import Plan
from quantwright.plan.resolve import resolve
from quantwright.prepare import PreparedModel as Engine
from quantwright.stages import Stages
from quantwright.targets import Target
from quantwright.verify import integer
from quantwright.verify.integer import DumpRecord, IntegerReport
from quantwright.verify.verify import Verdict, verify

Config = QuantConfig | Mapping[str, Any] | str | Path | HasDocument
Capture = Literal["graph", "modules"]
CAPTURES = ("graph", "modules")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Returns everything that is known before the first quantizer is inserted."""

    graph: Graph
    plan: Plan
    config: QuantConfig
    target: Target
    example: Batch
    changes: tuple[Change, ...]


class PreparedModel(Stages, Engine):
    """Returns a captured graph with a quantizer at every point of its plan: calibrate, refine, verify, export, save."""

    def export(self, path: str | Path, *, exporter: str = "onnx", **options: Any) -> Any:
        """Returns the record of an export that was written, checked and run before it got its name."""
        self.require_calibrated("export")
        return registry.load("exporters", exporter)(self, Path(path), **options)

    def verify(self, path: str | Path, batches: Iterable[Any] | None = None, **options: Any) -> Verdict:
        """Returns how far float, simulated and the file ``path`` agree on ``batches`` (default: the example)."""
        self.require_calibrated("verify")
        given = [self.example] if batches is None else as_batches(batches, self.input_names)
        return verify(self, Path(path), given, **options)

    def verify_integer(self, batches: Iterable[Any] | None = None, **options: Any) -> IntegerReport:
        """Returns how the simulation compares with the plan executed on integers (default: on the example).

        Args:
            options: see ``verify.integer.check``; ``file``: an exported file to compare as well.
        """
        return integer.check(self, self._given("verify_integer", batches), **options)

    def dump(self, folder: str | Path, batches: Iterable[Any] | None = None, **options: Any) -> DumpRecord:
        """Returns the record of the golden vectors it wrote: integer parameters, and activations of ``batches``.

        Args:
            options: see ``verify.integer.vectors``: ``format``, ``limit``, ``floats``.
        """
        return integer.dump(self, self._given("dump", batches), folder, **options)

    def _given(self, call: str, batches: Iterable[Any] | None) -> Iterable[Batch]:
        """Returns batches, or the example without any, once the model is calibrated."""
        self.require_calibrated(call)
        return [self.example] if batches is None else as_batches(batches, self.input_names)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Returns the folder it wrote: enough for ``load`` to give bit-equal outputs."""
        self.require_calibrated("save")
        return artifacts.save(self, Path(folder), overwrite=overwrite)


def decide(
    model: nn.Module | Graph,
    config: Config,
    example_inputs: Any,
    *,
    target: str | None = None,
    dialect: str = "auto",
    device: str = "cpu",
) -> Decided:
    """Returns graph and plan: config read, model captured, passes run, every tensor decided."""
    read, chosen = _read(config, dialect, target)
    example = example_batch(model, example_inputs)
    graph = model if isinstance(model, Graph) else capture_graph(model, example.to(device), device=device)
    changes: list[Change] = []
    later = missing("passes")  # they are told about in the plan's warnings, and refused by ``prepare``
    for step in optimize_steps(read, chosen):
        if step.name not in later:
            changes.extend(registry.load("passes", step.name)(graph, **step.params))
    plan = resolve(read, graph.facts(), chosen)
    return Decided(graph=graph, plan=plan, config=read, target=chosen, example=example, changes=tuple(changes))


def optimize_steps(config: QuantConfig, target: Target) -> tuple[Step, ...]:
    """Returns the passes that run: the config's, or the target's where it says nothing."""
    return target.optimize if config.optimize is None else config.optimize


def decide_modules(
    model: nn.Module | Graph,
    config: Config,
    example_inputs: Any,
    *,
    target: str | None = None,
    dialect: str = "auto",
    device: str = "cpu",
) -> PreparedModules:
    """Returns a copy of the model with quantizers in its modules, not calibrated yet."""
    if isinstance(model, Graph):
        raise InputError("capture='modules' needs the modules, and this is a graph", fix="give the nn.Module itself")
    read, chosen = _read(config, dialect, target)
    return prepare_modules(model, read, chosen, example_batch(model, example_inputs), device=device)


def _read(config: Config, dialect: str, target: str | None) -> tuple[QuantConfig, Target]:
    read = placed(load_config(config, dialect=dialect, target=target))
    return read, registry.load("targets", read.target or "generic")


@overload
def prepare(
    model: nn.Module | Graph, config: Config, example_inputs: Any, *, target: str | None = None, dialect: str = "auto",
    device: str = "cpu", capture: Literal["graph"] = "graph", compile: bool = False,
) -> PreparedModel: ...  # fmt: skip


@overload
def prepare(
    model: nn.Module, config: Config, example_inputs: Any, *, target: str | None = None, dialect: str = "auto",
    device: str = "cpu", capture: Literal["modules"],
) -> PreparedModules: ...  # fmt: skip


@overload
def prepare(
    model: nn.Module | Graph, config: Config, example_inputs: Any, *, target: str | None = None, dialect: str = "auto",
    device: str = "cpu", capture: Capture, compile: bool = False,
) -> PreparedModel | PreparedModules: ...  # fmt: skip


def prepare(
    model: nn.Module | Graph,
    config: Config,
    example_inputs: Any,
    *,
    target: str | None = None,
    dialect: str = "auto",
    device: str = "cpu",
    capture: Capture = "graph",
    compile: bool = False,
) -> PreparedModel | PreparedModules:
    """Returns the model with a quantizer at every point the config asks for; the user's model is not changed.

    Args:
        model: an nn.Module, or a Graph from ``graph.capture`` (which is then owned by the result).
        config: a path, a dict, the name of a preset, or a QuantConfig.
        example_inputs: one batch: a tensor, a tuple or dict of inputs, or (inputs, labels).
        target: overrides the config's target.
        capture: ``graph``: every operation is seen, and the result can be exported. ``modules``: for what cannot be
            captured as a graph; a copy of the model of the user's own class, quantized in its modules only.
        compile: simulated runs are compiled by torch.compile at the first run of every input shape; same values.

    Raises:
        ConfigError: every problem of the configuration at once. CaptureError: the model cannot be captured.
    """
    if capture not in CAPTURES:
        raise InputError(f"capture='{capture}'", allowed=CAPTURES, fix=did_you_mean(capture, CAPTURES))
    if capture == "modules":
        if compile:
            raise InputError("compile=True needs a graph", where="capture='modules'", fix="use capture='graph'")
        return decide_modules(model, config, example_inputs, target=target, dialect=dialect, device=device)
    decided = decide(model, config, example_inputs, target=target, dialect=dialect, device=device)
    require_available(decided.config, decided.plan, optimize_steps(decided.config, decided.target))
    prepared = PreparedModel(
        decided.graph, decided.plan, decided.config, decided.target, decided.example.to(device), list(decided.changes)
    )
    if compile:
        prepared.compile()
    return prepared


@overload
def load(folder: str | Path) -> PreparedModel: ...


@overload
def load(folder: str | Path, *, model: nn.Module) -> PreparedModules: ...


def load(folder: str | Path, *, model: nn.Module | None = None) -> PreparedModel | PreparedModules:
    """Returns the model saved in ``folder``; its outputs are bit-equal to those of the one that was saved.

    Args:
        model: for a folder saved with capture="modules": the user's model, of the same structure; its weights are
            replaced in a copy.
    """
    if model is not None:
        return load_modules(Path(folder), model)
    return artifacts.load(Path(folder), build=PreparedModel)


def example_batch(model: nn.Module | Graph, example_inputs: Any) -> Batch:
    """Returns the example as a Batch, its labels dropped."""
    names = tuple(model.input_names) if isinstance(model, Graph) else forward_parameters(model)
    batch = as_batch(example_inputs, names)
    return Batch(args=batch.args, kwargs=batch.kwargs)
