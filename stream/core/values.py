"""What is done to an event's value (a price, a rating, an amount) before anything else: filled, clipped, scaled.

The numbers were fitted on the training window and are frozen in the bundle, so that live events, replays and training
rows go through the same arithmetic: `Recommender.step` does it before it folds, and nothing else does.

Records hold values as the bundle of their time saw them. After an exchange for a bundle with other steps, a history
holds both kinds until the ring has turned over, as it does with everything else that a bundle decides.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.events import REQUEST, EventBatch

__all__ = ["Clip", "Fill", "Log1p", "Scale", "ValueSpec", "ValueStep"]

_LARGEST: Final = float(np.finfo(np.float32).max)
Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fill:
    """NaN becomes `value`."""

    value: float

    def __call__(self, values: Values) -> Values:
        """(N,) -> (N,)."""
        return np.where(np.isnan(values), self.value, values)


@dataclass(frozen=True, slots=True)
class Clip:
    """Values beyond `low` or `high` become these; NaN stays."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"nothing lies between {self.low} and {self.high}")

    def __call__(self, values: Values) -> Values:
        """(N,) -> (N,)."""
        return np.clip(values, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Log1p:
    """sign(v) log(1 + |v|): negative amounts keep their sign; NaN stays."""

    def __call__(self, values: Values) -> Values:
        """(N,) -> (N,)."""
        return np.copysign(np.log1p(np.abs(values)), values)


@dataclass(frozen=True, slots=True)
class Scale:
    """(v - center) / scale; NaN stays."""

    center: float
    scale: float

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError(f"values are divided by something above 0, not by {self.scale}")

    def __call__(self, values: Values) -> Values:
        """(N,) -> (N,)."""
        return (values - self.center) / self.scale


ValueStep = Fill | Clip | Log1p | Scale
_STEPS: Final[Mapping[str, type[ValueStep]]] = {"fill": Fill, "clip": Clip, "log1p": Log1p, "scale": Scale}
_NAMES: Final = {step: name for name, step in _STEPS.items()}


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """The steps, in their order, and the events that they are for.

    Attributes:
        steps: none leaves every value as it is.
        kinds: codes of the event types whose values they are; none means all but control events.

    Raises ValueError for a number that is not finite or has no float32, and for codes of no event type.
    """

    steps: tuple[ValueStep, ...] = ()
    kinds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for step in self.steps:
            for field in fields(step):
                number = getattr(step, field.name)
                if not (math.isfinite(number) and abs(number) <= _LARGEST):
                    raise ValueError(f"{_NAMES[type(step)]}: {field.name} is {number}")
        if any(not 0 <= kind < REQUEST for kind in self.kinds):
            raise ValueError(f"event types {self.kinds} are not all types of ordinary events")

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return len(self.steps) > 0

    def transform(self, value: NDArray[np.floating], kind: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(N,) values of events of these kinds (N,), after all steps; to these, infinite ones are missing (NaN).

        Computed in float64 and rounded once, so that a value has one result, wherever in whatever batch it stands.
        """
        if not self.steps:
            return value.astype(np.float32)
        mine = np.isin(kind, self.kinds) if self.kinds else kind < REQUEST
        changed = value.astype(np.float64)
        changed[~np.isfinite(changed)] = np.nan
        for step in self.steps:
            changed = step(changed)
        changed = np.clip(changed, -_LARGEST, _LARGEST)
        return np.where(mine, changed, value).astype(np.float32)

    def apply(self, batch: EventBatch) -> EventBatch:
        """The batch with transformed values; the very same where there is nothing to do."""
        if not self or len(batch) == 0:
            return batch
        return replace(batch, value=self.transform(batch.value, batch.kind))

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, for a manifest.

        >>> ValueSpec((Clip(0.0, 9.5), Log1p())).to_json()
        {'steps': [{'step': 'clip', 'low': 0.0, 'high': 9.5}, {'step': 'log1p'}], 'kinds': []}
        """
        steps = [
            {"step": _NAMES[type(step)]} | {field.name: getattr(step, field.name) for field in fields(step)}
            for step in self.steps
        ]
        return {"steps": steps, "kinds": list(self.kinds)}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ValueSpec:
        """The inverse of `to_json`.

        Raises:
            ValueError: a step or a field is unknown, missing or impossible.
        """
        try:
            steps: Sequence[Mapping[str, Any]] = plain["steps"]
            made = tuple(
                _STEPS[step["step"]](**{name: float(number) for name, number in step.items() if name != "step"})
                for step in steps
            )
            return cls(made, tuple(int(kind) for kind in plain["kinds"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a list of value steps: {error}") from error
