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

    @property
    def place(self) -> str:
        """Returns ``file:line`` as far as it is known."""
        return f"{self.file}:{self.line}" if self.file and self.line else (self.file or "")

    def __str__(self) -> str:
        place = f"({self.place})" if self.place else ""
        return " ".join(part for part in (self.text or self.kind, place) if part)


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


class Pattern(_Frozen):
    """Returns a place in the graph: what an operation must be, and what the operations it reads must be.

    Attributes:
        type, name, function: as in ``Match``; none of them is any operation.
        params: arguments of the operation by their name in torch (``kernel_size: 3``, ``inplace: true``). One number
            stands for equal numbers on every axis; text that begins with ``re:`` must match the value written as text.
        inputs: a pattern for every tensor it reads, in order; None when that does not matter. Pure data movement
            between them does not count, and an operation inside a pattern must have no other reader.
    """

    type: str | None = None
    name: str | None = None
    function: str | None = None
    params: dict[str, Any] = Field(default_factory=dict)
    inputs: tuple[Pattern, ...] | None = None

    def __str__(self) -> str:
        said = [f"{key} {getattr(self, key)}" for key in ("type", "name", "function") if getattr(self, key) is not None]
        said += [f"{key}={value}" for key, value in self.params.items()]
        text = ", ".join(said) or "any operation"
        if self.inputs is None:
            return text
        return f"{text} reading [{'; '.join(str(item) for item in self.inputs)}]"


class Match(_Frozen):
    """Returns which layers a rule is about; all given conditions must hold. Globs by default, ``re:`` for regex.

    Alternatives are separated by ``|`` (``Conv2d|Linear``), but not after ``re:``.

    Attributes:
        type: module type: ``torch.nn.Conv2d``, ``Conv2d`` or a glob.
        name: module path (``layer4.*``) or graph node name; a module path also matches everything inside it, but not
            after ``module:``.
        function: torch function, aten name or kind: ``torch.cat``, ``cat``, ``aten.cat``, ``add``, ``input``; after
            ``kind:`` the kind only (``kind:conv2d`` is no depthwise convolution).
        pattern: where in the graph; the operation must be the head of such a place.
        at: with a pattern, the operation inside it that the rule is about, as the way from the head through
            ``inputs``: "0" is the head's first input, "0.1" the second input of that one.
    """

    type: str | None = None
    name: str | None = None
    function: str | None = None
    pattern: Pattern | None = None
    at: str | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Match:
        if self.type is None and self.name is None and self.function is None and self.pattern is None:
            raise ValueError("a match needs type, name, function or pattern")
        if self.at is not None and (self.pattern is None or pattern_at(self.pattern, self.at) is None):
            raise ValueError(f"at '{self.at}' is no place in the pattern")
        return self

    def __str__(self) -> str:
        said = [f"{k} {getattr(self, k)}" for k in ("type", "name", "function") if getattr(self, k) is not None]
        said += [f"pattern {self.pattern}"] if self.pattern is not None else []
        return ", ".join(said) + (f" at {self.at}" if self.at is not None else "")


def pattern_at(pattern: Pattern, at: str) -> Pattern | None:
    """Returns the part of a pattern that ``at`` leads to ("" is the pattern itself), or None."""
    found: Pattern | None = pattern
    for step in at.split(".") if at else ():
        inputs = found.inputs if found is not None else None
        number = int(step) if step.isdecimal() and len(step) < 9 else None
        found = inputs[number] if inputs is not None and number is not None and number < len(inputs) else None
    return found


class Rule(RoleSpecs):
    """Returns one rule: which layers, and what changes for them.

    Attributes:
        match: which layers.
        exclude: leaves them float.
        include: quantizes them although the target leaves such operations float.
        share: the place in the match's pattern (as ``at``; "" is its head) whose output's grid their output uses.
        if_unmatched: what a rule is that matches or changes nothing: an ``error`` with near misses, a warning
            (``warn``), or nothing to tell (``ignore``: a default of a tool for one of many kinds of layers).
    """

    match: Match
    exclude: bool = False
    include: bool = False
    share: str | None = None
    if_unmatched: Literal["error", "warn", "ignore"] = "error"
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
        modal_ties: which of several equally frequent scales the statistic ``modal`` takes; ``first`` is the one that
            came first.
    """

    inputs: Literal["float", "quantized"] = "float"
    batch_qparams: Literal["running", "batch"] = "running"
    modal_ties: Literal["larger_scale", "smaller_scale", "first"] = "larger_scale"


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
    default_sources: dict[str, Source] = Field(default_factory=dict)  # "weight.format", "target", "refine[0]" -> where
    notes: tuple[str, ...] = ()  # what the reader accepted, corrected or found to be without effect


class Unmapped(_Frozen):
    """Returns something a reader or writer could not carry over, and what that means for the result."""

    path: str
    message: str
    effect: str = ""
    line: int | None = None
