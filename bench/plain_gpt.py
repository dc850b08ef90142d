"""A plain GPT in the manner of nanoGPT: fused qkv, torch's causal attention, mean cross entropy. The peer of bench/step.py.

Our own writing. Two versions of one size: `modern` (RoPE, QK-norm, RMSNorm, squared ReLU: the architecture that ablab's model
has) and the classic one (learned positions, LayerNorm, GELU), which does less work per token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    def __init__(self, d_model: int, n_heads: int, seq_len: int, modern: bool) -> None:
        super().__init__()
        self.n_heads, self.modern = n_heads, modern
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        if modern:
            size = d_model // n_heads
            self.q_norm, self.k_norm = nn.RMSNorm(size, eps=1e-5), nn.RMSNorm(size, eps=1e-5)
            angle = torch.arange(seq_len)[:, None] * 10000.0 ** (-torch.arange(size // 2) / (size // 2))
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        if self.modern:
            q, k = self.rotate(self.q_norm(q)), self.rotate(self.k_norm(k))
        y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))

    def rotate(self, x: Tensor) -> Tensor:
        cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Block(nn.Module):
    def __init__(self, d_model: int, n_heads: int, seq_len: int, modern: bool) -> None:
        super().__init__()
        self.modern = modern
        self.norm1, self.norm2 = _norm(d_model, modern), _norm(d_model, modern)
        self.attn = Attention(d_model, n_heads, seq_len, modern)
        self.up, self.down = nn.Linear(d_model, 4 * d_model, bias=False), nn.Linear(4 * d_model, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        h = self.up(self.norm2(x))
        return x + self.down(F.relu(h).square() if self.modern else F.gelu(h))


class PlainGPT(nn.Module):
    """forward(tokens, targets) -> mean loss. Full causal attention over the row, tied head."""

    def __init__(
        self, *, vocab_size: int, d_model: int, n_heads: int, n_layers: int, seq_len: int, modern: bool
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, d_model)
        self.places = None if modern else nn.Embedding(seq_len, d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, seq_len, modern) for _ in range(n_layers))
        self.norm = _norm(d_model, modern)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.embed.weight
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.places is not None:
            x = x + self.places(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def optimizer_of(model: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    """AdamW as nanoGPT groups it: decay on what has two dimensions, none on the rest; fused, as on this side's peer."""
    many = [p for p in model.parameters() if p.dim() >= 2]
    few = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": many, "weight_decay": 0.1}, {"params": few, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, tokens: Tensor, targets: Tensor, *, bf16: bool) -> None:
    """Forward, backward, clip, update."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(tokens, targets)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _norm(size: int, modern: bool) -> nn.Module:
    return nn.RMSNorm(size, eps=1e-5) if modern else nn.LayerNorm(size, bias=False)
