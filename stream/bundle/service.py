"""What a worker serves with: one bundle, or an experiment of several; loaded, checked, and watched for changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stream.bundle.channel import BundleWatcher, resolve
from stream.bundle.errors import BundleError
from stream.bundle.experiment import Experiment, Shadow, Variant, is_experiment, read_experiment
from stream.bundle.load import Bundle, load_bundle
from stream.core.arms import unshared
from stream.core.assignment import Assignment
from stream.core.distributions import Binned
from stream.core.exploration import Exploration
from stream.core.features import FeatureSpec
from stream.core.seam import Policy, Scorer

__all__ = ["DEFAULT_VARIANT", "Arm", "ServedBundle", "Service", "ServiceWatcher", "ShadowArm", "load_service"]

DEFAULT_VARIANT = "default"
"""What recommendations name where there is no experiment."""


class ServedBundle(Protocol):
    """What answering needs of a bundle; `stream.bundle.load.Bundle` is one."""

    @property
    def features(self) -> FeatureSpec:
        """How features are computed."""
        ...

    @property
    def scorer(self) -> Scorer:
        """The model."""
        ...

    @property
    def retriever(self) -> Scorer | None:
        """The sequence model that goes before it, if there is one."""
        ...

    @property
    def vocabulary(self) -> list[str]:
        """The items that the model knows by number."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what a score is the sum of; empty for a model that does not say."""
        ...

    @property
    def distributions(self) -> Mapping[str, Binned]:
        """Of features and scores in the training window; empty where the bundle does not say."""
        ...

    @property
    def reference(self) -> str:
        """name@version."""
        ...

    @property
    def tag(self) -> int:
        """Names the bundle in users' records."""
        ...


@dataclass(frozen=True, slots=True)
class Arm:
    """A bundle under a policy, and the variant that recommendations name."""

    variant: str
    bundle: ServedBundle
    policy: Policy


@dataclass(frozen=True, slots=True)
class ShadowArm:
    """A bundle that answers a share of the events in the shadow."""

    bundle: ServedBundle
    policy: Policy
    sample: float


@dataclass(frozen=True, slots=True)
class Service:
    """Who answers whom.

    Attributes:
        experiment: what the file says; None for a single bundle.
        assignment: users to the numbers of `arms`; None where there is one.
        arms: one for each variant.
        shadows: scored and recorded, never published.
    """

    experiment: Experiment | None
    assignment: Assignment | None
    arms: tuple[Arm, ...]
    shadows: tuple[ShadowArm, ...] = ()

    @property
    def reference(self) -> str:
        """What it is, for people: `name@version`, or the experiment and its bundles."""
        if self.experiment is None:
            return self.arms[0].bundle.reference
        each = ", ".join(f"{arm.variant}: {arm.bundle.reference}" for arm in self.arms)
        return f"experiment {self.experiment.name} ({each})"


def load_service(
    path: Path | str, *, n: int | None = None, seen: str | None = None, forget_after_ms: int = 0
) -> Service:
    """Load a bundle folder, what a channel points to, or all bundles of an experiment file.

    Args:
        path: folder or file.
        n, seen: replace what bundles say; what a variant of an experiment says itself stands.
        forget_after_ms: see `stream.core.seam.Policy`.

    Raises:
        BundleError: a file or bundle is refused, or the bundles of an experiment cannot share one fold; the message
            says what differs.
    """
    path = Path(path)
    rules = _Rules(n, seen, forget_after_ms)
    if path.is_dir() or not is_experiment(path):
        bundle = load_bundle(resolve(path))
        return Service(None, None, (Arm(DEFAULT_VARIANT, bundle, rules.policy(bundle)),))
    experiment = read_experiment(path)
    loaded: dict[Path, Bundle] = {}

    def load(named: str) -> Bundle:
        folder = resolve(path.parent / named)
        if folder not in loaded:
            loaded[folder] = load_bundle(folder)
        return loaded[folder]

    arms = tuple(_arm(experiment, each, load(each.bundle), rules) for each in experiment.variants)
    shadows = tuple(_shadow(each, load(each.bundle), rules) for each in experiment.shadows)
    first = arms[0].bundle
    for other in (*(arm.bundle for arm in arms[1:]), *(shadow.bundle for shadow in shadows)):
        differences = unshared(first.features, other.features)
        if differences:
            raise BundleError(
                path,
                f"{first.reference} and {other.reference} cannot serve side by side; they differ in "
                + "; in ".join(differences),
                hint="Train the bundles of an experiment with the same event types, context fields, time scales and "
                "item statistics.",
            )
    assignment = Assignment(experiment.salt_of_users, experiment.weights)
    return Service(experiment, assignment, arms, shadows)


@dataclass(frozen=True, slots=True)
class _Rules:
    """What whoever serves says of policies; None leaves it to the bundle."""

    n: int | None
    seen: str | None
    forget_after_ms: int

    def policy(
        self, bundle: Bundle, n: int | None = None, seen: str | None = None, exploration: Exploration | None = None
    ) -> Policy:
        """A bundle's, where a variant says nothing else."""
        own = bundle.manifest.policy
        n, seen = n or self.n, seen or self.seen
        return Policy(own.n if n is None else n, own.seen if seen is None else seen, exploration, self.forget_after_ms)


def _arm(experiment: Experiment, variant: Variant, bundle: Bundle, rules: _Rules) -> Arm:
    rule = variant.exploration
    how = None if rule is None else rule.salted(f"{experiment.salt_of_users}/{variant.name}")
    return Arm(variant.name, bundle, rules.policy(bundle, variant.n, variant.seen, how))


def _shadow(shadow: Shadow, bundle: Bundle, rules: _Rules) -> ShadowArm:
    return ShadowArm(bundle, rules.policy(bundle, shadow.n, shadow.seen), shadow.sample)


class ServiceWatcher:
    """Tells when what a worker serves with has changed into something whole.

    Args:
        path: a bundle folder, a channel or an experiment file. What it says now counts as known.

    Attributes:
        problem: why the last change that was seen is not reported; None when there is nothing to complain about.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._experiment: Experiment | None = None
        self._bundles: list[BundleWatcher] = []
        self._stamp: Any = None
        self.problem: BundleError | None = None
        self.poll()

    def poll(self) -> bool:
        """Whether there is something new to load, each change once; files' hashes then agree with their manifests."""
        changed = self._look_at_experiment()
        found = [watcher.poll() is not None for watcher in self._bundles]
        problems = [watcher.problem for watcher in self._bundles if watcher.problem is not None]
        if problems:
            self.problem = problems[0]
        elif any(found) or changed:
            self.problem = None
        return any(found) or changed

    def _look_at_experiment(self) -> bool:
        """Follow the file itself; whether it says something else than before."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        if self._path.is_dir() or not is_experiment(self._path):
            was_experiment, self._experiment = self._experiment is not None, None
            if was_experiment or not self._bundles:
                self._bundles = [BundleWatcher(self._path)]
            return was_experiment
        try:
            experiment = read_experiment(self._path)
        except BundleError as error:
            self.problem = error
            return False
        if experiment == self._experiment:
            return False
        self._experiment = experiment
        named = {each.bundle for each in experiment.variants} | {each.bundle for each in experiment.shadows}
        self._bundles = [BundleWatcher(self._path.parent / name) for name in sorted(named)]
        self.problem = None
        return True


def _stamp(path: Path) -> Any:
    try:
        found = path.stat()
    except OSError:
        return None
    return None if path.is_dir() else (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
