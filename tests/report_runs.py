"""Run folders for the tests of the report: a small network quantized in two ways, made once per session."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from quantwright.pipeline import quantize
from quantwright.report.record import dumps

NASTY = "</script><script>document.title='owned'</script>&\"'<b>"  # what a layer or a note may be called
POWER = {
    "version": 1,
    "target": "generic",
    "default": {
        "weight": {"format": "int8", "granularity": "per_channel", "symmetric": True},
        "activation": {"format": "int8", "symmetric": True, "scale": "power_of_two"},
    },
    "rules": [{"match": {"name": "4"}, "exclude": True}],
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 1), nn.Flatten(),
        nn.Linear(36, 5),
    ).eval()  # fmt: skip


def labelled() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8) % 5) for _ in range(2)]


def make(folder: Path, config: Any = "int8", **options: Any) -> Path:
    quantize(network(), config, labelled(), out=folder, **options)
    return folder


def edited(folder: Path, copy: Path, change: Callable[[str, Any], Any]) -> Path:
    """Returns a copy of a run whose JSON files went through ``change(name, value)``; None removes the file."""
    shutil.copytree(folder, copy)
    for path in sorted(copy.glob("*.json")):
        value = change(path.name, json.loads(path.read_text(encoding="utf-8")))
        if value is None:
            path.unlink()
        else:
            path.write_text(dumps(value), encoding="utf-8")
    return copy


def renamed(name: str, value: Any) -> Any:
    """Returns a run's JSON with the convolution called something nasty, and a nasty note."""
    text = json.dumps(value).replace('"0.weight"', json.dumps(NASTY + ".weight"))
    value = json.loads(text)
    if name == "run.json":
        value["warnings"] = [NASTY]
        value["model"] = NASTY
    return value
