"""What a strategy of vai_q_tensorflow2 means here: specs, rules, steps and calibration of a QuantConfig."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from quantwright.config.config import Calibration, Match, QuantConfig, RoleSpecs, Rule, Source
from quantwright.config.spec import QuantSpec, Role
from quantwright.dialects._tf2_handy import Handy
from quantwright.dialects._tf2_layers import Entry, Target
from quantwright.dialects._tf2_names import CLASSES, FLOATS, INTEGERS, RELUS, TOOL, functions_of
from quantwright.dialects._tf2_params import Quantizer, Tf2Reader
from quantwright.dialects._tf2_patterns import pattern_rules
from quantwright.dialects._tf2_read import Strategy
from quantwright.dialects._tf2_spec import FLOAT, Spec, spec_of
from quantwright.dialects._tf2_steps import optimize_steps, refine_steps
from quantwright.targets import Handling

TARGETS = {"pof2s": "vitis_keras_dpu", "pof2s_tqt": "vitis_keras_dpu", "fs": "vitis_keras_fs", "fsx": "vitis_keras_fsx",
           "gpu": "vitis_keras_fsx", "bfp": "vitis_keras_bfp"}  # fmt: skip
_FUSED = ("Activation", "ReLU", "LeakyReLU")  # what may be quantized in place of the layer before it
Specs = dict[Role, Spec]


def to_config(reader: Tf2Reader, strategy: Strategy, handlings: Mapping[str, Handling]) -> QuantConfig | None:
    """Returns the config that says what the tool would do, None after problems; notes are in the reader.

    Args:
        handlings: kind -> what the target of the strategy does with it.
    """
    handy = Handy(reader, strategy)
    made = _Rules(reader, strategy, handy, handlings)
    made.layer_rules()
    made.relu_rule()
    made.norm_rule()
    rules = (*made.rules, *pattern_rules(reader, strategy.patterns, made.target_spec, handlings), *made.named_rules())
    handy.note_unused()
    _note_user(reader, strategy)
    converted = _converted(strategy)
    optimize, refine = optimize_steps(reader, strategy), refine_steps(reader, strategy)
    if reader.problems.items:
        return None
    return QuantConfig(
        target=TARGETS[strategy.name],
        default=converted or made.default,
        default_sources={} if converted else made.default_sources,
        rules=() if converted else rules,
        optimize=optimize,
        refine=() if converted else refine,
        calibration=_calibration(made.default),
        dialect=TOOL,
        source=reader.source((), TOOL),
        notes=tuple(reader.notes),
    )


def _converted(strategy: Strategy) -> RoleSpecs | None:
    """Returns the specs of a network that is only cast to another type (1.2 ``convert_datatype``)."""
    word = strategy.value("convert_datatype")
    if not word:
        return None
    cast = QuantSpec(format=FLOATS[word])
    return RoleSpecs(weight=cast, bias=cast, input=cast, output=cast)


def _calibration(default: RoleSpecs) -> Calibration:
    """Returns how batches are fed (1.3, 4.4): parameters are quantized, positions of values are those of each batch."""
    seen = [spec for spec in (default.input, default.output) if spec is not None and spec.observer is not None]
    by_batch = any(spec.statistic in ("modal", "last") for spec in seen)
    return Calibration(inputs="quantized", batch_qparams="batch" if by_batch else "running", modal_ties="first")


class _Rules:
    """Returns the default specs of a strategy, and a rule for every class of layers that differs from them."""

    def __init__(self, reader: Tf2Reader, strategy: Strategy, handy: Handy, handlings: Mapping[str, Handling]) -> None:
        self.reader, self.strategy, self.handy, self.handlings = reader, strategy, handy, handlings
        self.rules: list[Rule] = []
        base = Strategy.built_in(strategy.name)
        self.specs = self._defaults(base)
        self.default = RoleSpecs(**{role: spec for role, (spec, _) in self.specs.items()})
        self.default_sources = _sources(self.specs)

    def _defaults(self, base: Strategy) -> Specs:
        """Returns the specs by role: those of a convolution, and of what is quantized in front of a layer."""
        found = self._of_entry(base.layers["Conv2D"])
        read = self.strategy.input_quantizer
        spec = None if read is None else self.target_spec("input", "input", read)
        if self.strategy.name == "bfp":
            spec = found.get("input")  # the network's own inputs are float32: what is quantized is what a layer reads
        if spec is not None:
            found["input"] = spec
            found.setdefault("output", spec)
        for role in ("weight", "bias", "input", "output"):
            place = Source(kind="dialect", text=f"{TOOL} {base.name}: no quantizer for it")
            found.setdefault(role, (FLOAT, {"format": place}))
        return found

    def target_spec(self, kind: str, role: Role, quantizer: Quantizer, layer: str = "") -> Spec | None:
        """Returns the spec of a quantizer under the handy keys."""
        return spec_of(self.reader, self.handy.over(kind, quantizer), role, layer)

    def _of_entry(self, entry: Entry) -> Specs:
        """Returns the specs of an entry by role; of several quantizers with one role the first counts."""
        found: Specs = {}
        for target in entry.targets:
            spec = None if target.quantizer is None else self.target_spec(
                target.kind, target.role, target.quantizer, entry.layer)  # fmt: skip
            if spec is None:
                continue
            if target.role in found:
                self._note_second(target, found[target.role], spec)
                continue
            found[target.role] = spec
        return found

    def _note_second(self, target: Target, first: Spec, spec: Spec) -> None:
        if first[0] != spec[0]:
            text = f"'{target.name}' is quantized like the other {target.role} of this layer, whose spec differs"
            self.reader.note("second", target.path, text)

    # -- classes ----------------------------------------------------------------------------------------------------
    def layer_rules(self) -> None:
        """Adds a rule for every class whose quantizers are not the default ones, in the order of ``CLASSES``."""
        order = {name: number for number, name in enumerate(CLASSES)}
        outputs = False
        for entry in sorted(self.strategy.layers.values(), key=lambda e: order.get(e.layer, -1)):
            if entry.layer in ("VitisSoftmax", "VitisLayernorm") and not self._converts(entry.layer):
                continue
            specs = self._of_entry(entry)
            wanted = self._wanted(entry, specs)
            if entry.path is None:
                again = outputs and entry.layer in _FUSED
                wanted = {
                    role: spec
                    for role, spec in wanted.items()
                    if spec[0] != self.specs[role][0] or (again and role == "output")
                }
            rule = self._rule(entry, wanted)
            if rule is not None:
                self.rules.append(rule)
                outputs = outputs or (rule.output is not None and entry.layer not in _FUSED)

    def _converts(self, layer: str) -> bool:
        key = {"VitisSoftmax": "convert_softmax_to_dpu_version", "VitisLayernorm": "convert_layernorm_to_dpu_version"}
        return bool(self.strategy.value(key[layer])) or self.strategy.layers[layer].path is not None

    def _wanted(self, entry: Entry, specs: Specs) -> Specs:
        """Returns the specs of an entry's rule: what a user's entry does not list is not quantized (2.3)."""
        if entry.path is None:
            return specs
        known = CLASSES.get(entry.layer)
        places = [self.handlings.get(kind, "float") for kind in known.kinds] if known else []
        has = {"weight": bool(known and known.weight), "bias": bool(known and known.bias),
               "output": any(place == "compute" for place in places)}  # fmt: skip
        left = Source(kind="dialect", text=f"{TOOL}: the entry for {entry.layer} has no quantizer for it")
        found = dict(specs)
        for role in ("weight", "bias", "output"):
            if has[role] and role not in found and self.specs[role][0] != FLOAT:
                found[role] = (FLOAT, {"format": left})
        return found

    def _rule(self, entry: Entry, specs: Specs) -> Rule | None:
        known = CLASSES.get(entry.layer)
        quantized = {role: spec for role, spec in specs.items() if spec[0] != FLOAT}
        includes = self._includes(entry, quantized)
        if not specs and (entry.path is None or entry.targets or known is None):
            return None
        if known is None:
            last = entry.layer.rpartition(".")[2]
            match = Match(type=entry.layer if last == entry.layer else f"{entry.layer}|{last}")
        else:
            match = Match(function=functions_of(known.kinds))
        source = Source(kind="dialect", text=f"{TOOL} {self.strategy.name}: {entry.layer}")
        if entry.path is not None:
            source = self.reader.source(entry.path, f"layer type {entry.layer}")
        return Rule(
            match=match,
            include=includes,
            exclude=not entry.targets and entry.path is not None,
            if_unmatched="ignore" if entry.path is None else "warn",
            source=source,
            field_sources=_sources(specs),
            **({role: spec for role, (spec, _) in specs.items()} if entry.targets else {}),
        )

    def _includes(self, entry: Entry, quantized: Iterable[Role]) -> bool:
        """Returns whether the target would leave float what the entry quantizes."""
        known = CLASSES.get(entry.layer)
        roles = list(quantized)
        if not roles:
            return False
        places = [self.handlings.get(kind, "float") for kind in known.kinds] if known else ["float"]
        if "output" in roles and "consume" in places:
            return True
        return all(place == "float" for place in places)

    def relu_rule(self) -> None:
        """Adds the rule that makes outputs of ReLUs unsigned: the only symmetric ones that the key changes (2.3)."""
        setting = self.strategy.user.get("activation_unsigned")
        spec, _ = self.specs["output"]
        if setting is None or not setting.value or not spec.is_integer or spec.symmetric is not True:
            return
        entries = [self.strategy.layers.get(name) for name in ("ReLU", "Activation")]
        found = [self._of_entry(entry).get("output") for entry in entries if entry is not None]
        relu = next((item for item in found if item is not None), None)
        if relu is None or relu[0].symmetric is not True or not relu[0].is_integer:
            return
        text = f"{TOOL}: an unsigned grid for what follows a ReLU"
        source = self.reader.where(setting, text)
        unsigned = QuantSpec(format=f"uint{relu[0].bits}", narrow_range=False)
        self.rules.append(
            Rule(
                match=Match(function=functions_of(RELUS)),
                output=unsigned,
                if_unmatched="warn",
                source=source,
                field_sources={"output.format": source, "output.narrow_range": source},
            )
        )

    def norm_rule(self) -> None:
        """Adds the rule that leaves batch norms float: fsx and gpu quantize them as the convolutions they become."""
        if self.strategy.name not in ("fsx", "gpu") or self.strategy.value("convert_bn_to_dwconv"):
            return
        source = self.reader.where(self.strategy.settings["convert_bn_to_dwconv"], f"{TOOL}: batch norms stay")
        match = Match(function="kind:batch_norm")
        self.rules.insert(0, Rule(match=match, exclude=True, if_unmatched="ignore", source=source))

    # -- layers by name -----------------------------------------------------------------------------------------------
    def named_rules(self) -> list[Rule]:
        """Returns the rules of ``layer_config`` and ``ignore_layers``."""
        return [*self._layer_config(), *self._ignored()]

    def _layer_config(self) -> list[Rule]:
        setting = self.strategy.user.get("layer_config")
        if setting is None or setting.path is None:
            return []
        found = []
        for name, word in setting.value.items():
            source = self.reader.source((*setting.path, name), f"layer {name} in {word}")
            match = Match(name=_literal(name))
            if word in FLOATS and FLOATS[word] == "float32":
                found.append(Rule(match=match, exclude=True, source=source))
                continue
            spec = QuantSpec(format=INTEGERS.get(word) or FLOATS[word])
            roles: dict[str, QuantSpec] = {"weight": spec, "bias": spec, "output": spec}
            places = {f"{role}.format": source for role in roles}
            found.append(Rule(match=match, source=source, field_sources=places, **roles))
        return found

    def _ignored(self) -> list[Rule]:
        setting = self.strategy.user.get("ignore_layers")
        if setting is None or setting.path is None:
            return []
        return [
            Rule(
                match=Match(name=_literal(name)), exclude=True, if_unmatched="warn",
                source=self.reader.source(setting.path, f"ignore_layers: {name}"),
            )
            for name in setting.value
        ]  # fmt: skip


def _literal(name: str) -> str:
    """Returns the match that is this name and no glob, alternative or expression, whatever characters it has."""
    plain = not set("*?[|") & set(name) and name.partition(":")[0] not in ("re", "fx", "module")
    return name if plain else f"re:{re.escape(name)}"


def _sources(specs: Mapping[Role, Spec]) -> dict[str, Source]:
    return {f"{role}.{name}": place for role, (_, places) in specs.items() for name, place in places.items()}


def _note_user(reader: Tf2Reader, strategy: Strategy) -> None:
    """Notes what of the handy keys is not done."""
    for key in ("input_layers", "output_layers"):
        setting = strategy.user.get(key)
        if setting is not None and setting.value and setting.path is not None:
            effect = "layers outside are quantized too; name them in ignore_layers"
            reader.drop(setting.path, f"'{key}' cuts a part out of the network, which no rule can", effect)
    layers = strategy.input_layers
    if layers is not None and layers.value and layers.path is not None:
        effect = "inputs are quantized where the network begins"
        reader.drop(layers.path, "'input_layers' moves the quantizer of an input behind a layer", effect)
    setting = strategy.user.get("use_fixneuron_quant")
    if setting is not None and setting.value and setting.path is not None:
        reader.drop(
            setting.path, "FixNeuron is an operator of a plug-in of TensorFlow 1", "the same values are computed"
        )
