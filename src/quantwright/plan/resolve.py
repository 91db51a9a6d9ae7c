"""Resolve: config, model facts and target in, plan out. The only place that infers anything.

Stages, each in a file of its own: which nodes a rule is about (match), what is quantized together and whether
(groups), how a spec comes about (chain), weights and biases (parameters), activations (values, edges), what cannot be
done (checks).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quantwright.config import kinds
from quantwright.config.config import QuantConfig, Rule
from quantwright.config.spec import FLOAT_FORMATS, ROLES, Role
from quantwright.errors import Problem, Problems
from quantwright.plan.available import unavailable
from quantwright.plan.chain import Chains
from quantwright.plan.checks import Legality
from quantwright.plan.context import Context, is_cast, unique_labels
from quantwright.plan.edges import edges
from quantwright.plan.ends import Ends
from quantwright.plan.facts import ModelFacts, NodeFacts
from quantwright.plan.groups import form_groups
from quantwright.plan.match import Matches, match_rules, rule_problem
from quantwright.plan.parameters import Parameters
from quantwright.plan.plan import Plan
from quantwright.plan.values import Values
from quantwright.targets import Target


def resolve(config: QuantConfig, facts: ModelFacts, target: Target) -> Plan:
    """Returns what every tensor of the model gets, with the reason of every field.

    Raises:
        ConfigError: rules that match nothing or have no effect, and specs that the engine or the target cannot do;
            all of them at once.
    """
    matches = match_rules(config.rules, facts)
    context = _context(config, facts, target, matches)
    parameters, values = Parameters(context), Values(context)
    values.prepare()
    for node in facts.nodes:
        read = edges(context, node)
        parameters.weight(node)
        parameters.bias(node, read)
        parameters.constants(node)
        values.output(node)
    problems = Problems()
    without_effect, warnings = _without_effect(context)
    for problem in (*matches.problems, *without_effect, *context.legality.problems()):
        problems.add(problem)
    problems.raise_if_any()
    plan = Plan(
        model=facts.name,
        target=target.name,
        decisions=tuple(context.decisions),
        notes=(*config.notes, *context.notes),
        warnings=(*matches.warnings, *warnings),
    )
    steps = target.optimize if config.optimize is None else config.optimize
    later = tuple(problem.message for problem in unavailable(config, plan, steps))
    return replace(plan, warnings=(*plan.warnings, *later)) if later else plan


def _context(config: QuantConfig, facts: ModelFacts, target: Target, matches: Matches) -> Context:
    excluded, included = _excluded(config, matches)
    chains = Chains(config=config, target=target)
    cast = _cast_nodes(config, facts, target, matches, excluded, chains)
    chains.used.clear()
    return Context(
        config=config,
        facts=facts,
        target=target,
        matches=matches,
        excluded=excluded,
        included=included,
        chains=chains,
        groups=form_groups(
            facts, target, excluded, cast, _asked_outputs(config, matches), included,
            _reading_float(config, matches, chains),
        ),
        legality=Legality(target=target),
        labels=unique_labels(facts),
        ends=Ends.of(facts, target),
    )


def _excluded(config: QuantConfig, matches: Matches) -> tuple[dict[str, int], dict[str, int]]:
    """Returns which rule excludes and which includes a node; of both the later one counts."""
    excluded: dict[str, int] = {}
    included: dict[str, int] = {}
    for number, rule in enumerate(config.rules):
        if rule.exclude or rule.include:
            mine, other = (excluded, included) if rule.exclude else (included, excluded)
            for name in matches.of_rule[number]:
                other.pop(name, None)
                mine.setdefault(name, number)
    return excluded, included


def _asked_outputs(config: QuantConfig, matches: Matches) -> set[str]:
    """Returns the nodes whose output a rule sets."""
    return {
        name
        for number, rule in enumerate(config.rules)
        if rule.output is not None
        for name in matches.of_rule[number]
    }


def _reading_float(config: QuantConfig, matches: Matches, chains: Chains) -> set[str]:
    """Returns the nodes that do not ask for what they read to be quantized: a rule says ``input: float32``."""
    asked = [n for n, rule in enumerate(config.rules) if rule.input is not None and rule.input.format == "float32"]
    names = {name for number in asked for name in matches.of_rule[number]}
    return {
        name
        for name in names
        if chains.chain("input", chains.steps(matches.of_node[name], "input")).spec.format == "float32"
    }


def _cast_nodes(
    config: QuantConfig,
    facts: ModelFacts,
    target: Target,
    matches: Matches,
    excluded: Mapping[str, int],
    chains: Chains,
) -> set[str]:
    """Returns the nodes whose own output is cast to a narrower float format.

    Such nodes are not grouped: every operation rounds its result (spec vai_q_pytorch 3.7).
    """
    asked = [target.defaults.output, config.default.output, *(rule.output for rule in config.rules)]
    if not any(spec is not None and spec.format in FLOAT_FORMATS and spec.format != "float32" for spec in asked):
        return set()
    skipped = (kinds.INPUT, kinds.OUTPUT, kinds.CONSTANT, *kinds.MOVEMENT)
    return {
        node.name
        for node in facts.nodes
        if node.is_float
        and node.kind not in skipped
        and node.name not in excluded
        and is_cast(chains.chain("output", chains.steps(matches.of_node.get(node.name, ()), "output")))
    }


def _without_effect(context: Context) -> tuple[list[Problem], list[str]]:
    """Returns a problem for every rule that changes nothing (softened where its tool does), and warnings on parts."""
    problems, warnings = [], []
    for number, rule in enumerate(context.config.rules):
        names = context.matches.of_rule[number]
        if not names or rule.if_unmatched == "ignore":
            continue
        if rule.exclude:
            if not any(_quantizable(context, name) for name in names):
                warnings.append(f"{context.rule_text(number)} excludes operations that are float anyway")
            continue
        effect = _includes(context, number, names) or any(pair[0] == number for pair in context.shared)
        asked = [role for role in ROLES if rule.get(role) is not None]
        if rule.include and not effect:
            warnings.append(f"{context.rule_text(number)} includes operations that are quantized anyway")
        if not asked and (effect or rule.include):
            continue
        idle = [role for role in asked if (number, role) not in context.chains.used]
        if len(idle) == len(asked) and not effect:
            message, fix = _no_effect(context, rule, names, idle)
            if rule.if_unmatched == "warn":
                warnings.append(f"{context.rule_text(number)} {message}; ignored")
            else:
                problems.append(rule_problem("rule_without_effect", number, rule, message, fix))
            continue
        if rule.input == rule.output and "output" not in idle:  # ``activation`` says both
            idle = [role for role in idle if role != "input"]
        if idle:
            warnings.append(f"{context.rule_text(number)}: {', '.join(idle)} has no effect on any layer it matches")
    return problems, warnings


def _no_effect(context: Context, rule: Rule, names: tuple[str, ...], idle: list[Role]) -> tuple[str, str]:
    """Returns what to say about a rule that changes nothing, and the fix."""
    if rule.share is not None and not idle:
        return "has no effect: not both of the outputs are on a grid", "match operations whose outputs are quantized"
    if not idle:
        return "sets nothing", "say what it changes, or remove it"
    shown = ", ".join(f"'{context.labels[name]}'" for name in names[:3]) + (" ..." if len(names) > 3 else "")
    out = next((name for name in names if name in context.excluded), None)
    what = " and ".join(idle)
    if out is not None and all(name in context.excluded for name in names):
        return f"has no effect: {shown} is {context.why_excluded(out)}", "remove one of the two rules"
    found = sorted({context.facts.node(name).kind for name in names})
    fix = f"on target {context.target.name} {', '.join(found[:4])} has no {what} of its own to set; match another layer"
    return f"has no effect: it sets {what}, and none of {shown} has one that is quantized by its own", fix


def _includes(context: Context, number: int, names: tuple[str, ...]) -> bool:
    """Returns whether a rule includes something that the target would leave float, or an earlier rule excluded."""
    kept = [context.facts.node(name) for name in names if context.included.get(name) == number]
    return any(not _handled(context, node) for node in kept) or any(
        rule.exclude and set(context.matches.of_rule[earlier]) & {node.name for node in kept}
        for earlier, rule in enumerate(context.config.rules[:number])
        if kept
    )


def _handled(context: Context, node: NodeFacts) -> bool:
    return context.target.handling(node.kind) not in ("float", "fuse") or node.kind == kinds.INPUT


def _quantizable(context: Context, name: str) -> bool:
    """Returns whether anything would be quantized at a node if it were not excluded."""
    node = context.facts.node(name)
    handled = context.target.handling(node.kind) != "float" or node.kind == kinds.INPUT
    return handled or (node.kind in context.target.parameters and node.weight is not None)
