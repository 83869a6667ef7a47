"""Fusion on film ratings, leave-one-out: `python -m training.films_fusion --data FILE --items FILE`.

The targets are those of `polytempo compare`, protocol `loo`: each user's last event, ranked over the full catalogue
with all that the user had before removed; a tie counts against the target, and so does not being a candidate.

    a user's events      1 … n-4 | n-3  n-2  n-1 | n
    sequence model       learns  |               |            never sees more than the first part of anybody
    ranker's targets             |  *    *    *  |            candidates and scores from statistics of the first part
    judged                                       | *          statistics of all but everybody's last event

As always in leave-one-out, others' later events are among what is known; here they are in the statistics.
All of it goes through the worker's own composition: fold, retrieve, candidates, features, rank.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import polars as pl
import torch
from msgspec.structs import replace as changed
from numpy.typing import NDArray

from stream.core.candidates import CandidateSpec
from stream.core.catalogue import ItemUpdate
from stream.core.features import FeatureSpec
from stream.core.scales import DAY_MS, DEFAULT_SCALES
from stream.core.seam import Policy, Recommender, Scorer
from stream.core.state import StateSpec
from stream.core.statistics import CoVisitationChannel, ItemStatistics, PopularityChannel, StatisticsSpec
from stream.logs import read_items
from training.config import FusionTraining, RankerTraining
from training.export import served
from training.fusion import Member, fusion_inputs, sequences_of, train_member, untrained_fusion
from training.listwise import fit_fusion, fusion_scores
from training.log import Log, item_updates
from training.metrics import hit_rate, ndcg
from training.replay import RecordingScorer, Replay
from training.rows import Rows, record
from training.targets import Targets

__all__ = ["N_TAUGHT", "SPEC", "TRAINING", "Films", "fuse", "main", "read_films"]

N_TAUGHT: Final = 3
"""Events of each user, before the last, that the ranker learns from."""
_EVER_MS: Final = 365 * DAY_MS
SPEC: Final = FeatureSpec(
    # No silence ends a session: the last films are the last films, whenever they were. A ring as long as records allow.
    state=StateSpec(DEFAULT_SCALES, n_ring=255, session_gap_ms=_EVER_MS),
    statistics=StatisticsSpec(
        popularity=tuple(PopularityChannel(h) for h in (7 * DAY_MS, 30 * DAY_MS, _EVER_MS)),
        co_visitation=(
            CoVisitationChannel(_EVER_MS, "any"),
            CoVisitationChannel(_EVER_MS, "next"),
            CoVisitationChannel(_EVER_MS, "back"),
            CoVisitationChannel(30 * DAY_MS, "any"),
        ),
        n_slots=256,
    ),
    candidates=CandidateSpec(n=640, n_earlier=0, lists=(("all:365d", 60),), own=False, n_retrieved=560),
    n_content=1024,
)
TRAINING: Final = FusionTraining(
    d=64, epochs=16, ranker=RankerTraining(hidden=(32, 16), epochs=8, batch=32, learning_rate=2e-3, dropout=0.2)
)


@dataclass(frozen=True, slots=True, eq=False)
class Films:
    """A log of ratings.

    Attributes:
        log: all events in order of time.
        from_end: (N,) 1 for each user's last event, 2 for the one before, …
        items: what is known of the films.
    """

    log: Log
    from_end: NDArray[np.int64]
    items: list[ItemUpdate]

    @classmethod
    def of(cls, log: Log, items: Sequence[ItemUpdate]) -> Films:
        """Count from the users' ends."""
        order = np.argsort(log.user, kind="stable")
        stop = np.searchsorted(log.user[order], log.user[order], side="right")
        from_end = np.empty(len(log), np.int64)
        from_end[order] = stop - np.arange(len(log))
        return cls(log, from_end, list(items))

    def targets(self, n_last: Sequence[int]) -> Targets:
        """The events at these places from the users' ends, each scored at the same user's event before it."""
        order = np.argsort(self.log.user, kind="stable")
        wanted = np.flatnonzero(np.isin(self.from_end[order], n_last) & (np.arange(len(order)) > 0))
        wanted = wanted[self.log.user[order[wanted]] == self.log.user[order[wanted - 1]]]
        row, scored = order[wanted], order[wanted - 1]
        by_row = np.argsort(row)
        return Targets(row[by_row], scored[by_row])

    def before(self, n_last: int) -> Log:
        """The events of which at least `n_last` of the same user follow."""
        keep = self.from_end > n_last
        log = self.log
        columns = {name: getattr(log, name)[keep] for name in ("user", "item", "kind", "ts_ms", "value", "segments")}
        # Users in the order of their first event, as a log has them; nobody's first event is held back.
        return replace(log, **columns)


def read_films(ratings: Path, items: Path | None) -> Films:
    """Parquet with user_id, item_id, rating and ts_ms; and, if given, a table of items with titles and genres."""
    frame = pl.read_parquet(ratings).select(
        pl.col("user_id").cast(pl.String),
        pl.col("item_id").cast(pl.String),
        pl.lit("rating").alias("event_type"),
        "ts_ms",
        pl.lit(None, pl.String).alias("event_id"),
        pl.col("rating").cast(pl.Float64).alias("value"),
    )
    updates = [] if items is None else item_updates(read_items(items))
    return Films.of(Log.of(frame, SPEC.types), updates)


def fuse(
    films: Films,
    training: FusionTraining = TRAINING,
    *,
    withouts: Sequence[Literal["nothing", "sequence", "statistics"]] = ("nothing",),
    seed: int = 0,
) -> dict[str, NDArray[np.int64]]:
    """Places of the judged targets, 0 beyond the tenth: by name, what is left of a fusion `without` something.

    Under "sequence model" stands the sequence model alone, ranking what it retrieves.
    """
    earlier = films.before(N_TAUGHT + 1)
    sequences = sequences_of(earlier, SPEC, slice(0, len(earlier)), training.n_items)
    member = train_member(sequences, SPEC, films.items, training, seed=seed)
    retriever = served(member.model, SPEC, len(member.vocabulary))
    taught = _rows(films, N_TAUGHT + 1, range(2, N_TAUGHT + 2), member, retriever)
    judged = _rows(films, 1, (1,), member, retriever)
    places = {}
    for without in withouts:
        settings = changed(training, without=without)
        model = fit_fusion(taught, settings.ranker, untrained_fusion(member, SPEC, settings, seed), seed=seed)
        scores = fusion_scores(judged, model)
        places["fusion" if without == "nothing" else f"without {without}"] = _places(films, judged, scores, member)
    table = member.retriever.representation().numpy()
    heard = np.einsum("rcq,rq->rc", table[judged.heard["candidate_index"]], judged.heard["query"])
    places["sequence model"] = _places(films, judged, heard.astype(np.float32), member)
    return places


def _rows(films: Films, n_held: int, n_last: Sequence[int], member: Member, retriever: Scorer) -> Rows:
    """What the ranker is told of the targets `n_last`, by statistics that miss each user's last `n_held` events."""
    view = _statistics(films, n_held, member)
    targets = films.targets(n_last)
    scorer = RecordingScorer(SPEC, fusion_inputs(SPEC), member.retriever.n_query)
    recommender = Recommender(SPEC, scorer, member.vocabulary, Policy(10, "history"), retriever=retriever)
    replay = Replay(films.log, recommender, view=view)
    with tempfile.TemporaryDirectory(prefix="polytempo-films-") as folder:
        rows = record(replay, targets, Path(folder), until=len(films.log))
        return replace(
            rows,
            candidate_features=np.array(rows.candidate_features),
            heard={name: np.array(column) for name, column in rows.heard.items()},
        )


def _statistics(films: Films, n_held: int, member: Member) -> ItemStatistics:
    log = films.before(n_held)
    scorer = RecordingScorer(SPEC, ("candidates",))
    replay = Replay(log, Recommender(SPEC, scorer, member.vocabulary), items=films.items, period_ms=DAY_MS)
    for _ in replay.run(select=np.zeros(len(log), np.bool_)):
        pass
    return replay.settled()


def _places(films: Films, rows: Rows, scores: NDArray[np.float32], member: Member) -> NDArray[np.int64]:
    """(T,) places among what the user has not seen, 0 for targets that were no candidates."""
    log = films.log
    number = {item_id: index for index, item_id in enumerate(member.vocabulary, start=1)}
    index_of = np.array([number.get(item_id, 0) for item_id in log.item_ids], np.int64)
    candidates = rows.heard["candidate_index"]  # (R, C)
    there = np.arange(candidates.shape[1]) < rows.n_candidates[:, None]
    order = np.argsort(log.user, kind="stable")
    first = np.searchsorted(log.user[order], np.arange(len(log.user_ids) + 1))
    found = np.zeros(rows.n_targets, np.int64)
    for at, row in enumerate(rows.row.tolist()):
        user = int(log.user[row])
        own = order[first[user] : first[user + 1]]
        seen = np.zeros(len(member.vocabulary) + 1, np.bool_)
        seen[index_of[log.item[own[log.ts_ms[own] <= log.ts_ms[row]]]]] = True
        seen[[0, index_of[log.item[row]]]] = False
        better = there[at] & ~seen[candidates[at]] & (scores[at] >= scores[at, rows.label[at]])
        found[at] = np.count_nonzero(better)  # the target itself is among them
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.films_fusion", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Parquet with user_id, item_id, rating, ts_ms")
    parser.add_argument("--items", type=Path, help="Parquet with item_id, movie_title, class")
    parser.add_argument("--net", choices=["tempo", "lstm_seq2seq"], default=TRAINING.net)
    parser.add_argument("--epochs", type=int, default=TRAINING.epochs, help="of the sequence model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ablate", action="store_true", help="also without the sequence model, and without statistics")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    training = changed(TRAINING, net=given.net, epochs=given.epochs)
    withouts: list[Literal["nothing", "sequence", "statistics"]] = ["nothing"]
    withouts += ["sequence", "statistics"] if given.ablate else []
    started = time.process_time()
    places = fuse(read_films(given.data, given.items), training, withouts=withouts, seed=given.seed)
    train_s = time.process_time() - started
    rows = [
        {"model": name, "hr_at_10": hit_rate(place), "ndcg_at_10": ndcg(place), "train_s": train_s, "seed": given.seed}
        for name, place in places.items()
    ]
    for row in rows:
        print(f"{row['model']:20} HR@10 {row['hr_at_10']:.3f}  NDCG@10 {row['ndcg_at_10']:.3f}")
    if given.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
