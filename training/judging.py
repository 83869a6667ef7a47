"""A bundle judged by what it would have recommended, and what it says of itself for later comparisons."""

from __future__ import annotations

from dataclasses import replace as with_fields

from stream.bundle.load import Bundle
from stream.core.distributions import Binned
from stream.core.seam import Policy, Recommender
from training.baskets import basket_places
from training.config import Config
from training.drift import reference_by_replay
from training.evaluate import Baselines, Evaluation, evaluate
from training.job import Job
from training.material import Material
from training.replay import Replay
from training.reporter import Quiet, Reporter
from training.targets import Targets

__all__ = ["beside_baskets", "distributions_of", "evaluate_bundle"]


def evaluate_bundle(
    bundle: Bundle, material: Material, *, period_ms: int, report: Reporter | None = None, measure: bool = False
) -> Evaluation:
    """Judge a bundle on the validation targets of a log, replayed from its beginning.

    The features are the bundle's own; of the material, log, items and targets are used.

    Args:
        measure: whether the cost of a served event is measured.
    """
    report = report or Quiet()
    spec = bundle.features
    policy = Policy(bundle.manifest.policy.n, bundle.manifest.policy.seen)
    recommender = Recommender(spec, bundle.scorer, bundle.vocabulary, policy, retriever=bundle.retriever)
    baselines = Baselines(spec, policy.seen)
    replay = Replay(material.log, recommender, items=material.items, period_ms=period_ms, watchers=[baselines])
    report.stage("evaluating", len(material.log))
    return evaluate(
        replay,
        material.validate,
        until=len(material.log),
        baselines=baselines,
        n=policy.n,
        on_progress=report.at,
        measure=measure,
    )


def beside_baskets(config: Config, material: Material, judged: Targets, evaluation: Evaluation) -> Evaluation:
    """The evaluation with the baselines of baskets over the same targets, if the configuration wants them."""
    if "basket" not in config.baselines:
        return evaluation
    spec = material.spec
    places = basket_places(material.log, judged, spec.types.weight_table(), spec.state.session_gap_ms, n=evaluation.n)
    return with_fields(evaluation, place=evaluation.place | places)


def distributions_of(bundle: Bundle, job: Job) -> dict[str, Binned]:
    """How a bundle's scores are distributed over the training window; the features are the bundle's own."""
    material = job.material
    window = material.log.between(material.from_ms, material.split_ms)
    job.report.stage("looking at scores", window.stop)
    return reference_by_replay(
        bundle,
        material.log,
        material.items,
        window,
        period_ms=job.period_ms,
        seed=job.config.seed,
        on_progress=job.report.at,
    )
