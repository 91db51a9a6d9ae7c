"""Small plain torch networks on sequences, sets, tables and graphs; see `zoo_plain`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Made = tuple[nn.Module, Any]
WIDTH = 16


class Recurrent(nn.Module):
    """Embedding, a recurrent layer, a linear head; the last state may be read too."""

    def __init__(self, kind: type[nn.RNNBase], last: bool = False, **options: Any) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(20, 8), last
        self.body = kind(8, 6, batch_first=True, **options)
        self.head = nn.Linear(12 if options.get("bidirectional") else 6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        every, state = self.body(self.embed(ids))
        state = state[0] if isinstance(state, tuple) else state
        return self.head(state[-1] if self.last else every)


class Cells(nn.Module):
    """A recurrent cell in a Python loop over time."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


class Seq2Seq(nn.Module):
    """Encoder, decoder and dot-product attention between them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(4, 6, batch_first=True), nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, state = self.encoder(source)
        query, _ = self.decoder(target, state)
        weights = torch.softmax(query @ memory.transpose(1, 2) / 6**0.5, -1)
        return self.head(torch.cat([query, weights @ memory], -1))


class Attention(nn.Module):
    """Attention written by hand: one fused projection, scaled scores, a causal mask of minus infinity."""

    def __init__(self, causal: bool, heads: int = 4) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.causal, self.heads = causal, heads

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5
        if self.causal:
            scores = scores.masked_fill(torch.triu(torch.ones(t, t, dtype=torch.bool), 1), float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, c))


class Block(nn.Module):
    """A transformer block, norms first."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm, self.again, self.attention = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH), attention
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm(x))
        return x + self.mlp(self.again(x))


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, WIDTH, 8, 8), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.position = nn.Parameter(torch.randn(1, 17, WIDTH))
        self.blocks, self.head = nn.Sequential(Block(Attention(False)), Block(Attention(False))), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1) + self.position
        return self.head(self.blocks(tokens)[:, 0])


class LanguageModel(nn.Module):
    """A decoder whose head is its embedding (tied weights)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(30, WIDTH), nn.Embedding(12, WIDTH)
        self.block, self.norm = Block(Attention(True)), nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.position(torch.arange(ids.shape[1]))
        return self.head(self.norm(self.block(x)))


class EncoderDecoder(nn.Module):
    """torch's own transformer with a padding mask and a causal one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(WIDTH, 4, 1, 1, 32, batch_first=True)
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, source: Tensor, target: Tensor, padding: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.head(self.body(source, target, tgt_mask=causal, tgt_is_causal=True, src_key_padding_mask=padding))


class Mixer(nn.Module):
    """Layers over tokens and layers over channels in turn."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.tokens = nn.Sequential(nn.Linear(tokens, 12), nn.GELU(), nn.Linear(12, tokens))
        self.channels = nn.Sequential(nn.Linear(WIDTH, 12), nn.GELU(), nn.Linear(12, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.one(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.two(x))


class WaveNet(nn.Module):
    """Dilated causal convolutions with gates and a skip of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 8, 1), nn.Conv1d(8, 4, 1)
        self.layers = nn.ModuleList([nn.Conv1d(8, 16, 2, dilation=2**i) for i in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x, skip = self.first(x), torch.zeros(())
        for layer in self.layers:
            value, gate = layer(F.pad(x, (layer.dilation[0], 0))).chunk(2, 1)
            y = torch.tanh(value) * torch.sigmoid(gate)
            x, skip = x + y, skip + y
        return self.last(F.relu(skip))


class TwoTower(nn.Module):
    """A dict of inputs; embeddings of ids and a table of numbers, their product as the score."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(9, 8), nn.EmbeddingBag(9, 8, mode="sum")
        self.dense, self.top = nn.Linear(3, 8), nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        user = self.user(batch["user"]) + F.relu(self.dense(batch["numbers"]))
        score = (user * self.item(batch["items"])).sum(1, keepdim=True)
        return {"score": self.top(torch.cat([user, score], 1)).squeeze(1), "raw": score}


class PointNet(nn.Module):
    """A function of every point, the maximum over points, a learned transform of them."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.each = (
            nn.Sequential(nn.Conv1d(3, 9, 1), nn.ReLU()),
            nn.Sequential(nn.Conv1d(3, 16, 1), nn.ReLU()),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, points: Tensor) -> Tensor:
        turn = self.turn(points).amax(2).view(-1, 3, 3)
        return self.head(torch.max(self.each(torch.bmm(turn, points)), 2)[0])


class GraphNet(nn.Module):
    """Messages along an adjacency matrix, normalized by the degree."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        degree = adjacency.sum(-1, keepdim=True).clamp(min=1)
        hidden = F.relu(self.one(adjacency @ nodes / degree))
        return self.two(adjacency @ hidden / degree)


class Experts(nn.Module):
    """A soft mixture: every expert on every token, weighted; weights kept in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.route, self.weight = nn.Linear(8, 3), nn.Parameter(torch.randn(3, 8, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        share = self.route(x).softmax(-1)
        return torch.einsum("nte,ntek->ntk", share, torch.einsum("ntd,edk->ntek", x, self.weight))


class Rotary(nn.Module):
    """Attention whose positions turn queries and keys; RMS norm and a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv = nn.RMSNorm(8), nn.Linear(8, 24, bias=False)
        self.gate, self.up, self.down = nn.Linear(8, 12), nn.Linear(8, 12), nn.Linear(12, 8)
        self.register_buffer("frequency", 10.0 ** -torch.arange(4.0))

    def turned(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1])[:, None] * self.frequency
        left, right = x.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).split(8, -1)
        x = x + F.scaled_dot_product_attention(self.turned(q), self.turned(k), v, is_causal=True)
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


class Film(nn.Module):
    """Diffusion-like: a step number becomes sines, which scale and shift the features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.film, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 16), nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        angle = step.float()[:, None] * torch.exp(-torch.arange(4.0))
        scale, shift = self.film(torch.cat([angle.sin(), angle.cos()], 1))[:, :, None, None].chunk(2, 1)
        return self.out(F.silu(self.conv(x) * (1 + scale) + shift))


class Highway(nn.Module):
    """Gates between a layer and what passes it; two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate = nn.Bilinear(6, 4, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        share = torch.sigmoid(self.gate(x))
        mixed = share * F.relu(self.layer(x, y)) + (1 - share) * x
        return mixed, share.argmax(1)


def tokens(length: int = 6, count: int = 20) -> Tensor:
    """Returns token numbers. Shapes: [2, length]."""
    return torch.randint(0, count, (2, length))


def padded() -> Tensor:
    """Returns which places are padding. Shapes: [2, 7], bool."""
    return torch.arange(7)[None, :] >= torch.tensor([[7], [5]])


SEQUENCES: dict[str, Callable[[], Made]] = {
    "mlp": lambda: (nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.SELU(), nn.Linear(16, 3)), (torch.randn(4, 8),)),
    "temporal_conv": lambda: (nn.Sequential(
        nn.Conv1d(4, 8, 3, padding=1), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)), (torch.randn(2, 4, 16),)),
    "wavenet": lambda: (WaveNet(), (torch.randn(2, 1, 24),)),
    "lstm": lambda: (Recurrent(nn.LSTM), (tokens(),)),
    "lstm_two_ways": lambda: (Recurrent(nn.LSTM, bidirectional=True, num_layers=2), (tokens(),)),
    "gru_last_state": lambda: (Recurrent(nn.GRU, last=True), (tokens(),)),
    "recurrent_cells": lambda: (Cells(), (torch.randn(2, 5, 4),)),
    "seq2seq": lambda: (Seq2Seq(), (torch.randn(2, 6, 4), torch.randn(2, 5, 4))),
    "vision_transformer": lambda: (VisionTransformer(), (torch.randn(2, 3, 32, 32),)),
    "language_model_tied": lambda: (LanguageModel(), (tokens(9, 30),)),
    "encoder_decoder": lambda: (EncoderDecoder(), (torch.randn(2, 7, WIDTH), torch.randn(2, 5, WIDTH), padded())),
    "mixer": lambda: (nn.Sequential(nn.Linear(6, WIDTH), Mixer(9), Mixer(9)), (torch.randn(2, 9, 6),)),
    "rotary": lambda: (Rotary(), (torch.randn(2, 7, 8),)),
    "two_tower_dict": lambda: (TwoTower(), {"batch": {
        "user": torch.tensor([1, 2, 3]), "items": torch.randint(0, 9, (3, 4)), "numbers": torch.randn(3, 3)}}),
    "point_net": lambda: (PointNet(), (torch.randn(2, 3, 20),)),
    "graph_net": lambda: (GraphNet(), (torch.randn(2, 6, 5), (torch.rand(2, 6, 6) > 0.5).float())),
    "experts": lambda: (Experts(), (torch.randn(2, 4, 8),)),
    "film": lambda: (Film(), (torch.randn(2, 3, 8, 8), torch.tensor([3, 40]))),
    "highway": lambda: (Highway(), (torch.randn(3, 6), torch.randn(3, 4))),
}  # fmt: skip
