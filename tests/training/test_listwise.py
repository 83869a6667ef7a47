"""What a ranker learns from lists: targets, and what teachers think of the others beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from training.config import RankerTraining
from training.listwise import Ensemble, fit_fusion, fit_ranker, fusion_scores, list_loss, n_steps
from training.nets.fusion import Fusion
from training.nets.ranker import PADDING_SCORE, Ranker, RankerConfig
from training.rows import Rows

N, C, F, G, Q = 400, 12, 5, 3, 4
SMALL = RankerTraining(hidden=(8, 4), epochs=2, batch=50)


@pytest.fixture(scope="module")
def rows() -> Rows:
    """Lists of which the label follows from the features, mostly."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((N, C, F)).astype(np.float16)
    n = rng.integers(4, C + 1, N).astype(np.int16)
    features[np.arange(C)[None] >= n[:, None]] = 0.0
    score = 2.0 * features[..., 0] - np.abs(features[..., 1]) + 0.5 * rng.standard_normal((N, C))
    label = np.where(np.arange(C)[None] < n[:, None], score, -np.inf).argmax(1)
    heard = {
        "candidate_index": rng.integers(0, 6, (N, C)).astype(np.int32),
        "query": rng.standard_normal((N, Q)).astype(np.float32),
    }
    context = rng.standard_normal((N, G)).astype(np.float16)
    return Rows(features, context, n, label.astype(np.int64), np.arange(N), N, heard)


def fusion(seed: int = 0, mute: tuple[int, ...] = ()) -> Fusion:
    torch.manual_seed(seed)
    return Fusion(
        RankerConfig(F, G, SMALL.hidden), torch.randn(6, Q, generator=torch.Generator().manual_seed(3)), None, mute
    )


@given(
    scores=st.lists(st.lists(st.floats(-20, 20), min_size=5, max_size=5), min_size=1, max_size=4),
    heed=st.floats(0, 1),
    data=st.data(),
)
def test_the_loss_is_the_sum_over_each_list(scores: list[list[float]], heed: float, data: st.DataObject) -> None:
    """Against loops over lists and candidates, some of which are padding."""
    total, labels, taught, padded = 0.0, [], [], []
    for row in scores:
        n = data.draw(st.integers(1, 5))
        label = data.draw(st.integers(0, n - 1))
        weights = data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
        q = [w / sum(weights) for w in weights] + [0.0] * (5 - n)
        norm = math.log(sum(math.exp(s) for s in row[:n]))
        log_p = [s - norm for s in row[:n]]
        total += (1 - heed) * -log_p[label] + heed * -sum(share * log for share, log in zip(q, log_p, strict=False))
        labels.append(label)
        taught.append(q)
        padded.append(row[:n] + [PADDING_SCORE] * (5 - n))
    loss = list_loss(torch.tensor(padded), torch.tensor(labels), torch.tensor(taught), heed)
    assert loss.item() == pytest.approx(total / len(scores), rel=1e-4, abs=1e-4)


def test_without_teachers_only_targets_count() -> None:
    scores, label = torch.randn(6, 9), torch.arange(6)
    torch.testing.assert_close(list_loss(scores, label), torch.nn.functional.cross_entropy(scores, label))


@given(st.integers(0, 4), st.integers(1, 3), st.integers(1, 900))
def test_steps_are_those_of_all_networks(teachers: int, members: int, n_rows: int) -> None:
    training = replace(SMALL, teachers=teachers, members=members)
    assert n_steps(n_rows, training) == (teachers + members) * 2 * math.ceil(n_rows / 50)


@pytest.mark.parametrize("members", [1, 2])
def test_teachers_leave_a_ranker_of_its_own_size_behind(rows: Rows, members: int) -> None:
    steps: list[int] = []
    training = replace(SMALL, teachers=2, members=members)
    model = fit_ranker(rows, training, on_step=lambda step, _: steps.append(step))
    assert steps == list(range(1, n_steps(N, training) + 1))
    plain = fit_ranker(rows, replace(SMALL, members=members))
    assert type(model) is (Ranker if members == 1 else Ensemble)
    assert [p.shape for p in model.parameters()] == [p.shape for p in plain.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    again = fit_ranker(rows, training)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_pupil_that_heeds_only_its_teachers_comes_near_to_their_mean(rows: Rows) -> None:
    """Nearer than the same network gets that learns from targets alone."""
    long = replace(SMALL, epochs=15, learning_rate=1e-2)
    teachers = [fit_fusion(rows, long, fusion().another(seed), seed=seed) for seed in (1, 2, 3)]
    pupil = fit_fusion(rows, replace(long, teachers=3, heed=1.0), fusion(), seed=0)
    plain = fit_fusion(rows, long, fusion(), seed=0)

    def distribution(model: Fusion) -> torch.Tensor:
        return torch.softmax(torch.from_numpy(fusion_scores(rows, model)), dim=1)

    mean = torch.stack([distribution(teacher) for teacher in teachers]).mean(0)
    away = [(distribution(model) - mean).abs().sum(1).mean().item() for model in (pupil, plain)]
    assert away[0] < 0.9 * away[1]


def test_another_fusion_is_given_the_same_and_knows_nothing_of_what_was_learnt(rows: Rows) -> None:
    first = fusion(mute=(1, 3))
    fit_fusion(rows, SMALL, first)
    other, same = first.another(7), first.another(7)
    for mine, its in zip(first.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, its)
    assert other.muted
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first.ranker.of_candidate.weight, other.ranker.of_candidate.weight)
    assert torch.count_nonzero(other.gate.weight) == 0
