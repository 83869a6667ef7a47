"""The menu: every input that a model may ask for, with its shape, its dtype and the one place where it is computed.

A bundle's manifest names the inputs that it wants; training, the worker and backtests all get them from `featurize`.
All are read as of the event's time, or as of the user's newest event where the event came late.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stream.core.candidates import CandidateSpec, Filters, Scratch, assemble
from stream.core.catalogue import Catalogue, KeyIndex
from stream.core.content import N_TOKENS, buckets
from stream.core.context import context_columns
from stream.core.events import EventBatch, EventTypes, item_keys
from stream.core.fold import APPLIED, Folded
from stream.core.scales import WindowSpec, scale_name
from stream.core.state import N_SEGMENTS, NEVER_MS, States, StateSpec, compiled_form, records_at, window_counts
from stream.core.statistics import CoVisitationChannel, ItemStatistics, PopularityChannel, SegmentField, StatisticsSpec
from stream.core.statistics.returns import earlier_items, return_columns
from stream.core.values import ValueSpec

__all__ = [
    "FeatureSpec",
    "Features",
    "TensorSpec",
    "Vocabulary",
    "candidate_feature_names",
    "content_of",
    "context_feature_names",
    "featurize",
    "menu",
]

FEATURE_VERSION: Final = 1
"""Raised whenever the meaning of a feature changes, so that bundles trained on the old meaning are refused."""
SHRINK: Final = 5.0
"""Transitions added to a row's sum before a weight is divided by it: rare items speak quietly."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its NumPy dtype, and its shape with names for axes of any length ("B" is the batch)."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=False)
class FeatureSpec:
    """All that decides what a feature means; part of every bundle, and compared by `digest`.

    Attributes:
        types: kinds of event and their weights.
        state: layout of the user's record (`n_model` does not belong here: it is the model's).
        statistics: what is kept of items.
        candidates: where candidates come from.
        n_history: events of the ring that sequence models get.
        values: what is done to events' values before they are folded.
        n_content: buckets that the words of categories and titles are hashed into; 0 for models that read none.
    """

    types: EventTypes = field(default_factory=EventTypes)
    state: StateSpec = field(default_factory=StateSpec)
    statistics: StatisticsSpec = field(default_factory=StatisticsSpec)
    candidates: CandidateSpec = field(default_factory=CandidateSpec)
    n_history: int = 32
    values: ValueSpec = field(default_factory=ValueSpec)
    n_content: int = 0

    def __post_init__(self) -> None:
        self.candidates.check(self.statistics)
        if len(self.statistics.segments) > N_SEGMENTS:
            raise ValueError(f"{len(self.statistics.segments)} context fields, a record remembers {N_SEGMENTS}")
        if self.state.n_kinds < len(self.types.names):
            raise ValueError(f"{len(self.types.names)} event types, but a record counts {self.state.n_kinds} kinds")
        if not 1 <= self.n_history <= self.state.n_ring:
            raise ValueError(f"a history of {self.n_history} events does not fit into a ring of {self.state.n_ring}")
        if not 0 <= self.n_content <= 1 << 20:
            raise ValueError(f"words are hashed into 0 to {1 << 20} buckets, not {self.n_content}")
        if self.state.n_model != 0:
            raise ValueError("the width of recurrent state belongs to the model, not to the features")

    def to_json(self) -> dict[str, object]:
        """Plain lists and dicts, for a manifest."""
        plain: dict[str, object] = json.loads(json.dumps(asdict(self)))
        plain["types"] = self.types.as_json()
        del plain["values"]
        # Left out where they say nothing: the digest of what was specified before they existed stays as it is.
        for pair in plain["statistics"]["co_visitation"]:  # type: ignore[index]
            if pair["field"] is None:
                del pair["field"]
        if not self.statistics.returns:
            del plain["statistics"]["returns"]  # type: ignore[attr-defined]
        if self.n_content == 0:
            del plain["n_content"]
        if self.candidates.n_retrieved == 0:
            del plain["candidates"]["n_retrieved"]  # type: ignore[attr-defined]
        return plain | ({"values": self.values.to_json()} if self.values else {})

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> FeatureSpec:
        """The inverse of `to_json`.

        Raises:
            ValueError: a field is unknown, missing or impossible; the message names it.
        """
        try:
            state = dict(plain["state"])
            state["scales"] = tuple(WindowSpec(**scale) for scale in state["scales"])
            statistics = dict(plain["statistics"])
            statistics["popularity"] = tuple(PopularityChannel(**c) for c in statistics["popularity"])
            statistics["co_visitation"] = tuple(CoVisitationChannel(**c) for c in statistics["co_visitation"])
            statistics["segments"] = tuple(SegmentField(s["field"], tuple(s["values"])) for s in statistics["segments"])
            statistics["returns"] = tuple(int(half_life) for half_life in statistics.get("returns", ()))
            candidates = dict(plain["candidates"])
            candidates["lists"] = tuple((str(name), int(n)) for name, n in candidates["lists"])
            unknown = set(plain) - {"types", "state", "statistics", "candidates", "n_history", "values", "n_content"}
            if unknown:
                raise ValueError(f"unknown fields {sorted(unknown)}")
            return cls(
                EventTypes.from_json(plain["types"]),
                StateSpec(**state),
                StatisticsSpec(**statistics),
                CandidateSpec(**candidates),
                int(plain["n_history"]),
                ValueSpec.from_json(plain["values"]) if "values" in plain else ValueSpec(),
                int(plain.get("n_content", 0)),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a feature specification: {error}") from error

    @cached_property
    def _kernel(self) -> _Kernel:
        """What `assemble` takes of the specification; made once, since a small batch costs less than making it."""
        statistics, fields = self.statistics, self.statistics.segment_fields
        names = [channel.name for channel in statistics.popularity]
        kinds = [pair.of if pair.field is None else "" for pair in statistics.co_visitation]
        return _Kernel(
            weights=self.types.weight_table(),
            any_pair=kinds.index("any") if "any" in kinds else 0,
            channel_column=np.array(statistics.first_column[:-1], np.int64),
            channel_field=np.array(
                [-1 if c.field is None else fields.index(c.field) for c in statistics.popularity], np.int64
            ),
            pair_column=np.array(statistics.first_pair_column[:-1], np.int64),
            pair_field=np.array(
                [-1 if pair.field is None else fields.index(pair.field) for pair in statistics.co_visitation], np.int64
            ),
            list_channel=np.array([names.index(name) for name, _ in self.candidates.lists], np.int64),
            list_n=np.array([count for _, count in self.candidates.lists], np.int64),
            scale_ms=np.array([scale.span_ms for scale in self.state.scales], np.float64),
            n_features=len(candidate_feature_names(self)),
            n_context=len(context_feature_names(self)),
            first_segment=np.array(
                [context_feature_names(self).index(f"segment/{field}/0") for field in fields], np.int64
            ),
        )

    def digest(self) -> str:
        """SHA-256 over the specification and the version of this code: equal digests mean equal features."""
        # Not sorted: the order of the event types is what gives them their codes.
        canonical = json.dumps([FEATURE_VERSION, self.to_json()], separators=(",", ":"))
        return sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class _Kernel:
    """A specification as the arrays and numbers that compiled code takes."""

    weights: NDArray[np.float32]
    any_pair: int
    channel_column: NDArray[np.int64]
    channel_field: NDArray[np.int64]
    pair_column: NDArray[np.int64]
    pair_field: NDArray[np.int64]
    list_channel: NDArray[np.int64]
    list_n: NDArray[np.int64]
    scale_ms: NDArray[np.float64]
    n_features: int
    n_context: int
    first_segment: NDArray[np.int64]


def candidate_feature_names(spec: FeatureSpec) -> tuple[str, ...]:
    """The F columns of `candidate_features`, in order.

    popularity/NAME   log of the item's share of a popularity channel, of the event's segment where it has one
    lagK/NAME         log of the item's share of the transitions from the K-th last item of the session, of those of
                      the event's segment where the channel has one
    earlier           the same, summed over items of earlier sessions
    near              the same, summed over the session's last items
    own/…             the user had it before: flag, log count, log hours since
    taste/SCALE       log share of its category in the user's recent events, decayed with the scale as half-life
    age               log hours since it was published or first seen
    return/SCALE      log of the item's share of what users came back to after the last items of the user's earlier
                      sessions, summed over these
    """
    pairs, returns = spec.statistics.co_visitation, spec.statistics.returns
    return (
        *(f"popularity/{channel.name}" for channel in spec.statistics.popularity),
        *(f"lag{lag + 1}/{pair.name}" for lag in range(spec.candidates.n_last) for pair in pairs),
        "earlier",
        "near",
        "own/flag",
        "own/count",
        "own/hours",
        *(f"taste/{scale.name}" for scale in spec.state.scales),
        "age",
        *(f"return/{scale_name(half_life)}" for half_life in returns),
    )


def context_feature_names(spec: FeatureSpec) -> tuple[str, ...]:
    """The G columns of `context_features`, in order.

    session, events   log of the session's length, of all the user's events
    out_weight        log of the transitions known from the session's last item
    gap               log seconds since the user's event before this one
    day/…, week/…     sine and cosine of the time of day and of the week, UTC
    window/SCALE      log of the user's events in each window
    kind/NAME         which kind the user's newest event is
    segment/F/V       which value the context field F has; 0 for other values
    """
    return (
        "session",
        "events",
        "out_weight",
        "gap",
        "day/sin",
        "day/cos",
        "week/sin",
        "week/cos",
        *(f"window/{scale.name}" for scale in spec.state.scales),
        *(f"kind/{name}" for name in spec.types.names),
        *(
            f"segment/{segment.field}/{code}"
            for segment in spec.statistics.segments
            for code in range(1 + len(segment.values))
        ),
    )


def menu(spec: FeatureSpec, n_state: int = 0, n_query: int = 0) -> dict[str, TensorSpec]:
    """Every input that a model may ask for, by name.

    Two-stage models score `candidates` (catalogue numbers, -1 for padding). Sequence models read the history (indices
    of the bundle's vocabulary from 1, 0 for padding and unknown items, the newest event last). Recurrent models read
    one event and their own state of the step before.

    Behind a sequence model, a ranker may ask for its `query`, and for what the query is compared with: each candidate's
    `candidate_index` in the vocabulary (0 for none) and `candidate_content`, the words of its category and title as
    buckets from 1 (0 for none). `item_content` are those of the event's own item.

    Args:
        n_state: floats of the model's own state.
        n_query: floats of the query of the sequence model that goes before, 0 where there is none.
    """
    n_features, n_context = len(candidate_feature_names(spec)), len(context_feature_names(spec))
    n, length = spec.candidates.n, spec.n_history
    inputs = {
        "candidates": TensorSpec("int64", ("B", n)),
        "candidate_features": TensorSpec("float32", ("B", n, n_features)),
        "context_features": TensorSpec("float32", ("B", n_context)),
        "history_items": TensorSpec("int64", ("B", length)),
        "history_age_s": TensorSpec("float32", ("B", length)),
        "history_kinds": TensorSpec("int64", ("B", length)),
        "history_values": TensorSpec("float32", ("B", length)),
        "item": TensorSpec("int64", ("B",)),
        "kind": TensorSpec("int64", ("B",)),
        "gap_s": TensorSpec("float32", ("B",)),
        "value": TensorSpec("float32", ("B",)),
        "windows": TensorSpec("float32", ("B", len(spec.state.scales), spec.state.n_kinds)),
    }
    if n_query > 0:
        inputs["query"] = TensorSpec("float32", ("B", n_query))
        inputs["candidate_index"] = TensorSpec("int64", ("B", n))
    if spec.n_content > 0:
        inputs["candidate_content"] = TensorSpec("int64", ("B", n, N_TOKENS))
        inputs["item_content"] = TensorSpec("int64", ("B", N_TOKENS))
    if n_state > 0:
        inputs["state"] = TensorSpec("float32", ("B", n_state))
    return inputs


class Vocabulary:
    """A bundle's items, numbered from 1; 0 is every other item."""

    __slots__ = ("_catalogue", "_n_known", "_numbers", "_places", "ids", "index", "keys")

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = list(ids)
        self.keys = np.concatenate([np.zeros(1, np.uint64), item_keys(self.ids)])  # (V + 1,) by index
        self.index = KeyIndex(self.keys[1:])
        self._catalogue: Catalogue | None = None
        self._n_known = -1
        self._numbers = np.zeros(0, np.int32)
        self._places = np.zeros(0, np.int64)

    def encode(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Item keys of any shape -> vocabulary indices."""
        return self.index.lookup(keys).astype(np.int64) + 1

    def numbers(self, catalogue: Catalogue) -> NDArray[np.int32]:
        """(V + 1,) vocabulary index -> catalogue number, -1 where the catalogue does not know the item."""
        self._meet(catalogue)
        return self._numbers

    def places(self, catalogue: Catalogue) -> NDArray[np.int64]:
        """(N + 1,) catalogue number -> vocabulary index; the last entry, which -1 finds, is 0."""
        self._meet(catalogue)
        return self._places

    def _meet(self, catalogue: Catalogue) -> None:
        # The catalogue itself is held, not its id, which the next one might get.
        if self._catalogue is not catalogue or self._n_known != len(catalogue):
            self._numbers = catalogue.index.lookup(self.keys)
            self._places = np.append(self.encode(catalogue.key[: len(catalogue)]), 0)
            self._catalogue, self._n_known = catalogue, len(catalogue)


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """What `featurize` gives for B events.

    Attributes:
        inputs: the wanted part of the menu.
        as_of_ms: (B,) the time that everything was read at.
        sources: (B, C) bits that say where each candidate came from; (B, 0) when there are no candidates.
    """

    inputs: dict[str, NDArray[Any]]
    as_of_ms: NDArray[np.int64]
    sources: NDArray[np.uint16]


def featurize(
    spec: FeatureSpec,
    folded: Folded,
    batch: EventBatch,
    rows: NDArray[np.intp],
    view: ItemStatistics,
    wanted: Iterable[str],
    *,
    filters: Filters,
    vocabulary: Vocabulary,
    scratch: Scratch,
    retrieved: NDArray[np.int32] | None = None,
) -> Features:
    """The wanted inputs of the events at `rows` (R,), read from the records right after each event.

    All but `state` and `query`, which come from models.

    Args:
        filters: one entry per row.
        retrieved: (R, k) catalogue numbers of a sequence model's best, -1 for none.
    """
    after = records_at(folded.after, rows)
    event_ms = batch.ts_ms[rows]
    as_of_ms = np.maximum(event_ms, after["last_ms"])
    wanted = set(wanted)
    inputs: dict[str, NDArray[Any]] = {}
    sources = np.zeros((len(rows), 0), np.uint16)
    codes = np.zeros((len(rows), max(1, len(spec.statistics.segments))), np.int32)
    if spec.statistics.segments:
        codes = view.segment_codes(np.ascontiguousarray(after["segment"][:, : len(spec.statistics.segments)]))
    if retrieved is None:
        retrieved = np.zeros((len(rows), 0), np.int32)
    of_candidates = {"candidates", "candidate_features", "candidate_index", "candidate_content"}
    if wanted & {*of_candidates, "context_features"}:
        compiled, kernel = compiled_form(after), spec._kernel
        candidates, sources, features, out_weight = _candidates(
            spec,
            compiled,
            as_of_ms,
            codes,
            view,
            filters,
            scratch,
            np.ascontiguousarray(retrieved[:, : spec.candidates.n_retrieved]),
            need=bool(wanted & of_candidates),
        )
        if spec.statistics.returns and wanted & of_candidates:
            gone = earlier_items(compiled, after["last_ms"], spec.state.session_gap_ms, kernel.weights)
            return_columns(
                view.returns,
                view.catalogue.index.lookup(gone),
                as_of_ms,
                candidates,
                np.float32(SHRINK),
                scratch.sized(view.catalogue.capacity),
                features,
                kernel.n_features - len(spec.statistics.returns),
            )
        inputs["candidates"] = candidates
        inputs["candidate_features"] = features
        if "candidate_index" in wanted:
            inputs["candidate_index"] = vocabulary.places(view.catalogue)[candidates]
        if "candidate_content" in wanted:
            inputs["candidate_content"] = _content(spec, candidates, view.catalogue)
        if "context_features" in wanted:
            inputs["context_features"] = context_columns(
                spec.state,
                compiled,
                as_of_ms,
                folded.gap_s[rows],
                out_weight,
                codes,
                kernel.first_segment,
                len(spec.types.names),
                kernel.n_context,
            )
    if wanted & {"history_items", "history_age_s", "history_kinds", "history_values"}:
        inputs |= _history(spec, after, as_of_ms, vocabulary)
    if wanted & {"item", "kind", "gap_s", "value"}:
        inputs["item"] = vocabulary.encode(batch.item[rows])
        # Control events and duplicates bring no event of their own: to a recurrent model, an unknown item.
        own = folded.outcome[rows] == APPLIED
        inputs["item"][~own] = 0
        inputs["kind"] = np.where(own, batch.kind[rows], 0).astype(np.int64)
        inputs["gap_s"] = folded.gap_s[rows]
        inputs["value"] = np.nan_to_num(batch.value[rows])
    if "item_content" in wanted:
        own = folded.outcome[rows] == APPLIED
        inputs["item_content"] = content_of(spec, np.where(own, batch.item[rows], np.uint64(0)), view.catalogue)
    if "windows" in wanted:
        inputs["windows"] = window_counts(spec.state, after, as_of_ms)
    return Features({name: inputs[name] for name in inputs if name in wanted}, as_of_ms, sources)


def content_of(spec: FeatureSpec, keys: NDArray[np.uint64], catalogue: Catalogue) -> NDArray[np.int64]:
    """(..., N_TOKENS) the words of items given by key, as buckets; 0 where nothing is known of an item."""
    return _content(spec, catalogue.index.lookup(keys), catalogue)


def _content(spec: FeatureSpec, numbers: NDArray[np.integer[Any]], catalogue: Catalogue) -> NDArray[np.int64]:
    if len(catalogue) == 0:
        return np.zeros((*numbers.shape, N_TOKENS), np.int64)
    words = buckets(catalogue.content[np.maximum(numbers, 0)], spec.n_content)
    words[numbers < 0] = 0
    return words


def _candidates(
    spec: FeatureSpec,
    after: States,
    as_of_ms: NDArray[np.int64],
    codes: NDArray[np.int32],
    view: ItemStatistics,
    filters: Filters,
    scratch: Scratch,
    retrieved: NDArray[np.int32],
    *,
    need: bool,
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.float32], NDArray[np.float32]]:
    n_rows, n = len(as_of_ms), spec.candidates.n if need else 1
    kernel = spec._kernel
    candidates = np.empty((n_rows, n), np.int64)
    sources = np.empty((n_rows, n), np.uint16)
    features = np.empty((n_rows, n, kernel.n_features), np.float32)
    out_weight = np.empty(n_rows, np.float32)
    catalogue = view.catalogue
    assemble(
        as_of_ms,
        codes,
        after["ring_item"],
        after["ring_ms"],
        after["ring_kind"],
        after["session_start_ms"],
        kernel.weights,
        catalogue.index.table_key,
        catalogue.index.table_number,
        catalogue.key,
        catalogue.available,
        catalogue.category,
        catalogue.published_ms,
        view.first_ms,
        view.weight,
        view.total,
        view.log_share,
        view.current,
        view.generation,
        view.listed,
        view.newest,
        view.slot_item,
        view.slot_weight,
        view.row_sum,
        view.row_ms,
        view.pair_half_life_ms,
        kernel.any_pair,
        kernel.channel_column,
        kernel.channel_field,
        kernel.pair_column,
        kernel.pair_field,
        kernel.list_channel,
        kernel.list_n,
        spec.candidates.n_last,
        spec.candidates.n_earlier,
        spec.candidates.n_newest,
        spec.candidates.own,
        kernel.scale_ms,
        np.float32(SHRINK),
        filters.seen,
        filters.exclude,
        filters.exclude_start,
        filters.only,
        filters.only_start,
        filters.has_only,
        retrieved,
        scratch.sized(catalogue.capacity),
        candidates,
        sources,
        features,
        out_weight,
    )
    return candidates, sources, features, out_weight


def _history(
    spec: FeatureSpec, after: States, as_of_ms: NDArray[np.int64], vocabulary: Vocabulary
) -> dict[str, NDArray[Any]]:
    length = spec.n_history
    ring_ms = after["ring_ms"][:, -length:]
    there = ring_ms != NEVER_MS
    age_ms = np.where(there, as_of_ms[:, None] - np.where(there, ring_ms, 0), 0)
    return {
        "history_items": vocabulary.encode(after["ring_item"][:, -length:]),
        "history_age_s": (age_ms / 1000).astype(np.float32),
        "history_kinds": np.where(there, after["ring_kind"][:, -length:], 0).astype(np.int64),
        "history_values": np.nan_to_num(np.where(there, after["ring_value"][:, -length:], 0)).astype(np.float32),
    }
