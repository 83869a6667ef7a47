"""The lines of a comparison: baselines, models, a fusion; and one model without one thing at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from msgspec.structs import replace as changed

from training.compare.baselines import BASELINES
from training.compare.models import Loss
from training.compare.task import Protocol
from training.config import FusionTraining, SequenceTraining

__all__ = ["Contender", "Options", "ablations", "contenders"]


@dataclass(frozen=True, slots=True)
class Contender:
    """A line of the table.

    Attributes:
        name: of the line.
        settings: of a model or a fusion; None for a baseline.
        physical: False gives the model one second between all events: decay by position.
        state: how a recurrent model is evaluated: as it is trained, all events at once, or event by event with its
            state in single or in half precision.
        loss: what a sequence model learns by; None for what suits the comparison, see `Options.loss`.
    """

    name: str
    settings: SequenceTraining | FusionTraining | None = None
    physical: bool = True
    state: Literal["none", "single", "half"] = "none"
    loss: Loss | None = None

    @property
    def weights(self) -> tuple[Any, ...]:
        """What is the same for contenders that share a training."""
        settings = self.settings
        if settings is None:
            return (self.name,)
        if isinstance(settings, FusionTraining):
            settings = changed(settings, without="nothing")
        return settings, self.physical, self.loss


@dataclass(frozen=True, slots=True)
class Options:
    """How a comparison is run.

    Attributes:
        protocols: see `training.compare.task`.
        seeds: of models; baselines have none.
        cut: share of the events before the moment of the protocol `time`.
        choose: judge on a part of the training part, see `training.compare.task.split`.
        repeats: whether what a user had may be recommended again.
        served: whether models are exported and timed.
    """

    protocols: tuple[Protocol, ...] = ("loo", "time")
    seeds: tuple[int, ...] = (0,)
    cut: float = 0.8
    choose: bool = False
    repeats: bool = False
    served: bool = True

    @property
    def loss(self) -> Loss:
        """Where nothing comes again, nothing is to be learnt about what was there before."""
        return "full" if self.repeats else "unseen"


def contenders(settings: Mapping[str, SequenceTraining | FusionTraining]) -> list[Contender]:
    """All baselines, then models by name, with their settings."""
    return [*(Contender(name) for name in BASELINES), *(Contender(name, each) for name, each in settings.items())]


def ablations(settings: Mapping[str, SequenceTraining | FusionTraining]) -> list[Contender]:
    """Tempo, the fusion and the transformer, and each without one thing at a time."""
    tempo, fusion, transformer = settings["tempo"], settings["fusion"], settings["transformer"]
    return [
        Contender("tempo", tempo),
        Contender("tempo, event by event", tempo, state="single"),
        Contender("tempo, event by event, state in fp16", tempo, state="half"),
        Contender("tempo, one scale", changed(tempo, n_scales=1)),
        Contender("tempo, one read-out for all scales", changed(tempo, decomposed=False)),
        Contender("tempo, time by position", tempo, physical=False),
        Contender("tempo, loss over seen items too", tempo, loss="full"),
        Contender("fusion", fusion),
        Contender("fusion, without live item statistics", changed(fusion, without="statistics")),
        Contender("fusion, without the sequence model's score", changed(fusion, without="sequence")),
        Contender("transformer", transformer),
        Contender("transformer, 256 sampled negatives", transformer, loss="sampled"),
    ]
