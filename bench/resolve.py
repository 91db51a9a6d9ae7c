"""Resolving a large configuration on a large model: 1,000 rules, 10,000 tensors. No torch is needed.

``python bench/resolve.py [--rules 1000] [--layers 3334]`` prints seconds; the bar is one second.
"""

from __future__ import annotations

import argparse
import time

from quantwright import registry
from quantwright.config.load import load_config
from quantwright.plan.facts import ModelFacts, NodeFacts, Origin, ParamFacts
from quantwright.plan.resolve import resolve

CONV, RELU = "torch.nn.modules.conv.Conv2d", "torch.nn.modules.activation.ReLU"


def model(layers: int) -> ModelFacts:
    """Returns a chain of convolutions and ReLUs in blocks of four: three tensors (weight, bias, value) for each."""
    nodes = [NodeFacts(name="x", kind="input", origins=(), users=("conv_0",), shape=(-1, 8, 8, 8))]
    paths = []
    before = "x"
    for index in range(layers):
        path = f"stage{index // 400}.block{index // 4}.layer{index % 4}"
        parents = (("", "Net"), (path.rpartition(".")[0], "my.Block"), (path, "my.Layer"))
        name, relu = f"conv_{index}", f"relu_{index}"
        after = f"conv_{index + 1}" if index + 1 < layers else "output"
        conv = Origin(module_path=f"{path}.conv", module_type=CONV, function="conv2d", parents=parents)
        act = Origin(module_path=f"{path}.relu", module_type=RELU, function="relu", parents=parents)
        weight = ParamFacts(name=f"{path}.conv.weight", shape=(8, 8, 3, 3), input_axis=1)
        bias = ParamFacts(name=f"{path}.conv.bias", shape=(8,))
        shape = (-1, 8, 8, 8)
        nodes.append(NodeFacts(name=name, kind="conv2d", origins=(conv,), inputs=(before,), users=(relu,),
                               weight=weight, bias=bias, shape=shape, params={"stride": [1, 1]}))  # fmt: skip
        nodes.append(NodeFacts(name=relu, kind="relu", origins=(act,), inputs=(name,), users=(after,), shape=shape))
        paths += [(f"{path}.conv", CONV), (f"{path}.relu", RELU)]
        before = relu
    nodes.append(NodeFacts(name="output", kind="output", origins=(), inputs=(before,), is_float=False))
    return ModelFacts(name="Net", nodes=tuple(nodes), inputs=("x",), outputs=(before,), module_paths=tuple(paths))


def config(rules: int, layers: int) -> dict[str, object]:
    """Returns rules of every kind: name, glob, regular expression, type inside a name, a pattern in a hundred."""
    made: list[dict[str, object]] = []
    for index in range(rules):
        layer = (index * 7) % layers
        path = f"stage{layer // 400}.block{layer // 4}.layer{layer % 4}"
        spec: dict[str, object] = {"weight": {"format": "int4"}, "output": {"observer": "percentile"}}
        pattern = {"type": "ReLU", "name": f"{path}.relu", "inputs": [{"type": "Conv2d", "params": {"stride": 1}}]}
        match: dict[str, object] = [
            {"name": f"{path}.conv"},
            {"name": f"*.block{layer // 4}.*"},
            {"name": rf"re:stage\d+\.block{layer // 4}\.layer\d\.conv"},
            {"type": "Conv2d", "name": path},
        ][index % 4]  # type: ignore[assignment]
        if index % 100 == 99:
            match, spec = {"pattern": pattern}, {"output": {"format": "uint8"}}
        made.append({"match": match, **spec})
    return {"version": 1, "target": "generic", "rules": made}


def main() -> None:
    """Prints how long reading and resolving took, the best of three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=1000)
    parser.add_argument("--layers", type=int, default=3334)
    options = parser.parse_args()
    facts, asked = model(options.layers), config(options.rules, options.layers)
    target = registry.load("targets", "generic")
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        read = load_config(asked)
        between = time.perf_counter()
        plan = resolve(read, facts, target)
        end = time.perf_counter()
        print(f"read {between - start:.2f} s, resolve {end - between:.2f} s, {len(plan.decisions):,} tensors")
        best = min(best, end - between)
    print(f"resolve: {best:.2f} s for {options.rules:,} rules (bar: 1 s)")


if __name__ == "__main__":
    main()
