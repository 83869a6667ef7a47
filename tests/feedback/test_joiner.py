"""The joiner against an oracle that knows both topics at once; interleavings, copies and restarts leave no trace."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.feedback.joiner import Happened, Joined, Joiner, JoinRules, Recommended, SpanKey, Tally, Told

RULES = JoinRules(frozenset({"click", "buy"}), "seen", window_ms=30, span_ms=60, lateness_ms=10)
USERS, ITEMS = ("a", "b"), ("i", "j", "k")


def topics(rng: Random) -> tuple[list[Happened], list[Recommended]]:
    """Events whose times mostly rise, and an answer to most of them; some answers come again later, changed."""
    now, events, answers = 1_000, list[Happened](), list[Recommended]()
    for offset in range(rng.randint(1, 60)):
        now += rng.choice([0, 1, 3, 8, 20, 45, 90])
        ts_ms = now - rng.choice([0, 0, 0, 0, 2, 9, 11, 40, 100])
        user = rng.choice(USERS)
        named = rng.choice([None, f"r{rng.randint(max(0, offset - 4), offset + 1)}"])
        name = rng.choice([None, None, "x", "y"])
        kind = rng.choice(["click", "click", "buy", "seen", "other"])
        events.append(Happened(offset, user, rng.choice(ITEMS), kind, ts_ms, name, named))
        if rng.random() < 0.9:
            items = tuple(rng.sample(ITEMS, rng.randint(0, 2)))
            answers.append(Recommended(0, offset, f"r{offset}", user, ts_ms, items, "m@1", rng.choice("uv")))
    repeated = []
    for n, answer in enumerate(answers):
        repeated.append(answer)
        if rng.random() < 0.1:
            repeated.append(replace(answers[rng.randint(0, n)], items=("k",)))
    return events, [replace(answer, place=place) for place, answer in enumerate(repeated)]


def oracle(
    events: list[Happened], answers: list[Recommended]
) -> tuple[dict[int, tuple[str, int | None, str]], dict[SpanKey, Tally]]:
    """Outcomes by the event's offset, and the counts of spans that are over; by looking at everything over and over."""
    first: dict[str, tuple[int, Recommended]] = {}
    reached = -1
    for answer in answers:
        reached = max(reached, answer.offset)
        watermark = max((event.ts_ms for event in events if event.offset <= reached), default=-(10**9))
        too_old = answer.ts_ms < watermark - RULES.lateness_ms - RULES.window_ms
        if answer.rec_id not in first and not too_old:
            first[answer.rec_id] = (reached, answer)
    outcomes: dict[int, tuple[str, int | None, str]] = {}
    hits: dict[str, list[str]] = {}
    names: set[tuple[str, str, int]] = set()
    for event in events:
        if event.offset > reached:
            break
        watermark = max(other.ts_ms for other in events if other.offset <= event.offset)
        if event.event_type not in ("click", "buy", "seen") or event.ts_ms < watermark - RULES.lateness_ms:
            continue
        if event.event_id is not None:
            name = (event.user_id, event.event_id, event.ts_ms)
            if name in names:
                continue
            names.add(name)
        before = [
            answer
            for stands_at, answer in first.values()
            if stands_at < event.offset
            and answer.user_id == event.user_id
            and 0 <= event.ts_ms - answer.ts_ms <= RULES.window_ms
        ]
        fitting = [answer for answer in before if event.item_id in answer.items and event.event_type != "seen"]
        named = [answer for answer in before if answer.rec_id == event.rec_id]
        if named or fitting:
            cause = named[0] if named else max(fitting, key=lambda answer: answer.offset)
            position = cause.items.index(event.item_id) + 1 if event.item_id in cause.items else None
            outcomes[event.offset] = (
                cause.rec_id,
                position,
                "rec_id" if named or cause.rec_id == event.rec_id else "item",
            )
            hits.setdefault(cause.rec_id, []).append(event.event_type)
    tallies: dict[SpanKey, Tally] = {}
    end = max((event.ts_ms for event in events if event.offset <= reached), default=-(10**9))
    for _, answer in first.values():
        start = answer.ts_ms // 60 * 60
        if start + RULES.span_ms + RULES.window_ms + RULES.lateness_ms > end:
            continue
        tally = tallies.setdefault(SpanKey(start, answer.user_id, answer.model, answer.variant), Tally())
        kinds = hits.get(answer.rec_id, [])
        successes = [kind for kind in kinds if kind != "seen"]
        tally.add(
            Tally(
                1, bool(successes), len(successes), "seen" in kinds, bool(successes) and "seen" in kinds
            )  # as 0 and 1
        )
    return outcomes, tallies


def collected(told: list[Joined | Told]) -> tuple[dict[int, tuple[str, int | None, str]], dict[SpanKey, Tally]]:
    """By id; the same id must not say two things."""
    outcomes: dict[int, tuple[str, int | None, str]] = {}
    tallies: dict[SpanKey, Tally] = {}
    for each in told:
        if isinstance(each, Joined):
            said = (each.rec_id, each.position, each.by)
            assert outcomes.setdefault(each.event.offset, said) == said
        else:
            assert tallies.setdefault(each.key, each.tally) == each.tally
    return outcomes, tallies


@given(seed=st.integers(0, 2**32))
@settings(max_examples=400)
def test_any_interleaving_and_any_restarts_tell_what_the_oracle_tells(seed: int) -> None:
    """
    events            |e0 e1 e2|      |e3 ...       read in any portions
    recommendations       |r0|  |r1 r2|             an event waits for all that was recommended before it
    crash                        x                  some of what was told is lost, and what was saved before is read
    """
    rng = Random(seed)
    events, answers = topics(rng)
    every = rng.choice([1, 2, 7])
    joiner, delivered = Joiner(RULES, checkpoint_every=every), list[Joined | Told]()
    saved = joiner.resume()
    at_event, at_answer = 0, 0
    while at_event < len(events) or at_answer < len(answers):
        action = rng.choice(["events", "events", "answers", "answers", "save", "crash"])
        if action == "events" or (action == "crash" and at_event == at_answer == 0):
            n = rng.randint(1, 8)
            joiner.events([(event.offset, event) for event in events[at_event : at_event + n]])
            at_event += n
        elif action == "answers":
            n = rng.randint(1, 8)
            joiner.recommendations([(answer.place, answer) for answer in answers[at_answer : at_answer + n]])
            at_answer += n
        elif action == "save":
            delivered += joiner.told()
            saved = joiner.resume()
        else:
            delivered += joiner.told()[: rng.randint(0, 3)]
            joiner = Joiner(RULES, saved, checkpoint_every=every)
            at_event, at_answer = saved.start.events, saved.start.recommendations
    delivered += joiner.told()
    assert collected(delivered) == oracle(events, answers)


@given(seed=st.integers(0, 2**32))
def test_without_a_crash_everything_is_told_once_and_totals_are_the_sums(seed: int) -> None:
    events, answers = topics(Random(seed))
    joiner, told, totals = Joiner(RULES), list[Joined | Told](), dict[tuple[int, str, str], tuple[Tally, bool]]()
    for event in events:
        joiner.events([(event.offset, event)])
        joiner.recommendations([(each.place, each) for each in answers if each.offset == event.offset])
        totals |= joiner.totals()
        told += joiner.told()
    keys = [each.event.offset if isinstance(each, Joined) else each.key for each in told]
    assert len(keys) == len(set(keys))
    sums: dict[tuple[int, str, str], Tally] = {}
    for each in told:
        if isinstance(each, Told):
            key = each.key
            sums.setdefault((key.start_ms, key.model, key.variant), Tally()).add(each.tally)
    assert {key: tally for key, (tally, is_over) in totals.items() if is_over} == sums


def event(offset: int, item: str, ts_ms: int, **more: str) -> tuple[int, Happened]:
    return offset, Happened(offset, "a", item, "click", ts_ms, **more)  # type: ignore[arg-type]


def answer(offset: int, ts_ms: int, *items: str) -> tuple[int, Recommended]:
    return offset, Recommended(offset, offset, f"r{offset}", "a", ts_ms, items, "m@1", "u")


def joined(joiner: Joiner) -> list[tuple[int, str]]:
    return [(each.event.offset, each.rec_id) for each in joiner.told() if isinstance(each, Joined)]


def test_an_event_waits_until_all_recommendations_before_it_are_known() -> None:
    joiner = Joiner(RULES)
    joiner.events([event(0, "i", 0), event(1, "j", 1), event(2, "k", 2)])
    joiner.recommendations([answer(0, 0, "k")])
    assert (joined(joiner), joiner.n_waiting_events) == ([], 2)
    joiner.recommendations([answer(1, 1, "k"), answer(2, 2)])
    assert joined(joiner) == [(2, "r1")], "the latest that holds the item"


def test_an_event_may_name_its_recommendation() -> None:
    joiner = Joiner(RULES)
    joiner.events([event(0, "i", 0), event(1, "j", 1), event(2, "k", 2, rec_id="r0")])
    joiner.recommendations([answer(0, 0, "k"), answer(1, 1, "k"), answer(2, 2)])
    assert joined(joiner) == [(2, "r0")]


def test_memory_is_bounded_by_the_window_and_by_a_number() -> None:
    joiner = Joiner(replace(RULES, max_open=5))
    for offset in range(1_000):
        joiner.events([event(offset, "i", offset)])
        joiner.recommendations([answer(offset, offset, "j")])
        assert joiner.n_open <= 5
    assert joiner.n_forgotten > 0
    roomy = Joiner(RULES)
    for offset in range(1_000):
        roomy.events([event(offset, "i", offset)])
        roomy.recommendations([answer(offset, offset, "j")])
        assert roomy.n_open <= RULES.window_ms + RULES.lateness_ms + 1
    assert roomy.n_forgotten == 0
    assert roomy.resume().start.events < 1_000 - RULES.window_ms
