"""Contiguity, re-reading and commits of one partition."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.batching.ledger import Admission, Ledger


def opened(next_read: int | None = 0) -> Ledger:
    ledger = Ledger(generation=1, next_read=next_read)
    ledger.open = True
    return ledger


def test_consecutive_records_are_delivered() -> None:
    """0..9 | 10..19"""
    ledger = opened()
    assert ledger.admit(0, 9) == (Admission.DELIVER, 0)
    assert ledger.admit(10, 19) == (Admission.DELIVER, 10)
    assert ledger.next_read == 20


def test_the_first_records_of_a_partition_without_a_commit_say_where_it_starts() -> None:
    """Retention may have removed the beginning."""
    ledger = opened(None)
    assert ledger.admit(500, 509) == (Admission.DELIVER, 500)
    assert ledger.take(500, 509, ledger.epoch)


def test_a_hole_is_read_again_once_and_then_accepted() -> None:
    """0..9 | (10..14 missing) 15..19: what is missing twice is not there."""
    ledger = opened()
    ledger.admit(0, 9)
    assert ledger.admit(15, 19) == (Admission.REREAD, 10)
    assert ledger.admit(15, 19) == (Admission.DELIVER, 10)


def test_a_hole_that_was_a_lost_fetch_is_filled_by_reading_again() -> None:
    """0..9 | 15..19 read too early | 10..19"""
    ledger = opened()
    ledger.admit(0, 9)
    assert ledger.admit(15, 19)[0] is Admission.REREAD
    assert ledger.admit(10, 19) == (Admission.DELIVER, 10)


def test_each_hole_has_its_own_second_reading() -> None:
    """0..9 | hole | 15..19 | hole | 25..29"""
    ledger = opened()
    ledger.admit(0, 9)
    ledger.admit(15, 19)
    ledger.admit(15, 19)
    assert ledger.admit(25, 29) == (Admission.REREAD, 20)
    assert ledger.admit(25, 29) == (Admission.DELIVER, 20)


def test_records_handed_out_before_are_dropped_and_overlaps_trimmed() -> None:
    """0..9 | 0..9 again | 5..14: only 10..14 are new."""
    ledger = opened()
    ledger.admit(0, 9)
    assert ledger.admit(0, 9)[0] is Admission.DROP
    assert ledger.admit(5, 14) == (Admission.DELIVER, 10)


def test_a_batch_that_was_dropped_from_the_queue_is_noticed_and_read_again() -> None:
    """0..9 taken | 10..19 dropped | 20..29 arrives: not to be applied, read from 10."""
    ledger = opened()
    for first in (0, 10, 20):
        ledger.admit(first, first + 9)
    assert ledger.take(0, 9, 0)
    assert not ledger.take(20, 29, 0)
    assert ledger.rewind() == 10
    assert ledger.admit(10, 29) == (Admission.DELIVER, 10)
    assert ledger.take(10, 29, ledger.epoch)


def test_batches_handed_out_before_a_rewind_are_stale() -> None:
    """10..19 was queued when reading went back to 0: it comes again, in order."""
    ledger = opened()
    ledger.admit(0, 9)
    ledger.admit(10, 19)
    ledger.rewind()
    assert not ledger.take(0, 9, 0)
    assert not ledger.take(10, 19, 0)
    assert ledger.admit(0, 19) == (Admission.DELIVER, 0)
    assert ledger.n_handed == 1


def test_nothing_is_taken_once_the_partition_is_being_given_back() -> None:
    """The next owner starts at the commit."""
    ledger = opened()
    ledger.admit(0, 9)
    ledger.close()
    assert not ledger.take(0, 9, 0)
    assert not ledger.active


def test_closing_calls_back_once_even_when_asked_late() -> None:
    """Work that waits is told, whenever it began."""
    ledger, calls = opened(), []
    ledger.on_close(lambda: calls.append("early"))
    ledger.close()
    ledger.close()
    ledger.on_close(lambda: calls.append("late"))
    assert calls == ["early", "late"]


def test_a_commit_never_passes_an_unfinished_span() -> None:
    """a done | b not done | c done: only a."""
    ledger = opened()
    a, b, c = (ledger.begin(first, first + 9) for first in (0, 10, 20))
    c.done = True
    assert ledger.committable() is None
    a.done = True
    assert ledger.committable() == 10
    assert ledger.committable() is None
    b.done = True
    assert ledger.committable() == 30


@given(st.permutations(range(8)), st.integers(0, 7))
def test_a_commit_is_always_the_unbroken_run(order: list[int], n_done: int) -> None:
    """Whatever finishes in whatever order, the commit is where the first unfinished span starts."""
    ledger = opened()
    spans = [ledger.begin(i * 10, i * 10 + 9) for i in range(8)]
    for i in order[:n_done]:
        spans[i].done = True
    done = set(order[:n_done])
    run = next((i for i in range(8) if i not in done), 8)
    assert ledger.committable() == (run * 10 if run else None)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_dropped_the_pipeline_sees_every_offset_once_in_order(seed: int) -> None:
    """Batches are dropped at random between hand-out and arrival; reading goes back until all have arrived."""
    dice = random.Random(seed)
    sizes = [dice.randint(1, 5) for _ in range(30)]
    ledger, end = opened(), sum(sizes)
    taken: list[int] = []
    queue: list[tuple[int, int, int]] = []
    position = 0
    for _ in range(10_000):
        if len(taken) == end and not queue:
            break
        if position < end and (not queue or dice.random() < 0.7):
            last = min(position + dice.choice(sizes), end) - 1
            admission, offset = ledger.admit(position, last)
            if admission is Admission.DELIVER:
                queue.append((offset, last, ledger.epoch))
            position = offset if admission is Admission.REREAD else last + 1
        elif queue and dice.random() < 0.2:
            queue.clear()  # what Faust does when flow resumes ...
            position = ledger.rewind() or 0  # ... and what the consumer then does
        elif queue:
            if len(queue) > 1 and dice.random() < 0.2:
                queue.pop(0)  # silently
            first, last, epoch = queue.pop(0)
            if ledger.take(first, last, epoch):
                taken.extend(range(first, last + 1))
            elif epoch == ledger.epoch:
                position = ledger.rewind() or 0
    assert taken == list(range(end))
