"""A ranker that also hears a sequence model, on one page.

Each candidate is compared with the sequence model's query, whether the model was trained on it or it appeared a minute
ago: what an item is to the query is its own embedding, if it has one, plus the mean of its words'. The outcome is one
more feature of the candidate beside the live statistics, and it speaks directly, as loudly as the context allows:

    s      = query . (own[index] or mean of words)
    score  = ranker(features, s, known; context) + softplus(gate(context)) (s - mean of s over the list)

The context holds the length of the session and of the history, the gap before the event, and the time of day and of
the week, so where a sequence model knows little (new users, long gaps) the live statistics decide. The embeddings are
the sequence model's own and stay as they are: it was trained on an earlier slice of the log, this on a later one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.nets.ranker import PADDING_SCORE, Ranker, RankerConfig

__all__ = ["GIVEN", "N_SIGNALS", "Fusion", "WordedFusion"]

N_SIGNALS = 2
"""What the sequence model adds to a candidate's features: its score, and whether it was trained on the item."""


GIVEN = frozenset({"representation", "words", "heard"})
"""Names in a fusion's state of what it was given, not taught: another sequence model brings its own."""


class Fusion(nn.Module):
    """Candidates, their features and a query in; the same candidates and their scores out.

    Args:
        config: of the ranker; `n_features` without the signals.
        representation: (V + 1, q) what the query is compared with, by vocabulary index; row 0 is any other item.
        words: (n_content + 1, q) the same by word, where items have any.
        mute: columns of the features that are taken as 0: for ablations.
    """

    representation: Tensor
    heard: Tensor
    words: Tensor | None

    def __init__(
        self,
        config: RankerConfig,
        representation: Tensor,
        words: Tensor | None = None,
        mute: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.ranker = Ranker(
            RankerConfig(config.n_features + N_SIGNALS, config.n_context, config.hidden, config.pooled, config.dropout)
        )
        self.gate = nn.Linear(config.n_context, 1)
        self.register_buffer("representation", representation)
        self.register_buffer("words", words)
        heard = torch.ones(config.n_features)
        heard[list(mute)] = 0.0
        self.register_buffer("heard", heard)
        self.muted = bool(mute)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -1.0)

    def another(self, seed: int) -> Fusion:
        """An untrained one of the same sizes that was given the same, and standardises alike."""
        torch.manual_seed(seed)
        mute = tuple(torch.nonzero(self.heard == 0).flatten().tolist())
        fresh = type(self)(self.config, self.representation, self.words, mute)
        for mine, its in zip(self.buffers(), fresh.buffers(), strict=True):
            its.copy_(mine)
        return fresh

    def standardise(self, features: Tensor, context: Tensor) -> None:
        """See `Ranker.standardise`; features (N, F + N_SIGNALS), as `told` gives them."""
        self.ranker.standardise(features, context)

    def forward(
        self,
        candidates: Tensor,
        candidate_features: Tensor,
        context_features: Tensor,
        candidate_index: Tensor,
        query: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Score every candidate; see `Ranker.forward`.

        Args:
            candidate_index: (B, C) vocabulary index of each candidate, 0 for none.
            query: (B, q).
        """
        there = candidates >= 0
        scores = self.score(there, candidate_features, context_features, candidate_index, None, query)
        return candidates.clone(), torch.where(there, scores, torch.full_like(scores, PADDING_SCORE))

    def score(
        self,
        there: Tensor,
        features: Tensor,
        context: Tensor,
        index: Tensor,
        content: Tensor | None,
        query: Tensor,
    ) -> Tensor:
        """(B, C) scores; meaningless where `there` (B, C) is false."""
        told = self.told(features, index, content, query)
        mask = there.to(told.dtype)
        heard = told[..., -N_SIGNALS]  # (B, C)
        mean = (heard * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1.0)
        return self.ranker.score(there, told, context) + self.weight(context) * (heard - mean)

    def told(self, features: Tensor, index: Tensor, content: Tensor | None, query: Tensor) -> Tensor:
        """Features with the sequence model's signals behind them: (B, C, F) -> (B, C, F + N_SIGNALS)."""
        item = self.representation[index]  # (B, C, q)
        score = (item @ query.unsqueeze(-1)).squeeze(-1)  # (B, C)
        known = (index > 0).to(score.dtype)
        if self.words is not None and content is not None:
            # The query meets each word once, not once for each candidate that has it.
            by_word = query @ self.words.T  # (B, words)
            said = by_word.gather(1, content.flatten(1)).reshape(content.shape)  # (B, C, T)
            n = (content > 0).sum(-1).clamp(min=1)
            score = score + (1.0 - known) * said.sum(-1) / n
        if self.muted:
            features = features * self.heard
        return torch.cat([features, score.unsqueeze(-1), known.unsqueeze(-1)], dim=-1)

    def weight(self, context: Tensor) -> Tensor:
        """(B, 1) how loudly the sequence model speaks in this context (B, G)."""
        normal = (context - self.ranker.context_mean) / self.ranker.context_std
        return functional.softplus(self.gate(normal))


class WordedFusion(Fusion):
    """The same where items have words, those that nobody was trained on as well."""

    def forward(  # type: ignore[override]  # one input more
        self,
        candidates: Tensor,
        candidate_features: Tensor,
        context_features: Tensor,
        candidate_index: Tensor,
        candidate_content: Tensor,
        query: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `Fusion.forward`; candidate_content (B, C, T) are the words of each candidate, 0 for none."""
        there = candidates >= 0
        scores = self.score(there, candidate_features, context_features, candidate_index, candidate_content, query)
        return candidates.clone(), torch.where(there, scores, torch.full_like(scores, PADDING_SCORE))
