"""A training under way, and what it comes to: what every kind of model shares on its way to a bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from stream.bundle.manifest import Manifest
from stream.core.seam import Policy
from training.config import Config, span_ms
from training.evaluate import Evaluation
from training.material import Material
from training.reporter import Reporter

__all__ = ["Clock", "Job", "Trained"]


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a run came to.

    Attributes:
        manifest: of the bundle, as it was written.
        path: of the bundle.
        evaluation: of the bundle, on the validation targets.
        seconds: by stage.
    """

    manifest: Manifest
    path: Path
    evaluation: Evaluation
    seconds: dict[str, float]


class Clock:
    """How long each stage took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._at_s = time.monotonic()

    def lap(self, name: str) -> None:
        """The stage `name` is over."""
        now_s = time.monotonic()
        self.seconds[name] = round(now_s - self._at_s, 1)
        self._at_s = now_s


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A training under way.

    Attributes:
        config: what is asked for.
        material: the log with its targets.
        command: what the bundle gives as the way to make it again.
        replace: whether another bundle in the way may be replaced.
        report: told how far it is.
        clock: of its stages.
    """

    config: Config
    material: Material
    command: str
    replace: bool
    report: Reporter
    clock: Clock = field(default_factory=Clock)

    @property
    def path(self) -> Path:
        """Of the bundle."""
        return Path(self.config.bundle.path)

    @property
    def period_ms(self) -> int:
        """Age of the item statistics at most."""
        return span_ms(self.config.period)

    @property
    def policy(self) -> Policy:
        """How lists are put together."""
        return Policy(self.config.policy.n, self.config.policy.seen)

    def came_to(self, manifest: Manifest, evaluation: Evaluation) -> Trained:
        """The end."""
        return Trained(manifest, self.path, evaluation, self.clock.seconds)
