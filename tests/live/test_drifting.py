"""What pages of several workers say of drift, together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rich.console import Console

from stream.live.drifting import Drifted, Workers, summed
from stream.live.observer import Observer
from stream.live.screen import as_line, draw


def page(verdict: str, events: int = 500, **moved: float) -> dict[str, Any]:
    return {"drift": {"default": {"events": events, "verdict": verdict, "moved_most": moved}}}


def test_the_worker_that_has_moved_most_speaks_for_all() -> None:
    found = summed([page("steady", score=0.01), page("changed", age=0.9, score=0.2), page("too few", events=9)])
    assert found == (Drifted("default", "changed", 1009, (("age", 0.9), ("score", 0.2))),)


def test_what_nobody_knows_is_said_to_be_unknown() -> None:
    assert summed([{"drift": {"default": None}}]) == (Drifted("default", "not known", 0, ()),)
    assert summed([page("too few", events=5)]) == (Drifted("default", "too few", 5, ()),)


def test_pages_that_are_no_status_say_nothing() -> None:
    """An older worker, one that only starts, another program, a refused token."""
    assert summed([{}, [], "no", {"drift": None}, {"error": "unauthorized"}]) == ()


def test_each_variant_has_a_line() -> None:
    pages = [{"drift": {"b": None, "a": {"events": 400, "verdict": "look", "moved_most": {"score": 0.12}}}}]
    observer = Observer("events", count_from={})
    figures = observer.figures(0.0)
    assert "drift" not in as_line(figures, None)
    with_drift = replace(figures, drifted=summed(pages))
    assert as_line(with_drift, None).endswith("a drift: look, score 0.12 | b drift: not known")
    assert [each["verdict"] for each in with_drift.as_json()["drift"]] == ["look", "not known"]
    console = Console(width=120, height=40, legacy_windows=False, force_terminal=True)
    with console.capture() as captured:
        console.print(draw(observer, with_drift, 3, title="test", height=40))
    assert "not known" in captured.get()
    assert "score 0.12" in captured.get()


def test_without_workers_nobody_is_asked() -> None:
    with Workers([]) as workers:
        assert not workers.asked.is_set()
