"""The two halves of a fusion: a sequence model of an earlier slice of the log, and the ranker that a later one teaches.

    time       |---- sequence model ----|---- ranker's targets ----|---- judged ----|
    statistics  from the beginning on, always those of before each event

What the ranker is told of its targets comes from a model that has not seen them, as it will be live. Nothing of what is
judged reaches either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from stream.core.catalogue import ItemUpdate
from stream.core.content import N_TOKENS, buckets, content_keys
from stream.core.features import FeatureSpec, candidate_feature_names, context_feature_names
from training.config import FusionTraining
from training.export import RetrievalModel
from training.fit import FitConfig, fit
from training.log import Log
from training.losses import full_cross_entropy, unseen_cross_entropy
from training.nets.fusion import Fusion, WordedFusion
from training.nets.lstm_seq2seq import LstmSeq2Seq, LstmSeq2SeqConfig
from training.nets.ranker import RankerConfig
from training.nets.retrieval import Retriever, WordedRetriever, tell_items
from training.nets.tempo import Tempo, TempoConfig
from training.sequences import HORIZONS_MS, SequenceBatch, UserSequences, batches
from training.targets import Targets
from training.warm import Start

__all__ = [
    "MEMBER",
    "RANKER",
    "Member",
    "both",
    "fusion_inputs",
    "live_columns",
    "sequences_of",
    "slices",
    "train_member",
    "untrained_fusion",
]

MEMBER: Final = "member."
"""What the names of the sequence model's weights begin with where both halves are kept together."""
RANKER: Final = "ranker."
"""The same of the ranker's."""

_EVENT = ("item", "kind", "gap_s", "value", "state")
_RANKED = ("candidates", "candidate_features", "context_features", "candidate_index", "query")


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A trained sequence model, ready to go before a ranker."""

    retriever: Retriever
    vocabulary: list[str]

    @property
    def model(self) -> RetrievalModel:
        """As `write_bundle` takes it."""
        inputs = (*_EVENT, "item_content") if isinstance(self.retriever, WordedRetriever) else _EVENT
        return RetrievalModel(self.retriever, inputs, self.retriever.n_state)


def slices(log: Log, targets: Targets, from_ms: int, split_ms: int, share: float) -> tuple[slice, Targets]:
    """The rows that the sequence model learns from, and the targets that the ranker does.

    Args:
        from_ms, split_ms: the training window; of its span, the sequence model gets the first `share`.
    """
    window = log.between(from_ms, from_ms + round((split_ms - from_ms) * share))
    split = log.between(0, split_ms).stop
    # What is scored for a target is what the sequence model says right after the event before it.
    return window, targets.where((targets.scored >= window.stop) & (targets.row < split))


def sequences_of(log: Log, spec: FeatureSpec, window: slice, n_items: int, known: Sequence[str] = ()) -> UserSequences:
    """Users' events in these rows of the log, over the most common items there.

    Args:
        known: items that have a place behind them as far as there is room: those of a vocabulary that grows.
    """
    rows = window.start + np.flatnonzero(log.happened()[window])
    counts = np.bincount(log.item[rows], minlength=len(log.item_ids))
    common = np.argsort(-counts, kind="stable")[:n_items]
    common = common[counts[common] > 0]
    index = np.zeros(len(log.item_ids), np.int64)
    index[common] = np.arange(1, len(common) + 1)
    rows = rows[np.argsort(log.user[rows], kind="stable")]
    values = spec.values.transform(log.value[rows], log.kind[rows])
    vocabulary = [log.item_ids[number] for number in common.tolist()]
    there = set(vocabulary)
    vocabulary += [item for item in known if item not in there][: n_items - len(vocabulary)]
    return UserSequences(
        user_ids=log.user_ids,
        vocabulary=vocabulary,
        start=np.searchsorted(log.user[rows], np.arange(len(log.user_ids) + 1)),
        item=index[log.item[rows]],
        kind=log.kind[rows].astype(np.int64),
        ts_ms=log.ts_ms[rows],
        value=np.nan_to_num(values).astype(np.float32),
        positive=spec.types.weight_table()[log.kind[rows]] > 0,
    )


def train_member(
    sequences: UserSequences,
    spec: FeatureSpec,
    items: Sequence[ItemUpdate],
    training: FusionTraining,
    *,
    seed: int = 0,
    unseen: bool = False,
    on_step: Callable[[int], None] | None = None,
    start: Start | None = None,
) -> Member:
    """Train the sequence model.

    Args:
        items: what is known of items; their words are used where the specification asks for words.
        unseen: whether it learns to tell apart only what the user had not met before, because nothing else is
            recommended.
        on_step: called after each step with the number of steps taken.
        start: weights to begin with, those of a sequence model of the same kind.
    """
    torch.manual_seed(seed)
    vocabulary = sequences.vocabulary
    net = _untrained_net(vocabulary, spec, items, training)
    if start is not None:
        start.give(net, vocabulary, _tables(spec, training))
    loss = unseen_cross_entropy if unseen else full_cross_entropy

    def an_epoch(epoch: int) -> Iterator[SequenceBatch]:
        return batches(
            sequences,
            n_batch=training.batch,
            max_length=training.length,
            seed=seed,
            epoch=epoch,
            horizons_ms=HORIZONS_MS if training.net == "lstm_seq2seq" else (),
        )

    fit(
        net,
        an_epoch,
        lambda batch: net.loss(batch, loss),
        FitConfig(training.epochs, training.learning_rate, seed=seed),
        on_step=on_step,
    )
    n_best = max(1, spec.candidates.n_retrieved)
    kind = WordedRetriever if spec.n_content > 0 else Retriever
    return Member(kind(net, n_best).eval(), vocabulary)


def both(member: Member, ranker: Fusion) -> nn.Module:
    """The two halves as one module, whose weights are kept beside a bundle; see `MEMBER` and `RANKER`."""
    return nn.ModuleDict({MEMBER[:-1]: member.retriever.net, RANKER[:-1]: ranker})


def fusion_inputs(spec: FeatureSpec) -> tuple[str, ...]:
    """What the ranker wants."""
    return (*_RANKED, "candidate_content") if spec.n_content > 0 else _RANKED


def untrained_fusion(member: Member, spec: FeatureSpec, training: FusionTraining, seed: int = 0) -> Fusion:
    """The ranker that hears this sequence model, before it has learnt anything."""
    torch.manual_seed(seed)
    table, words = member.retriever.representation(), member.retriever.words()
    if training.without == "sequence":
        table, words = torch.zeros_like(table), None if words is None else torch.zeros_like(words)
    config = RankerConfig(
        len(candidate_feature_names(spec)),
        len(context_feature_names(spec)),
        training.ranker.hidden,
        training.ranker.pooled,
        training.ranker.dropout,
    )
    kind = WordedFusion if spec.n_content > 0 else Fusion
    return kind(config, table, words, live_columns(spec) if training.without == "statistics" else ())


def live_columns(spec: FeatureSpec) -> tuple[int, ...]:
    """Columns of the candidates' features that come from live statistics of items, not from the user's record."""
    live = ("popularity", "lag1", "lag2", "lag3", "earlier", "near", "return")
    return tuple(at for at, name in enumerate(candidate_feature_names(spec)) if name.partition("/")[0] in live)


def _untrained_net(
    vocabulary: Sequence[str], spec: FeatureSpec, items: Sequence[ItemUpdate], training: FusionTraining
) -> Tempo | LstmSeq2Seq:
    net: Tempo | LstmSeq2Seq
    if training.net == "tempo":
        net = Tempo(
            TempoConfig(
                len(vocabulary),
                d=training.d,
                n_layers=training.layers,
                n_scales=training.scales,
                dropout=training.dropout,
            )
        )
    else:
        net = LstmSeq2Seq(LstmSeq2SeqConfig(len(vocabulary), d=training.d, dropout=training.dropout))
    if spec.n_content > 0:
        words = torch.from_numpy(_words(vocabulary, items, spec.n_content))
        tell_items(net, words, spec.n_content, training.forget)
    return net


def _tables(spec: FeatureSpec, training: FusionTraining) -> frozenset[str]:
    """Names of the sequence model's weights with a row for each item: those that another vocabulary makes longer."""
    few, more = (_untrained_net(ids, spec, [], training).state_dict() for ids in (["a"], ["a", "b"]))
    return frozenset(name for name, tensor in few.items() if tensor.shape != more[name].shape)


def _words(vocabulary: Sequence[str], items: Sequence[ItemUpdate], n_content: int) -> NDArray[np.int64]:
    """(V + 1, N_TOKENS) words of each item of the vocabulary, by index."""
    said: Mapping[str, ItemUpdate] = {update.item_id: update for update in items}
    keys: Any = np.zeros((len(vocabulary) + 1, N_TOKENS), np.uint32)
    for index, item_id in enumerate(vocabulary, start=1):
        if item_id in said:
            keys[index] = content_keys(said[item_id].category, said[item_id].title)
    return buckets(keys, n_content)
