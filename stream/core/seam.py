"""The one composition that the worker, the backtest and the builder of training sets share.

    events   = spec.values.apply(events)                  values filled, clipped, scaled as the bundle says
    folded   = fold(states, events)                       records -> records, event time only
    found    = retriever.score(inputs)                    a sequence model's best and its query, where there is one
    features = featurize(folded, events, view, found)     named arrays as of each event
    outputs  = scorer.score(inputs)                       ONNX session, torch module or a fake: same contract
    ranked   = rank(outputs, policy)                      filters, order, ties
    activity = what the batch adds to the item statistics

Everything on either side of it is I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from stream.core.activity import ActivityBatch
from stream.core.candidates import SEEN_POLICIES, Filters, Scratch
from stream.core.events import EventBatch
from stream.core.exploration import Exploration, draw, seed_of
from stream.core.features import FeatureSpec, TensorSpec, Vocabulary, content_of, featurize
from stream.core.fold import APPLIED, DUPLICATE, ERASED, REQUESTED, Folded, fold
from stream.core.identity import rec_id
from stream.core.parts import Part, source_keys, starts
from stream.core.ranking import Ranked, Sources, rank, sources_of, with_strongest
from stream.core.state import NEVER_MS, States, StateSpec, compiled_form, records_at
from stream.core.statistics import ItemStatistics
from stream.core.statistics.returns import earlier_items

__all__ = ["Answers", "Policy", "Recommender", "Scorer", "Stepped", "Witness"]


_RANKED_AT_ONCE: Final = 32
"""Events whose candidates a ranker scores in one run: with some hundred candidates each, what its layers pass on then
stays in the processor's cache. For an untrained ranker over 128 candidates, 256 events at once took twice the time."""

_LARGEST_HALF: Final = np.float32(np.finfo(np.float16).max)


class Scorer(Protocol):
    """What scores. The ONNX session, the PyTorch module and fakes pass the same contract tests.

    Outputs are `items` int64 (B, k), `scores` float32 (B, k) and, where n_state > 0, `state` float32 (B, n_state). In
    the space "candidates", items are values of the input `candidates`, in any order, -1 for padding. In the space
    "vocabulary" they are indices of the bundle's vocabulary from 1, best first, 0 for none.

    A scorer may add `parts` float32 (B, k, G), which sum to `scores` over G: what each of G named parts contributes.
    The strongest one of an item is among its reasons.

    A retriever is one of the space "vocabulary" that goes before one of the space "candidates": it gives `query`
    float32 (B, q) besides, which the other may ask for, and its best items are candidates.
    """

    inputs: Mapping[str, TensorSpec]
    n_state: int
    space: Literal["candidates", "vocabulary"]

    def score(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Score a batch of named inputs, each (B, …)."""
        ...


StepAlone = Callable[[Mapping[str, NDArray[Any]]], NDArray[np.float32]]
"""Inputs as for `Scorer.score` -> what it gives as `state`, up to rounding, without the rest and its cost."""


class Witness(Protocol):
    """Who is told what a model was given and what it said; a `stream.core.tally.Tally` is one."""

    def __call__(
        self, rows: NDArray[np.intp], inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, NDArray[Any]]
    ) -> None:
        """Take note of R events.

        Args:
            rows: (R,) which events of the batch; of a recurrent model all that it stepped through.
            inputs, outputs: arrays (R, …), to be copied by whoever keeps them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules that are not the model's.

    Attributes:
        n: items of a recommendation, unless a request asks for another number.
        seen: what of the user's past is not recommended again, see SEEN_POLICIES.
        exploration: how lists are drawn; None for the best items in their order.
        forget_after_ms: the silence, in event time, after which a user who comes back is a new one; 0 for never.
    """

    n: int = 10
    seen: str = "session"
    exploration: Exploration | None = None
    forget_after_ms: int = 0

    def __post_init__(self) -> None:
        if self.seen not in SEEN_POLICIES:
            raise ValueError(f"the seen policy is one of {', '.join(SEEN_POLICIES)}, not {self.seen!r}")
        if self.forget_after_ms < 0:
            raise ValueError(f"nobody is silent for {self.forget_after_ms} ms")
        if self.n < 1:
            raise ValueError(f"a recommendation needs at least one item, not {self.n}")


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Recommendations for events of a batch.

    Attributes:
        rows: (R,) the events that get one.
        ranked: their R recommendations.
        as_of_ms: (R,) the time that each was made for.
    """

    rows: NDArray[np.intp]
    ranked: Ranked
    as_of_ms: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Stepped(Answers):
    """What a batch led to.

    Attributes:
        folded: the records, and the outcome of each event.
        activity: what the batch adds to the item statistics.
    """

    folded: Folded
    activity: ActivityBatch


class Recommender:
    """A feature specification, a scorer and a policy, joined; holds nothing of users or items but working memory.

    `tag` names the bundle in records: recurrent state that carries another tag is rebuilt from the ring. With a
    `retriever`, that state is the retriever's. A `witness` is told of each batch what the scorer was given and said.

    Raises ValueError where a retriever goes before a scorer that does not rank candidates.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        scorer: Scorer,
        vocabulary: Sequence[str] = (),
        policy: Policy | None = None,
        tag: int = 1,
        retriever: Scorer | None = None,
        witness: Witness | None = None,
    ) -> None:
        if retriever is not None and (
            (scorer.space, scorer.n_state, retriever.space) != ("candidates", 0, "vocabulary")
        ):
            raise ValueError("a retriever ranks the vocabulary, for a scorer that ranks candidates and has no state")
        self.spec = spec
        self.scorer = scorer
        self.retriever = retriever
        self.witness = witness
        self._sequential = scorer if retriever is None else retriever
        self._step_alone: StepAlone | None = getattr(self._sequential, "step", None)
        self.n_state = self._sequential.n_state
        self.state_spec: StateSpec = replace(spec.state, n_model=self.n_state)
        self.vocabulary = Vocabulary(vocabulary)
        self.policy = policy if policy is not None else Policy()
        self.tag = tag
        self._weights = spec.types.weight_table()
        self._scratch = Scratch()

    def step(
        self,
        states: States,
        batch: EventBatch,
        view: ItemStatistics,
        *,
        source: str,
        covers: tuple[int, int] | None = None,
        select: NDArray[np.bool_] | None = None,
    ) -> Stepped:
        """Apply a batch and recommend.

        Args:
            states: (U,) record of each of `batch.users`, not changed.
            batch: B events of the partition `source` ("topic/partition").
            view: statistics of items; read only.
            covers: first and last offset that the batch stands for, where it was more than its valid events.
            select: (B,) events that need a recommendation; all that are not replays unless given. A recurrent scorer
                steps through every event anyway.
        """
        if covers is None:
            covers = (int(batch.offset[0]), int(batch.offset[-1])) if len(batch) > 0 else (0, 0)
        parts = [Part(batch, source, covers)]
        batch = self.spec.values.apply(batch)
        folded = self.fold(states, batch, parts)
        (activity,) = self.activities(batch, folded, parts)
        answers = self.recommend(states, folded, batch, view, parts, select=select)
        return Stepped(answers.rows, answers.ranked, answers.as_of_ms, folded, activity)

    def fold(
        self, states: States, batch: EventBatch, parts: Sequence[Part], *, spec: StateSpec | None = None
    ) -> Folded:
        """The records after a batch, in a layout with room for the state of other recommenders if `spec` says so.

        The values of its events are as the features' specification prepares them; so they are in `recommend`.
        """
        spec = self.state_spec if spec is None else spec
        return fold(
            spec,
            states,
            batch,
            source=source_keys(parts),
            weights=self._weights,
            forget_after_ms=self.policy.forget_after_ms,
        )

    def recommend(
        self,
        states: States,
        folded: Folded,
        batch: EventBatch,
        view: ItemStatistics,
        parts: Sequence[Part],
        *,
        users: NDArray[np.bool_] | None = None,
        select: NDArray[np.bool_] | None = None,
    ) -> Answers:
        """Answer the events of a batch that was folded; the recurrent state of its users is written into `folded`.

        Args:
            states: (U,) record of each user before the batch.
            folded: what the batch did to them.
            parts: what the batch was joined of.
            users: (U,) those that are this recommender's; all unless given.
            select: as for `step`.
        """
        answered = (folded.outcome == APPLIED) | (folded.outcome == DUPLICATE) | (folded.outcome == REQUESTED)
        if users is not None:
            answered &= users[batch.user]
        if self.n_state == 0:
            self._disown(folded, users)
        rows = np.flatnonzero(answered if select is None else answered & select)
        retrieved: NDArray[np.int32] | None = None
        found: dict[str, NDArray[Any]] = {}
        if self.retriever is not None:
            retrieved, found = self._retrieve(states, folded, batch, rows, np.flatnonzero(answered), users, view)
        stepped = rows if self.scorer.n_state == 0 else np.flatnonzero(answered)
        filters = self._filters(batch, stepped, view)
        features = featurize(
            self.spec,
            folded,
            batch,
            stepped,
            view,
            self.scorer.inputs,
            filters=filters,
            vocabulary=self.vocabulary,
            scratch=self._scratch,
            retrieved=retrieved,
        )
        features.inputs.update(found)
        if len(stepped) == 0:
            outputs: dict[str, NDArray[Any]] = {
                "items": np.zeros((0, 1), np.int64),
                "scores": np.zeros((0, 1), np.float32),
            }
        elif self.scorer.n_state == 0:
            outputs = self._score(features.inputs, len(stepped))
        else:
            outputs = self._score_in_waves(states, folded, batch, stepped, features.inputs, users, view)
        if self.witness is not None and len(stepped) > 0:
            self.witness(stepped, features.inputs, outputs)
        sources: Sources = np.zeros((len(stepped), 0), np.uint16)
        if self.scorer.space == "vocabulary":
            items = self._numbered(outputs["items"], view)
        else:
            items = outputs["items"].astype(np.int32, copy=False)
            candidates = features.inputs.get("candidates")
            if candidates is not None:
                sources = sources_of(items, candidates, features.sources, self._scratch, view.catalogue.capacity)
        if "parts" in outputs:
            sources = with_strongest(sources, outputs["parts"])
        asked = np.full(len(stepped), self.policy.n, np.int64)
        wishes = [(row, request.n) for row, request in batch.requests.items() if request.n is not None]
        for row, n in wishes:
            at = int(np.searchsorted(stepped, row))
            if at < len(stepped) and stepped[at] == row:
                asked[at] = n
        how = self.policy.exploration
        ranked = rank(
            self.spec,
            records_at(folded.after, stepped),
            items,
            outputs["scores"],
            sources,
            view,
            filters,
            asked if how is None else np.maximum(asked, how.pool),
            self._scratch,
        )
        if how is not None:
            seeds = [seed_of(how.salt, name) for name in _rec_ids(batch, stepped, parts)]
            ranked = _drawn(how, ranked, asked, np.array(seeds, np.uint64))
        as_of_ms = features.as_of_ms
        if len(stepped) != len(rows):
            keep = np.isin(stepped, rows)
            ranked = ranked.of(keep)
            as_of_ms = as_of_ms[keep]
        return Answers(rows, ranked, as_of_ms)

    def _score(self, inputs: dict[str, NDArray[Any]], n_rows: int) -> dict[str, NDArray[Any]]:
        """Score events that do not depend on each other."""
        if self.scorer.space != "candidates" or n_rows <= _RANKED_AT_ONCE:
            return self.scorer.score(inputs)
        parts = [
            self.scorer.score({name: column[first : first + _RANKED_AT_ONCE] for name, column in inputs.items()})
            for first in range(0, n_rows, _RANKED_AT_ONCE)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _retrieve(
        self,
        states: States,
        folded: Folded,
        batch: EventBatch,
        rows: NDArray[np.intp],
        answered: NDArray[np.intp],
        users: NDArray[np.bool_] | None,
        view: ItemStatistics,
    ) -> tuple[NDArray[np.int32], dict[str, NDArray[Any]]]:
        """What a sequence model says before the ranker is asked.

        Args:
            rows: (R,) the events that get a recommendation.
            answered: the events that a recurrent model steps through, all of `rows` among them.

        Returns:
            (R, k) catalogue numbers of its best, -1 for none, and its query (R, q) by name.
        """
        retriever = self._sequential
        stepped = rows if retriever.n_state == 0 else answered
        none = np.zeros(len(stepped) + 1, np.int64)
        empty = np.zeros(0, np.int32)
        features = featurize(
            self.spec,
            folded,
            batch,
            stepped,
            view,
            retriever.inputs,
            filters=Filters(0, empty, none, empty, none, np.zeros(len(stepped), np.bool_)),
            vocabulary=self.vocabulary,
            scratch=self._scratch,
        )
        if len(stepped) == 0:
            return np.zeros((0, 0), np.int32), {}
        if retriever.n_state == 0:
            outputs = retriever.score(features.inputs)
        else:
            outputs = self._score_in_waves(states, folded, batch, stepped, features.inputs, users, view)
        at = slice(None) if len(stepped) == len(rows) else np.searchsorted(stepped, rows)
        return self._numbered(outputs["items"][at], view), {"query": outputs["query"][at]}

    def _score_in_waves(
        self,
        states: States,
        folded: Folded,
        batch: EventBatch,
        rows: NDArray[np.intp],
        inputs: dict[str, NDArray[Any]],
        users: NDArray[np.bool_] | None,
        view: ItemStatistics,
    ) -> dict[str, NDArray[Any]]:
        """Score events whose recurrent state the same user's earlier events of the batch write.

            offset   10   11   12   13   14        wave 0:  a10  b11
            user      a    b    a    a    b        wave 1:  a12  b14
                                                   wave 2:  a13

        Events that change nothing (duplicates, requests) read the state without writing it. Where the state can be
        had alone, waves are for that, and all events are scored at once when each one's state is known: where users
        come in bursts, waves are many and small.
        """
        changes, erases = folded.outcome == APPLIED, folded.outcome == ERASED
        stored = self._own_state(states, users, view)  # (U, d) as of the events scored so far
        wave_of, last = np.zeros(len(batch), np.int64), np.ones(len(batch), np.bool_)
        for row, earlier in enumerate(folded.earlier.tolist()):  # a user's events come in order
            if earlier >= 0:
                wave_of[row] = wave_of[earlier] + 1
                last[earlier] = False
        # Arranged by wave once, so that each wave is a slice, and begins with the events that others wait for.
        awaited = changes[rows] & ~last[rows]
        order = np.lexsort((~awaited, wave_of[rows]))
        arranged = {name: column[order] for name, column in inputs.items()}
        at = rows[order]
        who, write, anew, awaited = batch.user[at], changes[at], folded.anew[at], awaited[order]
        n_waves = int(wave_of.max(initial=-1)) + 1
        ends = np.searchsorted(wave_of[at], np.arange(n_waves + 1)).tolist()
        step_alone = self._step_alone if n_waves > 1 else None
        before = np.empty((len(at), self.n_state), np.float32)
        scored: list[dict[str, NDArray[Any]]] = []
        for wave, (first, end) in enumerate(pairwise(ends)):
            if first < end:
                users_here, write_here = who[first:end], write[first:end]
                found = stored[users_here]
                found[anew[first:end]] = 0
                if step_alone is None:
                    given = {name: column[first:end] for name, column in arranged.items()}
                    outputs = self._step_model(given, found)
                    stored[users_here[write_here]] = outputs.pop("state")[write_here]
                    scored.append(outputs)
                else:
                    before[first:end] = found
                    n = int(np.count_nonzero(awaited[first:end]))
                    if n > 0:
                        event = {name: column[first : first + n] for name, column in arranged.items()}
                        stored[users_here[:n]] = _kept(step_alone({**event, "state": found[:n]}))
            if erases.any():
                stored[batch.user[erases & (wave_of == wave)]] = 0
        if step_alone is not None and len(at) > 0:
            outputs = self._step_model(arranged, before)
            final = write & ~awaited
            stored[who[final]] = outputs.pop("state")[final]
            scored.append(outputs)
        written = folded.changed & ~folded.erased
        if users is not None:
            written &= users
        folded.states["model"][written, : self.n_state] = stored[written]
        folded.states["model"][written, self.n_state :] = 0
        folded.states["model_tag"][written] = self.tag
        back = np.empty(len(order), np.intp)
        back[order] = np.arange(len(order))
        return {name: np.concatenate([each[name] for each in scored])[back] for name in scored[0]}

    def _disown(self, folded: Folded, users: NDArray[np.bool_] | None) -> None:
        """Without a state of its own, let nobody take for current what another bundle wrote before these events."""
        stale = folded.changed & (folded.states["model_tag"] != 0)
        if users is not None:
            stale &= users
        if stale.any():
            folded.states["model"][stale] = 0
            folded.states["model_tag"][stale] = 0

    def _own_state(self, states: States, users: NDArray[np.bool_] | None, view: ItemStatistics) -> NDArray[np.float32]:
        """(U, d) recurrent state of this recommender's users; where another bundle wrote it, rebuilt from the ring."""
        stored = states["model"][:, : self.n_state].astype(np.float32)
        strange = (states["model_tag"] != self.tag) & (states["n_events"] > 0)
        foreign = np.flatnonzero(strange if users is None else strange & users)
        if len(foreign) == 0:
            return stored
        stored[foreign] = 0
        ring_ms, n_kinds = states["ring_ms"][foreign], self.spec.state.n_kinds
        gap_s = np.zeros(ring_ms.shape, np.float32)
        known = ring_ms[:, :-1] != NEVER_MS
        gap_s[:, 1:] = np.where(known, ring_ms[:, 1:] - np.where(known, ring_ms[:, :-1], 0), 0) / 1000
        items = self.vocabulary.encode(states["ring_item"][foreign])
        kinds = np.minimum(states["ring_kind"][foreign], n_kinds - 1).astype(np.int64)
        values = np.nan_to_num(states["ring_value"][foreign])
        content = None
        if "item_content" in self._sequential.inputs:
            content = content_of(self.spec, states["ring_item"][foreign], view.catalogue)
        for place in range(ring_ms.shape[1]):
            step = np.flatnonzero(ring_ms[:, place] != NEVER_MS)
            if len(step) == 0:
                continue
            event: dict[str, NDArray[Any]] = {
                "item": items[step, place],
                "kind": kinds[step, place],
                "gap_s": gap_s[step, place],
                "value": values[step, place],
            }
            if content is not None:
                event["item_content"] = content[step, place]
            stored[foreign[step]] = self._step_model(event, stored[foreign[step]])["state"]
        return stored

    def _step_model(self, event: dict[str, NDArray[Any]], state: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """One step of a recurrent scorer; the state comes back as the record will hold it, in float16 steps.

        So the next event reads the same numbers whether it follows in this batch, in another one or after a restart.
        """
        inputs: dict[str, NDArray[Any]] = {**event, "state": state}
        outputs = self._sequential.score({name: inputs[name] for name in self._sequential.inputs})
        return {**outputs, "state": _kept(outputs["state"].reshape(len(state), -1))}

    def _numbered(self, indices: NDArray[np.int64], view: ItemStatistics) -> NDArray[np.int32]:
        """Vocabulary indices of any shape -> catalogue numbers, -1 where the catalogue does not know the item."""
        return self.vocabulary.numbers(view.catalogue).take(indices, mode="clip")

    def _filters(self, batch: EventBatch, rows: NDArray[np.intp], view: ItemStatistics) -> Filters:
        n_rows = len(rows)
        exclude: list[int] = []
        only: list[int] = []
        exclude_start = np.zeros(n_rows + 1, np.int64)
        only_start = np.zeros(n_rows + 1, np.int64)
        has_only = np.zeros(n_rows, np.bool_)
        if batch.requests:
            for position, row in enumerate(rows.tolist()):
                request = batch.requests.get(row)
                if request is not None:
                    exclude += [_number(view, item_id) for item_id in request.exclude]
                    if request.only is not None:
                        has_only[position] = True
                        only += [_number(view, item_id) for item_id in request.only]
                exclude_start[position + 1], only_start[position + 1] = len(exclude), len(only)
        return Filters(
            SEEN_POLICIES.index(self.policy.seen),
            np.array(exclude, np.int32),
            exclude_start,
            np.array(only, np.int32),
            only_start,
            has_only,
        )

    def activities(self, batch: EventBatch, folded: Folded, parts: Sequence[Part]) -> tuple[ActivityBatch, ...]:
        """What the applied events with an item of each part add to the statistics.

        Replays add nothing: they were counted before.
        """
        if len(parts) == 1:
            return (self.activity_of(batch, folded, parts[0]),)
        rows = np.flatnonzero((folded.outcome == APPLIED) & (batch.item != 0))
        cuts = np.searchsorted(rows, starts([len(part.batch) for part in parts])).tolist()
        return tuple(
            self._activity(part, batch, folded, rows[first:last])
            for part, (first, last) in zip(parts, pairwise(cuts), strict=True)
        )

    def activity_of(self, batch: EventBatch, folded: Folded, part: Part, here: slice = slice(None)) -> ActivityBatch:
        """What events of a folded batch add to the statistics in the name of `part`: those at `here`, or all."""
        rows = np.flatnonzero((folded.outcome[here] == APPLIED) & (batch.item[here] != 0)) + (here.start or 0)
        return self._activity(part, batch, folded, rows)

    def _activity(self, part: Part, batch: EventBatch, folded: Folded, rows: NDArray[np.intp]) -> ActivityBatch:
        fields = self.spec.statistics.segment_fields
        number_of: dict[str, int] = {}
        numbers = [number_of.setdefault(batch.item_ids[row], len(number_of)) for row in rows.tolist()]
        kind = batch.kind[rows]
        return ActivityBatch(
            source=part.source,
            first=part.covers[0],
            last=part.covers[1],
            segment_fields=fields,
            item_ids=list(number_of),
            offset=batch.offset[rows],
            item=np.array(numbers, np.int32),
            kind=kind,
            weight=self._weights[kind],
            ts_ms=batch.ts_ms[rows],
            continues=folded.continues[rows],
            previous=folded.previous[rows],
            segments=batch.segments[rows, : len(fields)],
            previous_segments=folded.previous_segments[rows, : len(fields)],
            earlier=self._earlier(batch, folded, rows) if self.spec.statistics.returns else None,
        )

    def _earlier(self, batch: EventBatch, folded: Folded, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
        after = compiled_form(records_at(folded.after, rows))
        return earlier_items(after, batch.ts_ms[rows], self.spec.state.session_gap_ms, self._weights)


def _kept(state: NDArray[np.float32]) -> NDArray[np.float32]:
    """A state as the record will hold it, in float16 steps."""
    return np.minimum(np.maximum(state, -_LARGEST_HALF), _LARGEST_HALF).astype(np.float16).astype(np.float32)


def _rec_ids(batch: EventBatch, rows: NDArray[np.intp], parts: Sequence[Part]) -> list[str]:
    """The ids of the recommendations that events at `rows` cause."""
    first = starts([len(part.batch) for part in parts])
    of = [part.source.rpartition("/") for part in parts]
    number = np.searchsorted(first, rows, side="right") - 1
    return [
        rec_id(of[part][0], int(of[part][2]), offset)
        for part, offset in zip(number.tolist(), batch.offset[rows].tolist(), strict=True)
    ]


def _drawn(how: Exploration, pool: Ranked, n: NDArray[np.int64], seeds: NDArray[np.uint64]) -> Ranked:
    """Lists drawn from what was ranked, with the probability of each item at its place."""
    column, probability = draw(how, pool.items, pool.scores, n, seeds)
    there, row = column >= 0, np.arange(len(column))[:, None]
    sources: Sources = np.where(there, pool.sources[row, column], pool.sources.dtype.type(0))
    return Ranked(
        np.where(there, pool.items[row, column], -1).astype(np.int32),
        np.where(there, pool.scores[row, column], 0).astype(np.float32),
        sources,
        probability,
    )


def _number(view: ItemStatistics, item_id: str) -> int:
    number = view.catalogue.number(item_id)
    return -1 if number is None else number
