"""The whole path beside plain Faust, Quix Streams and Bytewax: `polytempo bench path --peers`.

All do the same job on the same core and broker, one after the other in each round: events are validated, each user's
state is kept in the frame's own store, the same bundle scores in the same ONNX Runtime, recommendations are
acknowledged and offsets committed. What a peer does with an event is the product's own code (see `peer_job`), so the
comparison is one of frames. Where a peer offers batches it gets a formulation that uses them; its fastest counts.

Peers have it easier in one point: their item statistics stay as they were at the start, while the worker publishes item
activity, follows it and moves its view on.

Each peer's answers are checked: every event is answered exactly once, with the lists that the worker gives with the
same fixed statistics. A peer that skipped work would look fast.
"""

from __future__ import annotations

import asyncio
import pickletools
import sqlite3
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stream.errors import PolytempoError
from tests.bench.history import history_of
from tests.bench.path import (
    Answers,
    Measured,
    PathOptions,
    Subject,
    a_bundle,
    a_core,
    a_kafka,
    figures,
    measure,
    median_stages,
)
from tests.bench.path_events import load_events
from tests.bench.peer_env import PEERS, Peer, environment

__all__ = ["LABELS", "PEER_EVENTS", "bytewax_offsets", "run", "same_lists"]

PEER_EVENTS: Final = {
    ("faust", "event"): 1,
    ("faust", "take"): 3,
    ("quix", "event"): 2,
    ("bytewax", "user"): 5,
    ("bytewax", "partition"): 10,
    ("bytewax", "crowd"): 10,
}
"""Each formulation's backlog, as a multiple of plain Faust's: some seconds of work for each."""
_NOT_COUNTED: Final = ("crowd",)
"""Formulations that show what a peer costs under other circumstances; they are never a peer's figure."""
LABELS: Final = {
    "event": "event by event",
    "take": "stream.take",
    "user": "state by user",
    "partition": "state by partition",
    "crowd": "state by partition, 100,000 users known",
}
_TOLERANCE: Final = 1e-4
_N_HISTORY: Final = 5_000


@dataclass(slots=True)
class _Contender:
    """A formulation of a peer, and its rounds."""

    peer: Peer
    subject: Subject
    n_events: int
    rounds: list[Measured] = field(default_factory=list)

    @property
    def name(self) -> str:
        """In figures."""
        return f"{self.peer.name}, {self.subject.formulation}"

    @property
    def events_per_s(self) -> float:
        """Median of the rounds."""
        return statistics.median(each.events_per_s for each in self.rounds)

    def figures(self) -> dict[str, Any]:
        """What its rounds say."""
        return {
            "events_per_s": round(self.events_per_s, 1),
            "us_per_event": median_stages(self.rounds),
            "cpu_us_per_event": round(statistics.median(each.cpu_us for each in self.rounds), 1),
            "events_per_batch": round(statistics.median(each.n_per_batch for each in self.rounds), 1),
            "events": self.n_events,
        }


def run(options: PathOptions, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Measure, and give the figures; `say` is told what is going on.

    Raises:
        PolytempoError: no broker, or a process that was measured did not do its work, or did it wrong.
    """
    return asyncio.run(_run(options, say))


def same_lists(wanted: Answers, found: Answers) -> str:
    """What is wrong with `found`, as a sentence, empty if nothing is: every event answered, with the same items.

    Items whose scores lie within the tolerance of each other may change places.
    """
    missing = wanted.keys() - found.keys()
    if missing:
        return f"{len(missing):,} events were not answered, the first of them {min(missing)}"
    strange = found.keys() - wanted.keys()
    if strange:
        return f"{len(strange):,} answers belong to no event, the first of them to {min(strange)}"
    for place, ours in wanted.items():
        theirs = found[place]
        fits = len(ours) == len(theirs)
        fits = fits and all(abs(a - b) <= _TOLERANCE for (_, a), (_, b) in zip(ours, theirs, strict=True))
        if fits and [item for item, _ in ours] != [item for item, _ in theirs]:
            scores = dict(theirs)
            # The last places may be shared with an item that just missed the list.
            edge = min((score for _, score in ours), default=0.0) + 2 * _TOLERANCE
            fits = all(
                abs(scores.get(item, score if score <= edge else 1e9) - score) <= _TOLERANCE for item, score in ours
            )
        if not fits:
            return f"the event at {place} was answered with {theirs[:3]} … where the worker gives {ours[:3]} …"
    return ""


def bytewax_offsets(store: Path) -> int:
    """Input events that a Bytewax recovery store would not read again: the sum of the offsets that it resumes from."""
    newest: dict[str, int] = {}
    for part in store.glob("*.sqlite3"):
        connection = sqlite3.connect(f"file:{part}?mode=ro", uri=True)
        try:
            rows = connection.execute(
                "SELECT state_key, ser_change FROM snaps WHERE step_id LIKE '%.events' "
                "AND snap_epoch < (SELECT MAX(worker_frontier) FROM fronts) ORDER BY snap_epoch"
            ).fetchall()
        except sqlite3.OperationalError:  # it has not made its tables yet
            rows = []
        finally:
            connection.close()
        newest |= {key: _number(pickled) for key, pickled in rows}
    return sum(newest.values())


def _number(pickled: bytes) -> int:
    """The one integer in a pickle, read without executing it."""
    for code, argument, _ in pickletools.genops(pickled):
        if code.name.startswith(("BININT", "LONG", "INT")):
            return max(0, int(argument))
    return 0


async def _run(options: PathOptions, say: Callable[[str], object]) -> dict[str, Any]:
    contenders, left_out = _contenders(options, say)
    n_most = max(options.n_events, *(each.n_events for each in contenders))
    say("making events")
    shop = load_events(_N_HISTORY + n_most, n_users=options.n_users, n_items=options.n_items, log=options.log)
    n_history = max(0, min(_N_HISTORY, len(shop) - n_most))
    before, pairs = shop[:n_history], shop[n_history:]
    worker = Subject("tests.bench.path_worker", "worker")
    ours: list[Measured] = []
    with (
        a_bundle(options.bundle, options.n_items if options.recurrent else None) as bundle,
        a_core() as core,
        a_kafka(options.kafka) as settings,
        tempfile.TemporaryDirectory(prefix="polytempo-bench-") as name,
    ):
        folder = Path(name)
        history = history_of(bundle, before).activity

        async def one(subject: Subject, n_events: int, **wanted: bool) -> Measured:
            backlog = pairs[:n_events]
            return await measure(options, settings, subject, backlog, bundle, core, folder, history=history, **wanted)

        n_checked = max(each.n_events for each in contenders)
        say(f"the lists to compare with: worker with fixed statistics, {n_checked:,} events")
        fixed = Subject("tests.bench.path_worker", "worker with fixed statistics", fixed_view=True)
        reference = (await one(fixed, n_checked, read_answers=True)).answers
        for number in range(options.n_rounds):
            say(f"round {number + 1} of {options.n_rounds}")
            ours.append(await one(worker, options.n_events))
            say(f"worker: {ours[-1].events_per_s:,.0f} events/s, {ours[-1].cpu_us:.0f} us of CPU an event")
            for each in contenders:
                measured = await one(each.subject, each.n_events, read_answers=True)
                say(f"{each.subject.label}: {measured.events_per_s:,.0f} events/s, {measured.cpu_us:.0f} us")
                wrong = same_lists(_first(reference, measured.answers, each.n_events), measured.answers)
                if wrong:
                    raise PolytempoError(f"{each.subject.label}: {wrong}.", "Its figure would say nothing.")
                measured.answers = {}
                each.rounds.append(measured)
    plain = next(each for each in contenders if each.peer.name == "faust" and each.subject.formulation == "event")
    counted = [each for each in contenders if each.subject.formulation not in _NOT_COUNTED]
    best = {
        peer.name: max(
            (each for each in counted if each.peer is peer), key=lambda each: each.events_per_s, default=None
        )
        for peer in PEERS
    }
    result = figures(options, ours, plain.rounds)
    return result | {
        "events": len(pairs[: options.n_events]),
        "plain_faust_events": plain.n_events,
        "bundle": bundle.name,
        "pinned": core is not None,
        "peers": {name: None if each is None else round(each.events_per_s, 1) for name, each in best.items()},
        "ratios": _ratios(ours, contenders, lambda a, b: a.events_per_s / b.events_per_s),
        "cpu_ratios": _ratios(ours, contenders, lambda a, b: b.cpu_us / a.cpu_us),
        "labels": {each.name: each.subject.label for each in contenders},
        "formulations": {each.name: each.figures() for each in contenders},
        "left_out": left_out,
        "answers_checked": sum(each.n_events * len(each.rounds) for each in contenders),
    }


def _ratios(
    ours: list[Measured], contenders: list[_Contender], of: Callable[[Measured, Measured], float]
) -> dict[str, float]:
    """The median over rounds of the worker's advantage over each formulation."""
    return {
        each.name: round(statistics.median(of(a, b) for a, b in zip(ours, each.rounds, strict=True)), 2)
        for each in contenders
    }


def _first(reference: Answers, found: Answers, n_events: int) -> Answers:
    """The part of the reference that a shorter backlog has: the first events of each partition."""
    if n_events == len(reference):
        return reference
    ends: dict[int, int] = {}
    for partition, offset in found:
        ends[partition] = max(ends.get(partition, -1), offset)
    return {place: items for place, items in reference.items() if place[1] <= ends.get(place[0], -1)}


def _contenders(options: PathOptions, say: Callable[[str], object]) -> tuple[list[_Contender], dict[str, str]]:
    contenders: list[_Contender] = []
    left_out: dict[str, str] = {}
    for peer in PEERS:
        try:
            python = environment(peer, say)
        except PolytempoError as error:
            left_out[peer.name] = str(error)
            say(f"{peer.label} is left out: {left_out[peer.name]}")
            continue
        for formulation in peer.formulations:
            label = peer.label if len(peer.formulations) == 1 else f"{peer.label}, {LABELS[formulation]}"
            stored = None if peer.in_kafka else bytewax_offsets
            subject = Subject(peer.module, label, python, formulation, fixed_view=True, stored=stored)
            n_events = options.n_plain_events * PEER_EVENTS[peer.name, formulation]
            contenders.append(_Contender(peer, subject, n_events))
    return contenders, left_out
