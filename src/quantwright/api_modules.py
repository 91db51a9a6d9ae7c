"""capture="modules": the user's own model, quantized in its modules: prepare, calibrate, call, train, save, load."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from quantwright import artifacts_modules, registry
from quantwright.config.config import QuantConfig, Step
from quantwright.data import Batch
from quantwright.errors import ExportError, InputError
from quantwright.graph.modules import capture_modules
from quantwright.hooks import HookedModel
from quantwright.plan.available import require_available
from quantwright.plan.resolve import resolve
from quantwright.stages import Stages
from quantwright.targets import Target


class PreparedModules(Stages, HookedModel):
    """Returns a copy of the user's model with quantizers in its modules: calibrate, call, train, generate, save.

    There is no graph, so nothing that needs one: no passes, no algorithms, no export.
    """

    def export(self, path: str | Path, *, exporter: str = "onnx", **options: Any) -> Any:
        """Raises ExportError: a file is written from a graph."""
        del options
        raise no_export(exporter, path)

    def verify(self, path: str | Path, batches: Iterable[Any] | None = None, **options: Any) -> Any:
        """Raises ExportError: there is no file to compare with."""
        del batches, options
        raise ExportError(
            "capture='modules' exports nothing that could be compared", where=str(path),
            fix="compare with the float model: quantize(..., evaluate=True)",
        )  # fmt: skip

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Returns the folder it wrote: with the user's model enough for ``load`` to give bit-equal outputs."""
        self.require_calibrated("save")
        return artifacts_modules.save(self, Path(folder), overwrite=overwrite)


def prepare_modules(
    model: nn.Module, config: QuantConfig, target: Target, example: Batch, *, device: str = "cpu"
) -> PreparedModules:
    """Returns a copy of the model with a quantizer wherever the config asks for one and a module can apply it.

    Raises:
        InputError: the config asks for algorithms. ConfigError: every problem of the configuration at once.
        CaptureError: the model cannot be copied, fails on the example, or has no module that could be quantized.
    """
    config, left_out = without_adjustments(config)
    require_no_algorithms(config)
    captured = capture_modules(model, example, device=device)
    plan = resolve(config, captured.facts, target)
    require_available(config, plan, ())
    steps = target.optimize if config.optimize is None else config.optimize
    plan = replace(plan, notes=(*plan.notes, *not_applied((*steps, *left_out))))
    return PreparedModules(captured, plan, config, target, example.to(device), [])


def load_modules(folder: Path, model: nn.Module) -> PreparedModules:
    """Returns the model that was saved in ``folder``, made of a copy of ``model`` and the weights in the folder."""
    return artifacts_modules.load(folder, model, build=PreparedModules)


def without_adjustments(config: QuantConfig) -> tuple[QuantConfig, tuple[Step, ...]]:
    """Returns the config without the algorithms that are about a device's graph and need no data, and these."""
    known = registry.names("algorithms")
    left_out = tuple(
        step for step in config.refine if step.name in known and not registry.load("algorithms", step.name).needs_data
    )
    kept = tuple(step for step in config.refine if step not in left_out)
    return config.model_copy(update={"refine": kept}), left_out


def require_no_algorithms(config: QuantConfig) -> None:
    """Raises InputError for what the config's ``refine`` asks for: algorithms work on a graph."""
    if config.refine:
        names = ", ".join(step.name for step in config.refine)
        raise InputError(
            f"refine: {names} works on a graph, and capture='modules' has none",
            fix="leave out refine, or use capture='graph'",
        )


def not_applied(steps: Sequence[Step]) -> tuple[str, ...]:
    """Returns the notes about what is left out: passes and the export."""
    names = ", ".join(step.name for step in steps)
    passes = (f"capture='modules' does not apply what rewrites a graph: {names}",) if names else ()
    return (*passes, "capture='modules' has no graph: nothing can be exported")


def no_export(exporter: str, path: str | Path) -> ExportError:
    """Returns the error for whoever asks for a file."""
    return ExportError(
        f"{exporter} writes a graph, and capture='modules' has none", where=str(path),
        fix="prepare the model with capture='graph': what torch.export refuses in it is named there, with its line",
    )  # fmt: skip
