"""The core through a whole life, in any order: events, copies, late ones, requests, forgetting, crashes, other bundles.

What a worker does between Kafka and the core is played here with lists: sends are delivered first, then the changelog,
user by user, then the offset is committed, and a crash may come between any two of these. Whatever happened, once all
events are through, nothing says that it did.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stream.core.events import FORGET, REQUEST
from stream.core.seam import Recommender, Stepped
from stream.core.state import decode_states, encode_state
from stream.core.statistics import ItemStatistics
from tests.core.histories import SMALL, SOURCE, Happening, Past, batch_of, happenings
from tests.core.test_fold import assert_says
from tests.faults.accounts import same_statistics
from tests.worker.plain import FEATURES, VOCABULARY, PlainRanker, PlainRecurrent

USERS = ("a", "b", "c")
SPEC = replace(FEATURES, state=SMALL, n_history=5)
RECOMMENDERS = {
    "ranker": Recommender(SPEC, PlainRanker(SPEC), tag=1),
    "recurrent": Recommender(SPEC, PlainRecurrent(), VOCABULARY, tag=2),
    "recurrent anew": Recommender(SPEC, PlainRecurrent(seed=1), VOCABULARY, tag=3),
}


class Naive:
    """Users' pasts as lists: a copy is known by its name while the name is among the last few."""

    def __init__(self) -> None:
        self.pasts: dict[str, Past] = {}
        self.names: dict[str, list[str]] = {}

    def apply(self, event: Happening) -> None:
        names = self.names.setdefault(event.user, [])
        if event.kind == FORGET:
            self.pasts.pop(event.user, None)
            names.clear()
        elif event.kind != REQUEST and (event.name is None or event.name not in names[-SMALL.n_ids :]):
            names += [] if event.name is None else [event.name]
            self.pasts.setdefault(event.user, Past(SMALL)).applied.append(event)


class Life(RuleBasedStateMachine):
    """`position` is where the worker reads, `committed` where the next one would begin."""

    @initialize()
    def begin(self) -> None:
        self.log: list[Happening] = []
        self.changelog: dict[str, bytes] = {}
        self.view = ItemStatistics(SPEC.statistics)
        self.answered: Counter[int] = Counter()
        self.position = self.committed = 0
        self.serving = RECOMMENDERS["ranker"]

    @rule(events=st.lists(happenings(USERS), min_size=1, max_size=6))
    def arrive(self, events: list[Happening]) -> None:
        self.log += events

    @rule(n=st.integers(1, 8))
    def apply(self, n: int) -> None:
        """A batch goes all the way to the changelog."""
        batch = self.log[self.position : self.position + n]
        if batch:
            self.write(self.step(batch), len(USERS))
            self.position += len(batch)

    @rule()
    def commit(self) -> None:
        self.committed = self.position

    @rule()
    def crash(self) -> None:
        self.position = self.committed

    @rule(n=st.integers(1, 8), n_written=st.integers(0, len(USERS)))
    def crash_within_a_batch(self, n: int, n_written: int) -> None:
        """Everything was sent, some states reached the changelog, nothing was committed."""
        batch = self.log[self.position : self.position + n]
        if batch:
            self.write(self.step(batch), n_written)
        self.position = self.committed

    @rule(name=st.sampled_from(sorted(RECOMMENDERS)))
    def exchange(self, name: str) -> None:
        """Another bundle from the next batch on, with recurrent state of its own or without any."""
        self.serving = RECOMMENDERS[name]

    def step(self, batch: list[Happening]) -> tuple[Stepped, list[str]]:
        """Compute, and deliver what goes out first."""
        events = batch_of(batch, self.position)
        states = decode_states(self.serving.state_spec, [self.changelog.get(user) for user in events.users])
        stepped = self.serving.step(states, events, self.view, source=SOURCE)
        self.answered.update(events.offset[stepped.rows].tolist())
        self.view.apply(stepped.activity)
        self.view.refresh()
        return stepped, events.users

    def write(self, done: tuple[Stepped, list[str]], n_written: int) -> None:
        stepped, users = done
        for row, user in list(enumerate(users))[:n_written]:
            if stepped.folded.erased[row]:
                self.changelog.pop(user, None)
            elif stepped.folded.changed[row]:
                self.changelog[user] = encode_state(stepped.folded.states, row)

    @invariant()
    def no_event_below_the_commit_is_without_an_answer(self) -> None:
        done = self.log[: self.committed]
        assert all(self.answered[offset] > 0 for offset, event in enumerate(done) if event.kind != FORGET)

    def teardown(self) -> None:
        """Read to the end, then compare with lists, and with a worker to which nothing ever happened."""
        if not getattr(self, "log", None):
            return
        self.apply(len(self.log))
        naive, calm = Naive(), ItemStatistics(SPEC.statistics)
        for event in self.log:
            naive.apply(event)
        assert self.changelog.keys() == naive.pasts.keys()
        for user, past in naive.pasts.items():
            assert_says(decode_states(SMALL, [self.changelog[user]])[0], past)
        states: dict[str, bytes] = {}
        for offset, event in enumerate(self.log):
            events = batch_of([event], offset)
            before = decode_states(RECOMMENDERS["ranker"].state_spec, [states.get(event.user)])
            nobody = np.zeros(1, np.bool_)
            stepped = RECOMMENDERS["ranker"].step(before, events, calm, source=SOURCE, select=nobody)
            calm.apply(stepped.activity)
            if stepped.folded.erased[0]:
                states.pop(event.user, None)
            elif stepped.folded.changed[0]:
                states[event.user] = encode_state(stepped.folded.states, 0)
        assert not same_statistics(self.view, calm)
        self.committed = self.position
        self.no_event_below_the_commit_is_without_an_answer()


TestLife = Life.TestCase
