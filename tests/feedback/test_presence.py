"""A process without a broker waits, and gives up in the end."""

from __future__ import annotations

import pytest

from stream.errors import PolytempoError
from stream.feedback.presence import Presence


class World:
    """A clock that only pauses and turns move, and brokers that come and go."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.n = 1
        self.n_asked = 0
        self.pauses: list[float] = []
        self.presence = Presence(
            self.connections, patience_s=60, servers="k:9092", now=lambda: self.now_s, pause=self.pause
        )

    def connections(self) -> int:
        self.n_asked += 1
        return self.n

    def pause(self, s: float) -> None:
        self.pauses.append(s)
        self.now_s += s


def test_without_a_broker_a_turn_takes_time_and_a_minute_few_turns() -> None:
    world = World()
    world.n = 0
    while world.now_s < 59:
        world.presence.look()
    assert len(world.pauses) < 40
    world.now_s = 61
    with pytest.raises(PolytempoError, match="no broker of k:9092 was there for 60 s"):
        world.presence.look()
    assert world.pauses[:6] == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    assert world.presence.is_gone


def test_a_broker_that_comes_back_in_time_is_all_that_is_wanted() -> None:
    world = World()
    for _ in range(5):
        world.n = 0
        began_s = world.now_s
        while world.now_s < began_s + 50:
            world.presence.look()
        world.n = 1
        world.now_s += 1
        world.presence.look()
        assert not world.presence.is_gone
        world.now_s += 20
    world.n = 0
    world.presence.look()
    assert world.pauses[-1] == 0.1, "patience begins anew"


def test_silence_alone_is_looked_into_once_a_second_and_costs_no_pause() -> None:
    world = World()
    for _ in range(100):
        world.presence.look()
        world.now_s += 0.1
    assert 9 <= world.n_asked <= 11
    assert world.pauses == []
