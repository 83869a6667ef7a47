"""An experiment file: which share of the users gets which bundle under which rules. TOML, or the same as JSON.

    name = "new-ranker"                 # also the salt of the assignment, unless `salt` says otherwise

    [[variants]]                        # the first is the one that the others are compared with
    name = "control"
    bundle = "shop-ranker"              # folder or channel, relative to this file
    weight = 9                          # shares, up to a common factor

    [[variants]]
    name = "explore"
    bundle = "shop-ranker-2"
    weight = 1
    n = 20                              # n and seen as in the bundle's policy
    exploration = {kind = "softmax", first = 4, temperature = 0.5}

    [[shadows]]                         # scored and recorded, never published
    bundle = "next"
    sample = 0.05

Who is in which variant: `stream.core.assignment`. How lists are drawn: `stream.core.exploration`.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from stream.bundle.channel import MAX_CHANNEL_BYTES
from stream.bundle.errors import BundleError
from stream.core.exploration import Exploration

__all__ = ["Experiment", "ExplorationRule", "Shadow", "Variant", "is_experiment", "read_experiment"]

_Count = Annotated[int, msgspec.Meta(ge=1)]
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ExplorationRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a variant's lists are drawn; the fields are those of `stream.core.exploration.Exploration`."""

    kind: Literal["softmax", "epsilon"] = "softmax"
    first: int = 1
    pool: int = 30
    temperature: float = 1.0
    epsilon: float = 0.1
    salt: str | None = None

    def __post_init__(self) -> None:
        self.salted("")  # which checks the figures

    def salted(self, salt: str) -> Exploration:
        """The same as the core's type; `salt` unless the rule has one of its own."""
        salt = salt if self.salt is None else self.salt
        return Exploration(self.kind, self.first, self.pool, self.temperature, self.epsilon, salt)


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One branch: its bundle, its share of the users, and rules that replace the bundle's own."""

    name: str
    bundle: str
    weight: float = 1.0
    n: _Count | None = None
    seen: Literal["session", "history", "none"] | None = None
    exploration: ExplorationRule | None = None

    def __post_init__(self) -> None:
        _check_name("variant", self.name)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"the weight of {self.name!r} is a number from 0 on, not {self.weight}")


class Shadow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle that answers a sample of the events without being published."""

    bundle: str
    sample: float = 0.1
    n: _Count | None = None
    seen: Literal["session", "history", "none"] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ValueError(f"the sample of a shadow is above 0 and at most 1, not {self.sample}")


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an experiment file holds."""

    name: str
    variants: tuple[Variant, ...]
    shadows: tuple[Shadow, ...] = ()
    salt: str | None = None

    def __post_init__(self) -> None:
        _check_name("experiment", self.name)
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"an experiment has variants of different names, not {names}")
        if not any(variant.weight > 0 for variant in self.variants):
            raise ValueError("no variant has a positive weight")

    @property
    def weights(self) -> dict[str, float]:
        """Variant -> its weight."""
        return {variant.name: variant.weight for variant in self.variants}

    @property
    def salt_of_users(self) -> str:
        """What the assignment is salted with."""
        return self.name if self.salt is None else self.salt


def is_experiment(path: Path) -> bool:
    """Whether a file is meant as an experiment rather than as a channel."""
    if path.suffix == ".toml":
        return True
    try:
        found = msgspec.json.decode(_read(path))
    except (BundleError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(found, dict) and "variants" in found


def read_experiment(file: Path | str) -> Experiment:
    """Read an experiment file; the bundles that it names are not looked at.

    Raises:
        BundleError: it is missing, too large, or not an experiment; the message names the field.
    """
    file = Path(file)
    content = _read(file)
    decoder: Any = msgspec.toml if file.suffix == ".toml" else msgspec.json
    try:
        found: Experiment = decoder.decode(content, type=Experiment)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BundleError(file, f"it is no experiment: {error}") from error
    return found


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_CHANNEL_BYTES + 1)
    except OSError as error:
        raise BundleError(file, f"there is no experiment file: {error.strerror}") from error
    if len(content) > MAX_CHANNEL_BYTES:
        raise BundleError(file, "it is too large for an experiment")
    return content


def _check_name(what: str, name: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{what} {name!r} is not 1 to 64 letters, digits, dots, dashes or underscores")
