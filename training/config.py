"""What a training run is: one TOML file, read strictly. See training/configs for commented examples."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
import polars as pl
from msgspec import Meta, Struct

from stream.bundle.manifest import Policy
from stream.core.candidates import CandidateSpec
from stream.core.events import EventTypes
from stream.core.features import FeatureSpec
from stream.core.scales import WindowSpec
from stream.core.state import StateSpec
from stream.core.statistics import CoVisitationChannel, PopularityChannel, SegmentField, StatisticsSpec
from stream.errors import PolytempoError
from stream.logs import ColumnMapping
from training.log import most_common
from training.preprocess import Preprocess
from training.spans import Span, span_ms

__all__ = [
    "Columns",
    "Config",
    "Data",
    "Features",
    "FusionTraining",
    "LstmTraining",
    "MovingAverageTraining",
    "RankerTraining",
    "RecurrentTraining",
    "SequenceTraining",
    "TempoTraining",
    "TransformerTraining",
    "common_values",
    "feature_spec",
    "read_config",
    "span_ms",
]

Share = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]
Time = Annotated[datetime, Meta(tz=True)]


class Columns(Struct, frozen=True, forbid_unknown_fields=True):
    """Which column of the log is what; left out, it is guessed as `polytempo produce` guesses it."""

    user: str | None = None
    item: str | None = None
    time: str | None = None
    time_format: str | None = None
    event_type: str | None = None
    constant_type: str | None = None
    value: str | None = None
    session: str | None = None
    event_id: str | None = None
    negative_value_type: str | None = None

    def mapping(self, context: tuple[str, ...]) -> ColumnMapping:
        """The same for `stream.logs`, with the context fields that the features need."""
        return ColumnMapping(
            user=self.user,
            item=self.item,
            time=self.time,
            time_format=self.time_format,
            event_type=self.event_type,
            constant_type=self.constant_type,
            value=self.value,
            session=self.session,
            event_id=self.event_id,
            negative_value_type=self.negative_value_type,
            context=context,
        )


class Data(Struct, frozen=True, forbid_unknown_fields=True):
    """The log. Exactly one of `file` and `simulate` is given; paths are relative to the current folder.

    Attributes:
        file: a log (Parquet, CSV, JSON lines).
        items: a table of items, if there is one.
        simulate: options of the simulated shop by name, `seed` among them.
    """

    file: str | None = None
    items: str | None = None
    simulate: dict[str, float] | None = None
    columns: Columns = Columns()


class Window(Struct, frozen=True, forbid_unknown_fields=True):
    """Which events are targets of training, and which of validation. Statistics run from the log's beginning.

    Attributes:
        train_from: the log's beginning unless given.
        train_until: training ends and validation begins; unless given, after `train_share` of the log's span.
        validate_until: the log's end unless given.
        train_share: see `train_until`.
        train_sample: share of the training targets that become rows.
        validate_sample: share of all events, drawn by `default_rng(0)`, whose targets are judged.
    """

    train_from: Time | None = None
    train_until: Time | None = None
    validate_until: Time | None = None
    train_share: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    train_sample: Share = 1.0
    validate_sample: Share = 1.0

    def bounds_ms(self, first_ms: int, last_ms: int) -> tuple[int, int, int]:
        """From, until, and the end of validation, in epoch milliseconds, for a log of these first and last events.

        Raises:
            PolytempoError: they are not in this order, or leave nothing to train or to validate on.
        """
        begin = _ms(self.train_from, first_ms)
        end = _ms(self.validate_until, last_ms + 1)
        split = _ms(self.train_until, begin + round((end - begin) * self.train_share))
        if not begin < split < end or split > last_ms or end <= first_ms:
            raise PolytempoError(
                f"the log runs from {_shown(first_ms)} to {_shown(last_ms)}: training from {_shown(begin)} until "
                f"{_shown(split)} and validation until {_shown(end)} do not fit into it."
            )
        return begin, split, end


class Features(Struct, frozen=True, forbid_unknown_fields=True):
    """The feature specification in short.

    Attributes:
        kinds: event types and their weights, in the order of their codes.
        scales: spans of the user's windows, such as ["5m", "1h"].
        popularity: channels by name: "all:5m", "continuing:1h", "all:1h:device", "previous:1h:referrer".
        co_visitation: channels by name: "next:1d", "any:1h", "back:1d", "next:1d:device".
        returns: half-lives of what users come back to in later sessions, such as ["1d", "6h"].
        slots: neighbours kept per item.
        segments: context field -> how many of its most common values are told apart; they are taken from the training
            window.
        candidates, last, earlier, lists, newest, own: see `stream.core.candidates.CandidateSpec`.
        ring: events of a user that are remembered.
        session_gap: silence that ends a session.
        retrieved: how many of a sequence model's best become candidates.
        words: buckets that the words of categories and titles are hashed into; 0 where models read none.
    """

    kinds: dict[str, float] | None = None
    scales: tuple[Span, ...] | None = None
    popularity: tuple[str, ...] | None = None
    co_visitation: tuple[str, ...] | None = None
    slots: Positive = 128
    segments: dict[str, Positive] = {}
    returns: tuple[Span, ...] = ()
    candidates: Positive = 128
    last: Positive = 3
    earlier: int = 3
    lists: dict[str, Positive] | None = None
    newest: int = 0
    own: bool = True
    ring: Positive = 32
    session_gap: Span = "30m"
    retrieved: int = 0
    words: int = 0


class RankerTraining(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="ranker"):
    """The ranker of `training.nets.ranker`, and how it is trained.

    Attributes:
        hidden: widths of its two layers.
        pooled: whether the second sees the mean of the first over the list.
        dropout: on the first layer.
        epochs: passes over the rows.
        batch: lists per step: 64 stay in the processor's cache, larger batches took longer per list.
        learning_rate: the peak of one cycle.
        weight_decay: of AdamW.
        average: decay of the running mean of the weights that is exported; 0 exports the last weights.
        members: networks trained from different seeds whose scores are averaged in one graph.
        teachers: networks trained before it, from other seeds. What they agree on is learnt beside the targets, and
            only the pupil is served: much of what an ensemble gains, at the cost of one.
        heed: how much of the pupil's loss is about its teachers rather than about the targets.
    """

    hidden: tuple[Positive, Positive] = (64, 32)
    pooled: bool = True
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    epochs: Positive = 3
    batch: Positive = 64
    learning_rate: Annotated[float, Meta(gt=0)] = 3e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 1e-2
    average: Annotated[float, Meta(ge=0, lt=1)] = 0.995
    members: Positive = 1
    teachers: Annotated[int, Meta(ge=0)] = 0
    heed: Share = 0.7


class RecurrentTraining(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="recurrent"):
    """The recurrent model of `training.nets.recurrent`, and how it is trained.

    Attributes:
        n_state: floats of state a user carries, and width of the items' embeddings.
        n_items: vocabulary: the most common items of the training window, at most so many.
        n_best: items given per event, enough that seen ones can be taken out.
        epochs, batch, learning_rate, dropout: as usual; a batch is a number of histories.
        length: events that a history is cut into.
    """

    n_state: Positive = 64
    n_items: Positive = 20_000
    n_best: Positive = 100
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    epochs: Positive = 15
    batch: Positive = 64
    length: Annotated[int, Meta(ge=2)] = 100
    learning_rate: Annotated[float, Meta(gt=0)] = 5e-3


class FusionTraining(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="fusion"):
    """A sequence model and the ranker that hears it (`training.nets.fusion`), and how both are trained.

    The sequence model learns from the first `member_share` of the training window, the ranker from the targets of the
    rest: what it is told of them is then no better than what it will be told live.

    Attributes:
        net: the sequence model.
        d, layers, scales: its width, layers and (tempo) time scales.
        n_items: vocabulary: the most common items of the sequence model's part, at most so many.
        member_share: see above.
        epochs, batch, length, learning_rate, dropout: of the sequence model; a batch is a number of pieces of at most
            `length` events.
        forget: share of the items that it meets without their own embedding, so that words learn to stand alone; only
            where `features.words` are asked for.
        ranker: of the ranker.
        without: leaves one side out, for comparison: "sequence" mutes the sequence model, "statistics" the live
            statistics of items.
    """

    net: Literal["tempo", "lstm_seq2seq"] = "tempo"
    d: Positive = 64
    layers: Positive = 1
    scales: Positive = 4
    n_items: Positive = 20_000
    member_share: Annotated[float, Meta(gt=0, lt=1)] = 0.7
    epochs: Positive = 16
    batch: Positive = 16
    length: Annotated[int, Meta(ge=2)] = 200
    learning_rate: Annotated[float, Meta(gt=0)] = 3e-3
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    forget: Annotated[float, Meta(ge=0, lt=1)] = 0.1
    ranker: RankerTraining = RankerTraining()
    without: Literal["nothing", "sequence", "statistics"] = "nothing"


class SequenceTraining(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all sequence models have in common. Defaults were chosen on film ratings, each user's event before last.

    Attributes:
        d: width of the embeddings and of the model.
        n_items: vocabulary: the most common items of the training window, at most so many.
        n_best: items given per event, enough that seen ones can be taken out.
        dropout: of the model.
        epochs: at most; the learning rate goes through one cycle over them.
        batch: pieces of histories in a step. Few users need small batches, or there are too few steps to learn from.
        length: events of a piece.
        learning_rate: the peak of the cycle.
        weight_decay: of AdamW, on matrices.
        patience: epochs without a better figure on the later slice before training ends; 0 trains to the end.
        hold_back: share of the training window's events, its last ones, that this figure is measured on.
        bf16: products in half width, for devices with units for them; weights, sums and the loss stay in single.
        shard_above: a file of more rows is learnt from in shards on disk, see `training.train_streamed`.
        shard_events: of a shard, about: what is in memory at a time.
    """

    d: Positive = 64
    n_items: Positive = 20_000
    n_best: Positive = 100
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.2
    epochs: Positive = 8
    batch: Positive = 8
    length: Annotated[int, Meta(ge=2)] = 100
    learning_rate: Annotated[float, Meta(gt=0)] = 3e-3
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    patience: Annotated[int, Meta(ge=0)] = 4
    hold_back: Annotated[float, Meta(gt=0, lt=0.5)] = 0.1
    bf16: bool = False
    shard_above: Annotated[int, Meta(ge=0)] = 5_000_000
    shard_events: Positive = 1_000_000


class MovingAverageTraining(SequenceTraining, frozen=True, tag="moving_average"):
    """`training.nets.moving_average`. It looks back on as many events as the record keeps, at most 100."""


class LstmTraining(SequenceTraining, frozen=True, tag="lstm_seq2seq"):
    """`training.nets.lstm_seq2seq`."""


class TransformerTraining(SequenceTraining, frozen=True, tag="transformer"):
    """`training.nets.transformer`. It looks back on as many events as the record keeps, at most 100.

    Attributes:
        epochs, batch: attention wants larger batches than recurrences, and more epochs of them.
        n_layers: see the model.
        n_heads: see the model.
    """

    epochs: Positive = 16
    batch: Positive = 16
    n_layers: Positive = 2
    n_heads: Positive = 2


class TempoTraining(SequenceTraining, frozen=True, tag="tempo"):
    """`training.nets.tempo`.

    Attributes:
        n_layers: see the model.
        n_scales: time scales that a score is the sum of.
        decomposed: see the model; False for comparison.
    """

    n_layers: Positive = 1
    n_scales: Positive = 4
    decomposed: bool = True


class Output(Struct, frozen=True, forbid_unknown_fields=True):
    """The bundle that comes out.

    Attributes:
        index_above: a larger vocabulary is searched with an index instead of a product with every item.
        index_recall: least share of the best items that the index must find, or there is no bundle.
    """

    path: str
    name: str
    version: int | str = 1
    description: str = ""
    index_above: Annotated[int, Meta(ge=0)] = 20_000
    index_recall: Annotated[float, Meta(gt=0, le=1)] = 0.98


AnyTraining: TypeAlias = (
    RankerTraining
    | RecurrentTraining
    | FusionTraining
    | MovingAverageTraining
    | LstmTraining
    | TransformerTraining
    | TempoTraining
)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """A training run.

    Attributes:
        bundle: what comes out.
        data: what goes in.
        model: kind and settings of the model.
        window: what is trained and validated on.
        features: what the model sees.
        policy: how many items a recommendation has, and which seen ones it leaves out.
        seed: of everything that is drawn; the same seed on the same machine gives the same bundle.
        threads: of PyTorch. On a machine that does other work too, one is faster than two.
        period: age of the view of items while replaying.
        preprocess: what the log goes through before.
        baselines: further ones that stand beside the model: `basket` for logs of orders, see `training.baskets`.
    """

    bundle: Output
    data: Data
    model: AnyTraining
    window: Window = Window()
    features: Features = Features()
    policy: Policy = Policy()
    seed: int = 0
    threads: Positive = 1
    period: Span = "10s"
    preprocess: Preprocess | None = None
    baselines: tuple[Literal["basket"], ...] = ()


def read_config(path: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        PolytempoError: it is not there, is no TOML, or says something that means nothing; the message names the place.
    """
    try:
        config = msgspec.toml.decode(path.read_bytes(), type=Config)
    except OSError as error:
        raise PolytempoError(f"{path} cannot be read: {error.strerror}.") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise PolytempoError(f"{path.name}: {error}.", "See training/configs for commented examples.") from error
    if (config.data.file is None) == (config.data.simulate is None):
        raise PolytempoError(f"{path.name}: [data] names either a file or [data.simulate].")
    try:
        feature_spec(config.features, dict.fromkeys(config.features.segments, ()))
    except ValueError as error:
        raise PolytempoError(f"{path.name}: [features]: {error}.") from error
    return config


def feature_spec(features: Features, values: Mapping[str, tuple[str, ...]]) -> FeatureSpec:
    """The specification that the short form stands for.

    Args:
        values: by context field, the values that are told apart.

    Raises:
        ValueError: a channel has no such form, or the parts do not fit together.
    """
    default = StatisticsSpec()
    state, lists = StateSpec(), CandidateSpec().lists
    statistics = StatisticsSpec(
        popularity=default.popularity
        if features.popularity is None
        else tuple(_popularity(name) for name in features.popularity),
        co_visitation=default.co_visitation
        if features.co_visitation is None
        else tuple(_co_visitation(name) for name in features.co_visitation),
        segments=tuple(SegmentField(name, values[name]) for name in features.segments),
        n_slots=features.slots,
        returns=tuple(span_ms(span) for span in features.returns),
    )
    return FeatureSpec(
        types=EventTypes() if features.kinds is None else EventTypes.from_json(features.kinds),
        state=StateSpec(
            scales=state.scales if features.scales is None else tuple(WindowSpec(span_ms(s)) for s in features.scales),
            n_ring=features.ring,
            session_gap_ms=span_ms(features.session_gap),
        ),
        statistics=statistics,
        candidates=CandidateSpec(
            n=features.candidates,
            n_last=features.last,
            n_earlier=features.earlier,
            lists=lists if features.lists is None else tuple(features.lists.items()),
            n_newest=features.newest,
            own=features.own,
            n_retrieved=features.retrieved,
        ),
        n_history=min(features.ring, 32),
        n_content=features.words,
    )


def common_values(features: Features, frame: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """By context field, its most common values in the events of the training window."""
    return {name: most_common(frame, name, n) for name, n in features.segments.items()}


def _popularity(name: str) -> PopularityChannel:
    of, _, rest = name.partition(":")
    span, _, field = rest.partition(":")
    kinds: dict[str, Literal["all", "continuing", "previous"]] = {
        "all": "all", "continuing": "continuing", "previous": "previous"
    }  # fmt: skip
    if of not in kinds:
        raise ValueError(f"popularity {name!r}: begins with none of {', '.join(kinds)}")
    return PopularityChannel(span_ms(span), kinds[of], field or None)


def _co_visitation(name: str) -> CoVisitationChannel:
    of, _, rest = name.partition(":")
    span, _, field = rest.partition(":")
    kinds: dict[str, Literal["next", "any", "back"]] = {"next": "next", "any": "any", "back": "back"}
    if of not in kinds:
        raise ValueError(f"co-visitation {name!r}: begins with none of {', '.join(kinds)}")
    return CoVisitationChannel(span_ms(span), kinds[of], field or None)


def _ms(time: datetime | None, otherwise: int) -> int:
    return otherwise if time is None else round(time.timestamp() * 1000)


def _shown(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
