"""Where a model is trained, and in which precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import torch

from stream.errors import PolytempoError

__all__ = ["Device", "choose_device"]

Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]

_THERE: Final[dict[str, Callable[[], bool]]] = {
    "cpu": lambda: True,
    "cuda": torch.cuda.is_available,
    "mps": torch.backends.mps.is_available,
}


def choose_device(wanted: Device = "auto") -> torch.device:
    """The device that is meant; `auto` is a graphics card if there is one, and the processor otherwise.

    Of several cards each process of `torchrun` takes its own. Apple's are used only when asked for: small recurrent
    models run slower there than on the processor beside.

    Raises:
        PolytempoError: there is no such device.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted
    if not _THERE[name]():
        raise PolytempoError(f"PyTorch finds no {name} device here.", "--device auto takes what there is.")
    if name != "cuda":
        return torch.device(name)
    number = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
