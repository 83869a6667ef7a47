"""Rounds of trouble for workers: `python -m tests.faults.worker_rounds --rounds 20`.

    worker a   ────────x  ────────────   killed with SIGKILL in the middle of the stream, started again
    worker b   ───────────────────────
    worker c       ─────────╴            added, and stopped again
    events     ═══════════════════        with a few that are broken, repeated, requests, or ask to be forgotten

Afterwards every event is accounted for, see `tests.faults.accounts`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from stream.bundle.load import load_bundle
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from tests.faults.accounts import Account, audit
from tests.wire.malformed import KINDS, make
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, KeyAndValue, keyed

__all__ = ["one_round", "traffic"]

_N_ITEMS = 100  # fewer than a row has slots: which neighbour makes room depends on how partitions interleave
_SMALL_KINDS = [kind for kind in KINDS if kind not in ("a string of 1 MB", "nested without end")]


def traffic(n_users: int, seed: int) -> Iterator[KeyAndValue]:
    """Events without end, one each 200 ms: some late, some sent twice, 1 in 50 broken."""
    rng = random.Random(seed)
    start_ms = int(time.time() * 1000) - 24 * 3_600_000
    sent: list[str] = []
    for number in count():
        ts_ms = start_ms + 200 * number - rng.randrange(900_000) * (rng.random() < 0.05)
        user = f"user-{min(int(rng.expovariate(3 / n_users)), n_users - 1)}"
        chance = rng.random()
        if chance < 0.02:
            yield make(rng.choice(_SMALL_KINDS), rng, ts_ms)
            continue
        event: dict[str, Any] = {"user_id": user, "event_type": "request", "ts_ms": ts_ms}
        if chance < 0.03:
            yield keyed({**event, "n": rng.randrange(1, 20)})
            continue
        if chance < 0.033:
            yield keyed({**event, "event_type": "forget"})
            continue
        event["event_type"] = rng.choices(["view", "click", "purchase", "dislike", "return"], [3, 9, 2, 1, 1])[0]
        event["item_id"] = f"item-{int(rng.paretovariate(0.6)) % _N_ITEMS}"
        event["value"] = rng.uniform(0.1, 99)
        event["context"] = {"device": rng.choice(["1", "3"])}
        if chance < 0.5:
            event["event_id"] = f"event-{number}"
            sent.append(json.dumps(event))
        if chance < 0.06 and len(sent) > 3:  # a producer that did not hear the acknowledgement
            event = json.loads(sent[-rng.randrange(1, 4)])
        yield keyed(event)


async def one_round(
    settings: KafkaSettings, folder: Path, *, n_events: int = 15_000, rate: float = 2_000, seed: int = 0
) -> tuple[Account, dict[str, Any]]:
    """One round on topics of its own; the moments of trouble are drawn from `seed`. The verdict, and remarks.

    Events come until all trouble is over: at least `n_events` of them, and at most four times as many.
    """
    moments = random.Random(seed)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="polytempo-round-") as directory:
        cluster = Cluster(settings, f"round-{uuid.uuid4().hex[:8]}-", Path(directory))
        cluster.create()
        options = ("--session", "6s")

        def worker(label: str) -> Any:
            return cluster.worker(folder, *options, label=label)

        try:
            victim, steady = worker("a"), worker("b")
            await asyncio.gather(victim.ready(), steady.ready())
            guest = worker("c")
            troubled = True
            numbered = enumerate(traffic(2000, seed))
            stream = (pair for _, pair in takewhile(lambda sent: sent[0] < n_events * (4 if troubled else 1), numbered))
            feeding = asyncio.ensure_future(cluster.send(stream, rate=rate))

            async def kill_and_restart() -> Any:
                await asyncio.sleep(moments.uniform(1, 7))
                await victim.kill()
                await asyncio.sleep(moments.uniform(0, 2))
                restarted = worker("a")
                await restarted.ready()
                return restarted

            async def add_and_remove() -> dict[str, Any]:
                await guest.ready()
                await asyncio.sleep(moments.uniform(4, 8))
                return dict(await guest.stopped())

            restarted, of_guest = await asyncio.gather(kill_and_restart(), add_and_remove())
            troubled = False
            await feeding
            await cluster.caught_up()
            said = [await worker.stopped() for worker in (steady, restarted)]
            account = await audit(cluster, load_bundle(folder).features)
            remarks = {
                "prefix": cluster.prefix,
                "guest_records": of_guest["records"],
                "replayed": sum(each["replayed"] for each in [*said, of_guest]),
                "duplicates": sum(each["duplicates"] for each in [*said, of_guest]),
                "seconds": round(time.monotonic() - began_s, 1),
            }
            if not account.sound:
                remarks["logs"] = _keep(directory)
        except (AssertionError, TimeoutError) as error:
            error.add_note(f"logs in {_keep(directory)}")
            raise
        finally:
            await cluster.kill_all()
        return account, remarks


def _keep(directory: str) -> str:
    """Save the workers' logs from a folder that is about to vanish."""
    kept = tempfile.mkdtemp(prefix="polytempo-failed-round-")
    shutil.copytree(directory, kept, dirs_exist_ok=True)
    return kept


_COLUMNS = (
    ("events", "n_valid"),
    ("unanswered", "n_unanswered"),
    ("strange", "n_strange"),
    ("repeated", "n_repeated"),
    ("bad", "n_bad"),
    ("no letter", "n_unexplained"),
    ("users", "n_users"),
    ("wrong states", "n_wrong_states"),
    ("uncounted", "n_uncounted"),
    ("miscounted", "n_counted_wrongly"),
    ("wrong items", "n_wrong_items"),
    ("replayed", "replayed"),
    ("third had", "guest_records"),
    ("s", "seconds"),
)


async def _rounds(settings: KafkaSettings, args: argparse.Namespace) -> int:
    folder = bundle("ranker") if args.bundle is None else args.bundle
    people = sys.stderr if args.json else sys.stdout
    print("round  " + "  ".join(title for title, _ in _COLUMNS) + "  verdict", file=people, flush=True)
    found: list[dict[str, Any]] = []
    for number in range(args.rounds):
        try:
            account, remarks = await one_round(
                settings, folder, n_events=args.events, rate=args.rate, seed=args.seed + number
            )
        except (AssertionError, TimeoutError) as error:
            said = [str(error).strip().splitlines()[-1], *getattr(error, "__notes__", [])]
            print(f"{number + 1:5}  FAILED {type(error).__name__}: {', '.join(said)}", file=people, flush=True)
            found.append({"round": number + 1, "sound": False, "error": said})
            continue
        figures: dict[str, Any] = {"round": number + 1, "sound": account.sound, **account.as_json(), **remarks}
        found.append(figures)
        cells = "  ".join(f"{figures[name]:>{len(title)}}" for title, name in _COLUMNS)
        verdict = "sound" if account.sound else f"NOT SOUND: {remarks.get('logs')}"
        print(f"{number + 1:5}  {cells}  {verdict}", file=people, flush=True)
    n_sound = sum(each["sound"] for each in found)
    print(f"{n_sound} of {len(found)} rounds sound", file=people, flush=True)
    if args.json:
        total = {name: sum(each.get(name, 0) for each in found) for _, name in _COLUMNS}
        print(json.dumps({"rounds": len(found), "sound": n_sound, **total, "each": found}), flush=True)
    return 0 if n_sound == len(found) else 1


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kafka", help="HOST:PORT; a broker of its own unless given")
    parser.add_argument("--bundle", type=Path, help="without recurrent state; an untrained ranker unless given")
    parser.add_argument("--events", type=int, default=15_000, help="at least so many a round")
    parser.add_argument("--rate", type=float, default=2_000, help="events a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one line at the end, the table to standard error")
    args = parser.parse_args(argv)
    if args.kafka is not None:
        return asyncio.run(_rounds(KafkaSettings.read(args.kafka), args))
    with EmbeddedBroker() as broker:
        return asyncio.run(_rounds(broker.settings, args))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
