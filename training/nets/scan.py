"""A linear recurrence over a whole sequence at once, s_t = a_t s_(t-1) + b_t, in plain PyTorch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

__all__ = ["linear_scan"]


def linear_scan(keep: Tensor, write: Tensor) -> Tensor:
    """s_t = keep_t s_(t-1) + write_t from s = 0, for all t: (B, T, d) each -> (B, T, d).

    In chunks of about sqrt(T): all chunks walk through their events side by side, then what each leaves is carried on
    to the next. O(T) work in O(sqrt T) steps; nothing is divided by a product of decays, so none can underflow.
    """
    states: Tensor = _LinearScan.apply(keep, write)
    return states


class _LinearScan(torch.autograd.Function):
    """The gradient of the scan is the same scan, backwards in time."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, write: Tensor) -> Tensor:
        states = _scan(keep, write)
        ctx.save_for_backward(keep, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        keep, states = ctx.saved_tensors
        later = functional.pad(keep[:, 1:], (0, 0, 0, 1))  # keep_(t+1), nothing after the last
        grad = _scan(later.flip(1), upstream.flip(1)).flip(1)
        before = functional.pad(states[:, :-1], (0, 0, 1, 0))
        return grad * before, grad


def _scan(keep: Tensor, write: Tensor) -> Tensor:
    n_steps = keep.shape[1]
    n_chunk = max(1, math.isqrt(n_steps))
    more = -n_steps % n_chunk
    keep, write = (functional.pad(x, (0, 0, 0, more)).reshape(len(x), -1, n_chunk, x.shape[2]) for x in (keep, write))
    states, kept = torch.empty_like(write), torch.empty_like(keep)  # (B, chunks, n_chunk, d)
    states[:, :, 0], kept[:, :, 0] = write[:, :, 0], keep[:, :, 0]
    for at in range(1, n_chunk):
        torch.addcmul(write[:, :, at], keep[:, :, at], states[:, :, at - 1], out=states[:, :, at])
        torch.mul(keep[:, :, at], kept[:, :, at - 1], out=kept[:, :, at])
    for chunk in range(1, keep.shape[1]):
        states[:, chunk].addcmul_(kept[:, chunk], states[:, chunk - 1, -1:])
    return states.flatten(1, 2)[:, :n_steps]
