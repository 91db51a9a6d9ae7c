"""QuantConfig: what was asked. Rules in order, plain values, every value with the place it came from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from quantwright.config.spec import QuantSpec, Role


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Returns where a value came from: a file and line, a call site, or the implicit default of a tool."""

    kind: Literal["builtin", "target", "dialect", "file", "python", "cli"] = "python"
    text: str = ""  # "rule 2 (type torch.nn.Conv2d)", "vai_q_pytorch default for activation"
    file: str | None = None
    line: int | None = None
    path: str = ""  # JSON path inside the document

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else (self.file or "")
        return " ".join(part for part in (self.text or self.kind, f"({place})" if place else "") if part)


class RoleSpecs(_Frozen):
    """Returns one (partial) spec per role; ``activation`` means input and output at once."""

    weight: QuantSpec | None = None
    bias: QuantSpec | None = None
    input: QuantSpec | None = None
    output: QuantSpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _spread_activation(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("activation") is not None:
            value = dict(value)
            both = value.pop("activation")
            for role in ("input", "output"):
                if value.get(role) is None:
                    value[role] = both
                elif isinstance(both, dict) and isinstance(value[role], dict):
                    value[role] = {**both, **value[role]}
        return value

    def get(self, role: Role) -> QuantSpec | None:
        """Returns the spec of ``role`` or None."""
        spec: QuantSpec | None = getattr(self, role)
        return spec


class Match(_Frozen):
    """Returns which layers a rule is about; all given conditions must hold. Globs by default, ``re:`` for regex.

    Attributes:
        type: module type: ``torch.nn.Conv2d``, ``Conv2d`` or a glob.
        name: module path (``layer4.*``) or graph node name; a module path also matches everything inside it.
        function: torch function, aten name or kind: ``torch.cat``, ``cat``, ``aten.cat``, ``add``, ``input``.
    """

    type: str | None = None
    name: str | None = None
    function: str | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Match:
        if self.type is None and self.name is None and self.function is None:
            raise ValueError("a match needs type, name or function")
        return self

    def __str__(self) -> str:
        return ", ".join(f"{k} {v}" for k, v in self.model_dump(exclude_none=True).items())


class Rule(RoleSpecs):
    """Returns one rule: which layers, and what changes for them.

    Attributes:
        match: which layers.
        exclude: leaves them float.
        if_unmatched: what a rule is that matches nothing: an ``error`` with near misses, or a warning.
    """

    match: Match
    exclude: bool = False
    if_unmatched: Literal["error", "warn"] = "error"
    source: Source = Field(default_factory=Source)
    field_sources: dict[str, Source] = Field(default_factory=dict)  # "weight.format" -> where exactly


class Step(_Frozen):
    """Returns one entry of ``optimize`` or ``refine``: the plug-in's name and its parameters."""

    name: str
    params: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        if isinstance(value, dict) and len(value) == 1 and "name" not in value:
            name, params = next(iter(value.items()))
            return {"name": name, "params": params or {}}
        return value


class Calibration(_Frozen):
    """Returns how calibration feeds the network.

    Attributes:
        inputs: observe the ``float`` network, or a network whose earlier tensors are ``quantized`` already.
        batch_qparams: with quantized inputs, quantize a batch with the ``running`` statistic so far, or with what was
            found on this ``batch`` alone.
        modal_ties: which of several equally frequent scales the statistic ``modal`` takes.
    """

    inputs: Literal["float", "quantized"] = "float"
    batch_qparams: Literal["running", "batch"] = "running"
    modal_ties: Literal["larger_scale", "smaller_scale"] = "larger_scale"


class QuantConfig(_Frozen):
    """Returns everything that was asked for, independent of the tool whose file said it."""

    version: Literal[1] = 1
    target: str | None = None
    default: RoleSpecs = Field(default_factory=RoleSpecs)
    rules: tuple[Rule, ...] = ()
    optimize: tuple[Step, ...] | None = None  # None: what the target does by default
    refine: tuple[Step, ...] = ()
    calibration: Calibration | None = None
    dialect: str = "native"
    source: Source = Field(default_factory=Source)
    default_sources: dict[str, Source] = Field(default_factory=dict)  # "weight.format" -> where exactly
    notes: tuple[str, ...] = ()  # what the reader accepted, corrected or found to be without effect


class Unmapped(_Frozen):
    """Returns something a reader or writer could not carry over, and what that means for the result."""

    path: str
    message: str
    effect: str = ""
    line: int | None = None
