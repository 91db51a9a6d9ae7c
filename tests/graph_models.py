"""Small models, one per thing a graph must be able to hold: factory, example arguments, expected kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations


def function(body: Callable[..., Any]) -> Callable[[], nn.Module]:
    """Returns a factory of a module without parameters whose forward is ``body``."""

    class Functional(nn.Module):
        def forward(self, *args: Tensor) -> Any:
            return body(*args)

    return Functional


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn = kind(4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class DictIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, batch: dict[str, Tensor], scale: float | None = None) -> dict[str, Any]:
        total = self.a(batch["left"]) + self.b(batch["right"])
        return {"sum": total, "both": (total * 2, torch.cat([total, total], 1))}


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.again(self.relu(self.first(x)))) + self.relu(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(ids))))


class InPlace(nn.Module):
    """Views, in-place arithmetic and reads of what was changed before."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        z = y
        y += 1
        F.relu_(y)
        y.mul_(2).clamp_(0, 3)
        return y + z


class SliceWrite(nn.Module):
    """A write through a view, read through the base: needs torch's functionalization."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        y[:, :2] = y[:, 2:] * 2
        y[:, 0] += 1
        return y


class Standardized(nn.Conv2d):
    """A convolution that standardizes its weight on every call."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class HandRMSNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight


class VisionTokens(nn.Module):
    """A class token expanded to the batch, and a position table added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.position = nn.Parameter(torch.randn(1, 5, 8))
        self.norm, self.head = HandRMSNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(tokens)[:, 0])


class NoGradInside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.fc(x)
        with torch.enable_grad():
            return F.relu(y) + x


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x)


class Optional_(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, bias: Tensor | None = None) -> Tensor:
        y = self.fc(x)
        y = y if mask is None else y * mask
        return y if bias is None else y + bias


class Tabular(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        a, b = x.chunk(2, 1)
        c, d, e = x.split([1, 2, 3], 1)
        top, where = x.max(1)
        return a * b, torch.cat([d, c], 1), top + where


def conv(dim: int, **options: Any) -> nn.Module:
    return nn.Sequential(getattr(nn, f"Conv{dim}d")(4, 8, 3, padding=1, **options), nn.ReLU6())


def conv_t(dim: int, **options: Any) -> nn.Module:
    return getattr(nn, f"ConvTranspose{dim}d")(4, 6, 3, stride=2, **options)


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def arithmetic(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum((x + y) * x - y, x / 2) + torch.minimum(x, y) + (1 - x)


def clamps(x: Tensor) -> tuple[Tensor, ...]:
    return x.clamp(min=0), x.clamp(0, 6), x.clamp(-1, 1), F.relu6(x), F.hardtanh(x, 0, 6), x.clamp_min(0)


def products(x: Tensor, y: Tensor) -> Tensor:
    return torch.einsum("bchw,bcwk->bchk", x, y) + x @ y + torch.bmm(x[0], y[0])


def reductions(x: Tensor) -> Tensor:
    return x.mean((2, 3)) + x.sum((2, 3)) + x.amax((2, 3)) + x.flatten(2).min(2).values


def movement(x: Tensor) -> Tensor:
    first = x.permute(0, 2, 3, 1).reshape(-1, 8, 8, 4).transpose(1, 2)
    second = x.roll(1, 1).flip(2).unsqueeze(0).squeeze(0).movedim(1, 3)
    return torch.stack([first, second], 1).unfold(2, 2, 2)


def pads(x: Tensor) -> Tensor:
    return F.pad(x, (1,) * 4) + F.pad(x, (1,) * 4, mode="reflect") + F.pad(x, (1,) * 4, value=3.0)


def indexing(x: Tensor) -> tuple[Tensor, ...]:
    return x[:, [2, 1]], x.index_select(1, torch.tensor([0, 1])), x[..., 1:], x[:, 1]


def pools() -> nn.Module:
    return nn.Sequential(
        nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AdaptiveMaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def activations() -> nn.Module:
    return nn.Sequential(
        nn.LeakyReLU(), nn.PReLU(4), nn.ELU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.Tanh(),
        nn.Hardswish(), nn.Hardsigmoid(), nn.Softplus(), nn.Softmax(1), nn.LogSoftmax(1),
    )  # fmt: skip


IMAGE = rand(2, 4, 8, 8)
ZOO: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...], set[str]]] = {
    "conv1d": (lambda: conv(1), (rand(2, 4, 9),), {"conv1d", "relu6"}),
    "conv2d": (lambda: conv(2), (IMAGE,), {"conv2d", "relu6"}),
    "conv3d": (lambda: conv(3), (rand(2, 4, 5, 5, 5),), {"conv3d", "relu6"}),
    "conv2d_same": (lambda: nn.Conv2d(4, 4, 3, padding="same", bias=False), (IMAGE,), {"conv2d"}),
    "grouped": (lambda: conv(2, groups=2), (IMAGE,), {"conv2d"}),
    "depthwise": (lambda: conv(2, groups=4), (IMAGE,), {"depthwise_conv2d"}),
    "depthwise1d": (lambda: conv(1, groups=4), (rand(2, 4, 9),), {"depthwise_conv1d"}),
    "conv_transpose1d": (lambda: conv_t(1), (rand(2, 4, 5),), {"conv_transpose1d"}),
    "conv_transpose2d": (lambda: conv_t(2, groups=2), (IMAGE,), {"conv_transpose2d"}),
    "conv_transpose3d": (lambda: conv_t(3), (rand(2, 4, 3, 3, 3),), {"conv_transpose3d"}),
    "linear": (lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Hardtanh(-2, 2)), (rand(2, 4),),
               {"linear", "hardtanh"}),
    "attention": (Attention, (rand(2, 3, 8),), {"linear", "attention"}),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (rand(2, 3, 8),),
                    {"linear", "attention", "layer_norm", "add", "relu"}),
    "lstm": (lambda: Recurrent(nn.LSTM), (rand(2, 3, 4),), {"lstm", "linear"}),
    "gru": (lambda: Recurrent(nn.GRU), (rand(2, 3, 4),), {"gru", "linear"}),
    "rnn": (lambda: Recurrent(nn.RNN), (rand(2, 3, 4),), {"rnn", "linear"}),
    "batch_norm": (lambda: nn.BatchNorm2d(4), (IMAGE,), {"batch_norm"}),
    "group_norm": (lambda: nn.GroupNorm(2, 4), (IMAGE,), {"group_norm"}),
    "layer_norm": (lambda: nn.LayerNorm(8), (IMAGE,), {"layer_norm"}),
    "instance_norm": (lambda: nn.InstanceNorm2d(4, affine=True), (IMAGE,), {"instance_norm"}),
    "rms_norm": (lambda: nn.RMSNorm(8), (IMAGE,), {"rms_norm"}),
    "pixel_shuffle": (lambda: nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)), (IMAGE,),
                      {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle"}),
    "nearest": (lambda: nn.Upsample(scale_factor=2), (IMAGE,), {"resize_nearest"}),
    "bilinear": (lambda: nn.Upsample(size=(5, 7), mode="bilinear"), (IMAGE,), {"resize"}),
    "pools": (pools, (IMAGE,), {"avg_pool", "max_pool", "adaptive_avg_pool", "flatten"}),
    "activations": (activations, (IMAGE,),
                    {"leaky_relu", "prelu", "elu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardswish",
                               "hardsigmoid", "softplus", "softmax", "log_softmax"}),
    "arithmetic": (function(arithmetic), (IMAGE, IMAGE * 2),
                   {"add", "mul", "sub", "div", "maximum", "minimum"}),
    "clamps": (function(clamps), (IMAGE,), {"relu", "relu6", "clamp"}),
    "products": (function(products), (IMAGE, IMAGE), {"matmul", "select"}),
    "reductions": (function(reductions), (IMAGE,), {"mean", "sum", "max", "min"}),
    "movement": (function(movement), (IMAGE,),
                 {"permute", "reshape", "transpose", "roll", "flip", "unsqueeze", "squeeze", "stack", "unfold"}),
    "pads": (function(pads), (IMAGE,), {"pad"}),
    "indexing": (function(indexing), (IMAGE,), {"gather", "index_select", "slice", "select"}),
    "sdpa": (function(lambda q: F.scaled_dot_product_attention(q, q, q)), (rand(2, 2, 4, 8),), {"attention"}),
    "items": (Tabular, (rand(3, 6),), {"chunk", "split", "cat", "mul", "max", "add"}),
    "dict": (DictIn, ({"left": rand(2, 4), "right": rand(2, 5)},), {"linear", "add", "mul", "cat"}),
    "reused": (Reused, (rand(2, 3, 6, 6),), {"conv2d", "relu", "add"}),
    "tied": (Tied, (torch.arange(6).reshape(2, 3),), {"embedding", "linear", "tanh"}),
    "in_place": (InPlace, (rand(2, 3, 4, 4),), {"conv2d", "batch_norm", "add", "relu", "mul", "clamp"}),
    "slice_write": (SliceWrite, (rand(2, 3, 4, 4),), {"conv2d", "batch_norm"}),
    "standardized": (lambda: nn.Sequential(Standardized(4, 5, 3), nn.ReLU()), (IMAGE,), {"conv2d", "relu"}),
    "weight_norm": (lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU()), (rand(2, 4),),
                    {"linear", "relu"}),
    "rms": (lambda: HandRMSNorm(8), (rand(2, 3, 8),), {"norm_part"}),
    "tokens": (VisionTokens, (rand(2, 4, 8),), {"cat", "add", "norm_part", "linear", "constant"}),
    "no_grad": (NoGradInside, (rand(2, 4),), {"linear", "relu", "add"}),
    "counter": (Counter, (rand(2, 4),), {"linear"}),
    "addmm": (lambda: Conv1D(), (rand(3, 4),), {"matmul"}),
}  # fmt: skip


class Conv1D(nn.Module):
    """A linear layer with its weight stored [in, out]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight) + x @ self.weight


def build(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    """Returns the model (eval mode, lively statistics) and its example arguments."""
    torch.manual_seed(0)
    factory, args, _ = ZOO[name]
    model = factory()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return model.eval(), args
