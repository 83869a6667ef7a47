"""Several processes that train one model: the result is that of one process, up to the rounding of sums.

    batch      |  r0  r1  r2  r3  r4 |        every process makes the same batches, from seed and epoch
    process 0  |  r0      r2      r4 |  --.
    process 1  |      r1      r3     |  --+-> sum of gradients -> the same step everywhere

What is added up are sums, not means: each process divides by the number of targets of the whole batch, so that shares
of unequal size count as they should. Started by `torchrun`, which tells each process its place by the environment.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stream.errors import PolytempoError
from training.losses import CatalogueLoss, Past
from training.sequences import SequenceBatch

__all__ = ["ALONE", "Processes", "n_processes", "processes"]

_PATIENCE: Final = timedelta(hours=4)
"""How long the others wait while the first judges an epoch."""


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training, seen from one of them.

    Attributes:
        rank: from 0; the first one reads and writes files, judges epochs and speaks.
        n: how many there are.
        device: where tensors must be for the processes to exchange them.
    """

    rank: int = 0
    n: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def share(self, batch: SequenceBatch) -> SequenceBatch:
        """This process's rows of a batch: every n-th. Where there are too few, a row that has nothing to predict."""
        if self.n == 1:
            return batch
        taken = slice(self.rank, None, self.n) if self.rank < len(batch.length) else slice(0, 1)
        own = type(batch)(*(getattr(batch, name)[taken] for name in batch.__slots__))
        if self.rank < len(batch.length):
            return own
        return replace(own, target=torch.zeros_like(own.target), ahead=torch.zeros_like(own.ahead))

    def of_all(self, loss: CatalogueLoss) -> CatalogueLoss:
        """A loss whose sum over the processes is the mean over the targets of all of them.

        A model must call it equally often in every process, and use what it gives linearly.
        """
        if self.n == 1:
            return loss

        def part(query: Tensor, items: Tensor, bias: Tensor, target: Tensor, past: Past) -> Tensor:
            n_all = torch.tensor(float(len(target)), device=self.device)
            dist.all_reduce(n_all)
            return loss(query, items, bias, target, past) * (len(target) / max(1.0, n_all.item()))

        return part

    def seed(self, seed: int, step: int) -> None:
        """Before each step: processes draw different dropout, and the same again after a resume."""
        if self.n > 1:
            torch.manual_seed((seed * 1_000_003 + step) * 1_009 + self.rank)

    def same_weights(self, model: nn.Module) -> None:
        """Give every process the weights of the first."""
        if self.n > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)

    def add_up(self, model: nn.Module, loss: Tensor) -> Tensor:
        """Sum gradients, in place, and the loss over the processes."""
        if self.n == 1:
            return loss
        own = [each for each in model.parameters() if each.requires_grad]
        there = torch.tensor([float(each.grad is not None) for each in own], device=self.device)
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in own]
        flat = torch.cat([loss.detach().reshape(1).float(), there, *(grad.reshape(-1).float() for grad in grads)])
        dist.all_reduce(flat)
        begin = 1 + len(own)
        for place, (each, grad) in enumerate(zip(own, grads, strict=True)):
            end = begin + grad.numel()
            # What no process has a gradient for stays without one: the optimiser leaves it alone.
            each.grad = flat[begin:end].reshape(grad.shape).to(grad.dtype) if flat[1 + place] > 0 else None
            begin = end
        return flat[0]

    def figure(self, evaluate: Callable[[], float]) -> float:
        """What the first process says; the others do not compute it."""
        if self.n == 1:
            return evaluate()
        found = torch.tensor(evaluate() if self.rank == 0 else 0.0, dtype=torch.float64, device=self.device)
        dist.broadcast(found, 0)
        return float(found.item())

    def content(self, read: Callable[[], bytes | None]) -> bytes | None:
        """What the first process reads, in every process: only its machine needs the file."""
        if self.n == 1:
            return read()
        found = read() if self.rank == 0 else None
        size = torch.tensor(-1 if found is None else len(found), device=self.device)
        dist.broadcast(size, 0)
        if size < 0:
            return None
        content = torch.zeros(int(size.item()), dtype=torch.uint8, device=self.device)
        if found is not None:
            content.copy_(torch.frombuffer(bytearray(found), dtype=torch.uint8))
        dist.broadcast(content, 0)
        return content.cpu().numpy().tobytes()


ALONE: Final = Processes()


def n_processes() -> int:
    """How many processes `torchrun` says that there are."""
    try:
        return int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        raise PolytempoError("WORLD_SIZE is no number.", "torchrun sets it.") from None


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """This process's place among those that `torchrun` started; alone otherwise.

    Args:
        device: where the model is trained. Graphics cards talk by NCCL, processors by Gloo.

    Raises:
        PolytempoError: the others cannot be reached.
    """
    if n_processes() == 1:
        yield Processes(device=device)
        return
    # Some of its functions have the group as a default argument, taken when the module is loaded, which an optimiser's
    # first step does. Loaded while there is a group, it keeps the group for ever: its threads outlive
    # destroy_process_group, and one that gives a tensor back while the interpreter ends aborts the process.
    importlib.import_module("torch.distributed.nn.functional")
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise PolytempoError(
            f"the other processes of this training cannot be reached: {error}.",
            "Start all of them with torchrun.",
        ) from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()
