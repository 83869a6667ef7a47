"""What an event says to a sequence model: its item, its kind, how long it was in coming, and its value."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

__all__ = ["GAPS_S", "EventEmbedding", "RMSNorm"]

GAPS_S: Final = (60.0, 600.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0, 2_592_000.0)
"""Time constants that a gap is told by: exp(-gap / constant). Smooth, so that no rounding moves an event to another
side of a boundary between PyTorch and ONNX."""


class RMSNorm(nn.Module):
    """x / rms(x) with a learnt gain, over the last axis. Zhang & Sennrich, 2019 (arXiv 1910.07467)."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d))

    def forward(self, x: Tensor) -> Tensor:
        """(..., d) -> (..., d)."""
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * self.gain


class EventEmbedding(nn.Module):
    """Events (...) -> (..., d). Its item table is what models rank by as well (tied embeddings)."""

    gaps_s: Tensor

    def __init__(self, n_items: int, d: int, n_kinds: int = 8) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, d, padding_idx=0)
        self.kinds = nn.Embedding(n_kinds, d)
        self.told = nn.Linear(len(GAPS_S) + 4, d)
        self.register_buffer("gaps_s", torch.tensor(GAPS_S), persistent=False)
        for table in (self.items, self.kinds):
            nn.init.normal_(table.weight, std=d**-0.5)
        nn.init.normal_(self.told.weight, std=0.3 * d**-0.5)
        with torch.no_grad():
            self.items.weight[0] = 0.0

    def forward(self, item: Tensor, kind: Tensor, gap_s: Tensor, value: Tensor) -> Tensor:
        """Each (...): vocabulary index, kind, seconds since the event before (0 for the first), value (0 for none)."""
        gap_s = gap_s.clamp(min=0.0).unsqueeze(-1)
        value = torch.nan_to_num(value, nan=0.0).unsqueeze(-1)
        told = torch.cat(
            [
                torch.exp(-gap_s / self.gaps_s),
                torch.log1p(gap_s) / 10,
                (gap_s <= 0).to(gap_s.dtype),
                (value != 0).to(gap_s.dtype),
                torch.sign(value) * torch.log1p(value.abs()),
            ],
            dim=-1,
        )
        said: Tensor = self.items(item) + self.kinds(kind) + self.told(told)
        return said
