"""Events, recommendations and dead letters put together into figures."""

from dataclasses import dataclass

import msgspec
import pytest
from rich.console import Console

from stream.live.observer import ItemName, Observer
from stream.live.screen import as_line, draw
from stream.live.words import deed, name_of, sparkline, why
from stream.wire.encode import rec_id
from stream.wire.messages import DeadLetter, Event, Item, Recommendation, RecommendedItem, Source

NOW_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Message:
    """A record as a consumer gives it."""

    key: bytes | None
    value: bytes | None
    offset: int
    timestamp: int | None
    partition: int = 0


def event(offset: int, stamp_ms: int = 0, *, user: str = "u", item: str | None = "a", kind: str = "view") -> Message:
    value = Event(user_id=user, item_id=item, event_type=kind, ts_ms=NOW_MS + offset)
    return Message(user.encode(), msgspec.json.encode(value), offset, NOW_MS + stamp_ms)


def answer(offset: int, stamp_ms: int = 0, *, user: str = "u", items: str = "b", topic: str = "events") -> Message:
    value = Recommendation(
        rec_id=rec_id(topic, 0, offset),
        user_id=user,
        ts_ms=NOW_MS,
        event_id=None,
        items=[RecommendedItem(item, 1.0, ["own"]) for item in items],
        model="m@1",
        variant="default",
        activity_offset=-1,
        items_offset=-1,
        source=Source(topic, 0, offset),
    )
    return Message(user.encode(), msgspec.json.encode(value), offset, NOW_MS + stamp_ms)


def letter(offset: int, reason: str = "unknown_type", *, topic: str = "events") -> Message:
    value = DeadLetter(
        reason=reason, detail="", topic=topic, partition=0, offset=offset, ts_ms=None,
        key=None, key_bytes=None, value=None, value_bytes=None, value_sha256=None,
    )  # fmt: skip
    return Message(b"k", msgspec.json.encode(value), offset, NOW_MS)


def test_latency_runs_from_the_brokers_receipt_of_the_event_to_that_of_the_recommendation() -> None:
    """event at the broker 100 ms, recommendation 130 ms, in our hands 150 ms"""
    observer = Observer("events", count_from={})
    observer.events([event(0, 100)], 0.0)
    observer.recommendations([answer(0, 130)], 0.0, NOW_MS + 150)
    figures = observer.figures(1.0)
    assert (figures.p50_ms, figures.received_p50_ms) == (30, 50)
    assert (figures.events_in, figures.recommendations_out, figures.n_open) == (1, 1, 0)


def test_recommendations_may_be_read_before_their_events() -> None:
    observer = Observer("events", count_from={})
    observer.recommendations([answer(0, 130)], 0.0, NOW_MS + 150)
    observer.events([event(0, 100)], 0.0)
    assert observer.figures(1.0).p50_ms == 30


def test_repeated_recommendations_are_counted_apart() -> None:
    observer = Observer("events", count_from={})
    observer.events([event(0)], 0.0)
    observer.recommendations([answer(0), answer(0)], 0.0, NOW_MS)
    figures = observer.figures(1.0)
    assert (figures.recommendations_out, figures.repeated) == (1, 1)


def test_malformed_events_are_in_and_wait_until_their_dead_letter_comes() -> None:
    observer = Observer("events", count_from={})
    observer.events([event(0), event(1, kind="wish"), Message(None, b"{", 2, NOW_MS)], 0.0)
    assert observer.n_open == 3
    observer.letters([letter(1), letter(2, "invalid_json"), letter(2, "invalid_json"), letter(9, topic="items")], 0.0)
    figures = observer.figures(1.0)
    assert figures.dead_letters == {"unknown_type": 2, "invalid_json": 1}
    assert (figures.events_in, figures.n_open) == (3, 1)


def test_what_came_before_counting_began_is_learnt_from_and_not_waited_for() -> None:
    observer = Observer("events", count_from={0: 2})
    observer.events([event(n, item="abc"[n]) for n in range(3)], 0.0)
    observer.recommendations([answer(n) for n in range(3)], 0.0, NOW_MS)
    figures = observer.figures(1.0)
    assert (observer.n_read, figures.events_in, figures.recommendations_out, figures.repeated) == (3, 1, 1, 0)


def test_held_back_it_counts_nothing_yet_waits_for_all() -> None:
    observer = Observer("events")
    observer.events([event(0), event(1)], 0.0)
    assert (observer.n_open, observer.figures(1.0).events_in) == (2, 0)
    observer.recommendations([answer(0), answer(1)], 0.0, NOW_MS)
    observer.count_from({0: 2})
    observer.events([event(2, item="b")], 0.0)
    observer.recommendations([answer(2)], 0.0, NOW_MS)
    figures = observer.figures(1.0)
    assert (figures.events_in, figures.recommendations_out, figures.n_open) == (1, 1, 0)


def test_requests_and_forgetting_are_no_targets_and_other_programs_messages_are_passed_over() -> None:
    observer = Observer("events", count_from={})
    observer.events([event(0), event(1, item=None, kind="request"), event(2, item="b")], 0.0)
    junk = Message(b"u", b"not ours", 7, NOW_MS)
    observer.recommendations([junk, answer(0, topic="others"), answer(0), answer(1), answer(2)], 0.0, NOW_MS)
    figures = observer.figures(1.0)
    assert (figures.recommendations_out, figures.n_targets, figures.hit_rate_at_10) == (3, 1, 1.0)
    observer.events([event(3, item=None, kind="forget"), event(4, item="c")], 0.0)
    assert observer.figures(1.0).n_targets == 1


def test_the_view_shows_titles_deeds_and_reasons_and_takes_brackets_as_text() -> None:
    observer = Observer("events", count_from={})
    items = [
        Message(b"a", msgspec.json.encode(Item(title="tea [green]", category="drinks")), 0, NOW_MS),
        Message(b"b", msgspec.json.encode(Item(title="teapot")), 1, NOW_MS),
    ]
    observer.items(items)
    observer.events([event(0, user="[bold]u"), event(1, kind="wish")], 0.0)
    observer.recommendations([answer(0, 12, user="[bold]u")], 0.0, NOW_MS)
    observer.letters([letter(1)], 0.0)
    figures = observer.figures(1.0)
    console = Console(width=120, height=30, record=True, file=None, legacy_windows=False, force_terminal=True)
    with console.capture() as captured:
        console.print(draw(observer, figures, 3, title="test", height=30))
    text = captured.get()
    for wanted in ("viewed tea [green] (drinks)", "teapot", "had it before", "[bold]u", "unknown_type", "12 ms"):
        assert wanted in text
    assert "in 2 (" in as_line(figures, None)


def test_reasons_and_deeds_in_plain_words() -> None:
    assert why(["co-visited:last", "popular:all:5m", "own"]) == "follows the last item, popular at the 5m scale"
    assert why(["popular:all:1h:device"]) == "popular by device at the 1h scale"
    assert why(["fill:all:5m"]) == "popular, to fill up"
    assert why(["something-new"]) == "something-new"
    assert (deed("purchase"), deed("subscribe")) == ("bought", "subscribe")
    assert name_of("i1", {"i1": ItemName("tent", "camping")}, with_category=True) == "tent (camping)"
    assert name_of("i2", {}) == "i2"


@pytest.mark.parametrize(("counts", "bars"), [([], ""), ([0, 0], "  "), ([0, 1, 8], " ▁█"), ([5, 5], "██")])
def test_a_sparkline_has_a_character_for_each_count(counts: list[int], bars: str) -> None:
    assert sparkline(counts) == bars
