"""Small plain torch networks, one per way of building them; random weights, batch norms with lively statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zoo_plain_sequences import SEQUENCES

Made = tuple[nn.Module, Any]


def block(
    c_in: int, c_out: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: Any = nn.ReLU
) -> nn.Sequential:
    """Returns convolution, batch norm, activation; the size stays but for the stride."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), act())


def head(channels: int, classes: int = 5) -> nn.Sequential:
    """Returns global pooling and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Around(nn.Module):
    """x + f(x) or [x, f(x)]: with a projection where the sizes differ."""

    def __init__(self, body: nn.Module, join: str = "add", short: nn.Module | None = None, act: bool = True) -> None:
        super().__init__()
        self.body, self.join, self.short, self.act = body, join, short or nn.Identity(), act

    def forward(self, x: Tensor) -> Tensor:
        if self.join == "cat":
            return torch.cat([self.short(x), self.body(x)], 1)
        y = self.short(x) + self.body(x)
        return F.relu(y) if self.act else y


class Branches(nn.Module):
    """Several ways from one input, concatenated or summed."""

    def __init__(self, *ways: nn.Module, add: bool = False) -> None:
        super().__init__()
        self.ways, self.add = nn.ModuleList(ways), add

    def forward(self, x: Tensor) -> Tensor:
        found = [way(x) for way in self.ways]
        return sum(found[1:], found[0]) if self.add else torch.cat(found, 1)


class Gate(nn.Module):
    """Squeeze and excite: channels scaled by what the whole image says."""

    def __init__(self, channels: int, act: Callable[[Tensor], Tensor] = torch.sigmoid) -> None:
        super().__init__()
        self.down, self.up, self.act = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1), act

    def forward(self, x: Tensor) -> Tensor:
        return x * self.act(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Shuffle(nn.Module):
    """Half of the channels pass, half are convolved, then channels are shuffled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(block(4, 4, 1), block(4, 4, 3, groups=4))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        y = torch.cat([left, self.body(right)], 1)
        n, c, h, w = y.shape
        return y.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class UNet(nn.Module):
    """Down, up, and the skip between; up by a transposed convolution or by interpolation."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.one, self.two, self.last = block(3, 8), block(8, 16), nn.Conv2d(16, 2, 1)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2) if transposed else nn.Conv2d(16, 8, 1)
        self.transposed, self.mix = transposed, block(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        a = self.one(x)
        b = self.two(F.max_pool2d(a, 2))
        up = self.up(b)
        if not self.transposed:
            up = F.interpolate(up, size=a.shape[-2:], mode="bilinear", align_corners=False)
        return self.last(self.mix(torch.cat([up, a], 1)))


class Pyramid(nn.Module):
    """A detector: feature pyramid, boxes and scores per level, several outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([block(3, 8, stride=2), block(8, 16, stride=2), block(16, 24, stride=2)])
        self.laterals = nn.ModuleList([nn.Conv2d(c, 8, 1) for c in (8, 16, 24)])
        self.boxes, self.scores = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        found = [lateral(level) for lateral, level in zip(self.laterals, levels, strict=True)]
        for index in (1, 0):
            found[index] = found[index] + F.interpolate(found[index + 1], scale_factor=2.0, mode="nearest")
        boxes = torch.cat([self.boxes(level).flatten(2) for level in found], 2)
        scores = torch.cat([self.scores(level).flatten(2) for level in found], 2)
        return {"boxes": boxes.transpose(1, 2).sigmoid(), "scores": scores.softmax(1), "features": found}


class Yolo(nn.Module):
    """A one-stage head that decodes its boxes with a grid it makes from the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = (
            nn.Sequential(block(3, 8, stride=2, act=nn.SiLU), block(8, 8, stride=2, act=nn.SiLU)),
            nn.Conv2d(8, 6, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        raw = self.out(self.body(x))
        rows = torch.arange(raw.shape[2], dtype=raw.dtype)[:, None]
        columns = torch.arange(raw.shape[3], dtype=raw.dtype)[None, :]
        centre = torch.stack([raw[:, 0].sigmoid() + columns, raw[:, 1].sigmoid() + rows], 1)
        return torch.cat([centre * 4, raw[:, 2:4].exp() * 4], 1).flatten(2), raw[:, 4:].sigmoid()


class Aspp(nn.Module):
    """Dilated convolutions of several widths and the image's mean, as in DeepLab."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 8)
        self.ways = nn.ModuleList([nn.Conv2d(8, 4, 3, padding=d, dilation=d) for d in (1, 2, 4)])
        self.whole, self.last = nn.Conv2d(8, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        whole = self.whole(F.adaptive_avg_pool2d(y, 1)).expand(-1, -1, *y.shape[-2:])
        return self.last(torch.cat([*(way(y) for way in self.ways), whole], 1))


class Spatial(nn.Module):
    """A spatial transformer: an affine grid from the image, and samples of it."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.body = nn.Sequential(block(3, 4, stride=4), head(4, 6)), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        theta = self.where(x).view(-1, 2, 3) + torch.eye(2, 3)
        return self.body(
            F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)
        )


class Style(nn.Module):
    """Style transfer: instance norms, reflection padding, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.norm = nn.Conv2d(3, 8, 3, stride=2), nn.InstanceNorm2d(8, affine=True)
        self.up = nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm(self.down(F.pad(x, (1,) * 4, mode="reflect"))))
        return torch.tanh(self.up(F.pad(F.interpolate(y, scale_factor=2.0), (1,) * 4, mode="reflect")))


class Shapes(nn.Module):
    """Python control flow on shapes: pads odd sizes, loops over what it is given, takes the branch of its width."""

    def __init__(self) -> None:
        super().__init__()
        self.convs, self.wide, self.narrow = nn.ModuleList([block(3, 3) for _ in range(3)]), head(3), head(3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-1] % 2:
            x = F.pad(x, (0, 1, 0, 0))
        for index, conv in enumerate(self.convs):
            x = conv(x) if index % 2 else x - conv(x)
        return self.wide(x) if x.shape[-1] > 32 else self.narrow(x)


class Twice(nn.Module):
    """One module called on two inputs and again on its own output (siamese, recursive)."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.again = block(3, 8), block(8, 8)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        one, two = (self.again(self.again(self.body(x))).mean((2, 3)) for x in (a, b))
        return F.cosine_similarity(one, two) + (one - two).abs().sum(1)


class RepVgg(nn.Module):
    """Three parallel branches, one of them a bare batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.three = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.one = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.same = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.three(x) + self.one(x) + self.same(x))


class ConvNext(nn.Module):
    """Depthwise 7x7, layer norm over channels last, pointwise layers, layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth, self.norm = nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.LayerNorm(channels)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(F.gelu(self.up(self.norm(self.depth(x).permute(0, 2, 3, 1)))))
        return x + (self.scale * y).permute(0, 3, 1, 2)


def images(size: int = 32, channels: int = 3) -> tuple[Tensor]:
    """Returns a batch of two. Shapes: [2, channels, size, size]."""
    return (torch.randn(2, channels, size, size),)


def chain(*modules: nn.Module, size: int = 32) -> Callable[[], Made]:
    """Returns a factory of modules one after the other, on images."""
    return lambda: (nn.Sequential(*modules), images(size))


def on_images(make: Callable[[], nn.Module], size: int = 32) -> Callable[[], Made]:
    """Returns a factory of a model with a batch of images."""
    return lambda: (make(), images(size))


def bottleneck(c: int, groups: int = 1) -> Around:
    return Around(
        nn.Sequential(block(c, c // 2, 1), block(c // 2, c // 2, groups=groups), block(c // 2, c, 1, act=nn.Identity))
    )


def inverted(c_in: int, c_out: int, act: Any = nn.ReLU6) -> nn.Sequential:
    wide = 3 * c_in
    return nn.Sequential(
        block(c_in, wide, 1, act=act), block(wide, wide, groups=wide, act=act), block(wide, c_out, 1, act=nn.Identity)
    )


def dense(c: int, growth: int = 4) -> Around:
    return Around(nn.Sequential(nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, growth, 3, padding=1)), "cat")


def inception(c: int) -> Branches:
    pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), block(c, 4, 1))
    return Branches(
        block(c, 4, 1), nn.Sequential(block(c, 4, 1), block(4, 4)), nn.Sequential(block(c, 4, 1), block(4, 4, 5)), pool
    )


def three_d() -> Made:
    body = nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 6, 3, groups=6),
        nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    return body, (torch.randn(2, 2, 8, 8, 8),)


def generator() -> Made:
    layers = [nn.Linear(6, 64), nn.Unflatten(1, (16, 2, 2))]
    for c_in, c_out in ((16, 8), (8, 8)):
        layers += [nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False), nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()), (torch.randn(2, 6),)


VISION: dict[str, Callable[[], Made]] = {
    "lenet": on_images(lambda: nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 8, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(200, 10), nn.Tanh(), nn.Linear(10, 5))),
    "vgg": on_images(lambda: nn.Sequential(block(3, 8), nn.MaxPool2d(2), block(8, 16), nn.MaxPool2d(2), nn.Flatten(),
                                           nn.Linear(1024, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5))),
    "resnet_basic": on_images(lambda: nn.Sequential(
        block(3, 8), Around(nn.Sequential(block(8, 8), block(8, 8, act=nn.Identity))),
        Around(nn.Sequential(block(8, 16, stride=2), block(16, 16, act=nn.Identity)), "add",
               block(8, 16, 1, 2, act=nn.Identity)), head(16))),
    "resnet_bottleneck": on_images(lambda: nn.Sequential(block(3, 8), bottleneck(8), bottleneck(8), head(8))),
    "resnext": on_images(lambda: nn.Sequential(block(3, 16), bottleneck(16, 4), head(16))),
    "preactivation": on_images(lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3),
        Around(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)), act=False),
        nn.BatchNorm2d(8), nn.ReLU(), head(8))),
    "densenet": on_images(lambda: nn.Sequential(block(3, 8), dense(8), dense(12), dense(16), block(20, 8, 1), head(8))),
    "inception": on_images(lambda: nn.Sequential(block(3, 8), inception(8), inception(16), head(16))),
    "squeezenet": on_images(lambda: nn.Sequential(
        block(3, 8, stride=2), block(8, 4, 1), Branches(nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, padding=1)), nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True), head(16))),
    "mobilenet_v1": on_images(lambda: nn.Sequential(
        block(3, 8, stride=2), block(8, 8, groups=8), block(8, 16, 1), head(16))),
    "mobilenet_v2": on_images(lambda: nn.Sequential(
        block(3, 8, act=nn.ReLU6), Around(inverted(8, 8), act=False), inverted(8, 12), head(12))),
    "mobilenet_v3": on_images(lambda: nn.Sequential(
        block(3, 8, act=nn.Hardswish), Around(inverted(8, 8, nn.Hardswish), act=False), Gate(8, F.hardsigmoid),
        head(8))),
    "efficientnet": on_images(lambda: nn.Sequential(
        block(3, 8, act=nn.SiLU), Around(nn.Sequential(inverted(8, 8, nn.SiLU), Gate(8)), act=False), head(8))),
    "shufflenet": on_images(lambda: nn.Sequential(block(3, 8), Shuffle(), Shuffle(), head(8))),
    "repvgg": on_images(lambda: nn.Sequential(block(3, 8), RepVgg(8), RepVgg(8), head(8))),
    "convnext_blocks": on_images(lambda: nn.Sequential(nn.Conv2d(3, 8, 4, 4), ConvNext(8), ConvNext(8), head(8))),
    "unet_transposed": on_images(lambda: UNet(True)),
    "unet_bilinear": on_images(lambda: UNet(False), 20),
    "pyramid_detector": on_images(Pyramid),
    "yolo_head": on_images(Yolo),
    "deeplab": on_images(Aspp),
    "autoencoder": on_images(lambda: nn.Sequential(
        block(3, 8, stride=2), block(8, 4, stride=2), nn.ConvTranspose2d(4, 8, 2, 2), nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 2, 2), nn.Sigmoid())),
    "gan_generator": generator,
    "super_resolution": on_images(lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2)), 12),
    "style_transfer": on_images(Style),
    "spatial_transformer": on_images(Spatial),
    "shape_control_flow": on_images(Shapes, 31),
    "siamese": lambda: (Twice(), (*images(16), *images(16))),
    "conv3d": three_d,
    "group_norm": on_images(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.Mish(), head(8))),
    "weight_norm": on_images(lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ELU(),
        parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), head(8))),
}  # fmt: skip

ARCHITECTURES: dict[str, Callable[[], Made]] = {**VISION, **SEQUENCES}


def make(name: str) -> Made:
    """Returns the model in eval mode and one batch, the same on every call."""
    torch.manual_seed(0)
    model, inputs = ARCHITECTURES[name]()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
    return model.eval(), inputs
