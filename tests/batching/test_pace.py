"""When fetches are paced."""

from stream.batching.pace import Pace


def test_a_steady_thousand_a_second_is_busy_and_ten_a_second_is_not() -> None:
    """One event is to be expected in 5 ms from 200 events/s on."""
    fast, slow = Pace(), Pace()
    assert [fast.busy(5, i * 0.005, 0.005) for i in range(200)][-1]
    assert not any(slow.busy(1, i * 0.1, 0.005) for i in range(100))


def test_silence_makes_it_quiet_again() -> None:
    """A second after the last burst the first event is answered at once."""
    pace = Pace()
    assert pace.busy(1000, 0.0, 0.005)
    assert not pace.busy(0, 2.0, 0.005)


def test_a_window_of_nothing_is_never_busy() -> None:
    """How pacing is turned off."""
    assert not Pace().busy(1_000_000, 0.0, 0.0)
