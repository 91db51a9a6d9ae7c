"""Small things the tests of numerics and observers share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from quantwright import registry
from quantwright.config.spec import BASE_SPEC, QuantSpec
from quantwright.observers import Observer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors here are small: more threads only wait for each other. Import it to use it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def spec(**fields: Any) -> QuantSpec:
    """Returns int8, symmetric, per tensor, float scale, with some fields changed."""
    return BASE_SPEC.model_copy(update=fields)


def make(name: str, what: QuantSpec = BASE_SPEC, **params: Any) -> Observer:
    """Returns a new observer."""
    kind: type[Observer] = registry.load("observers", name)
    return kind(what, **params)


def noise(seed: int, *shape: int) -> Tensor:
    """Returns repeatable normal noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
