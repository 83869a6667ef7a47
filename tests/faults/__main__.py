"""Rounds of trouble for workers, each with its accounts: `python -m tests.faults --scenario zombie --rounds 10`.

Events stream through workers, with broken, repeated and late ones, requests and requests to be forgotten among them,
while something goes wrong. Afterwards every event must be answered or be a dead letter, every user's state must equal
an offline rebuild byte by byte, and item statistics must count every event once; repeated recommendations are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from tests.faults import of_brokers, of_bundles, of_inputs, of_stores, of_workers
from tests.faults.round import Load, Scenario, play

__all__ = ["SCENARIOS", "main"]

SCENARIOS: dict[str, Scenario] = {
    **of_workers.SCENARIOS,
    **of_brokers.SCENARIOS,
    **of_stores.SCENARIOS,
    **of_bundles.SCENARIOS,
    **of_inputs.SCENARIOS,
}

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
    ("s", "seconds"),
)
_WIDTH = max(map(len, SCENARIOS))


async def _rounds(name: str, args: argparse.Namespace, broker: EmbeddedBroker | None) -> list[dict[str, Any]]:
    scenario, found = SCENARIOS[name], list[dict[str, Any]]()
    settings = KafkaSettings.read(args.kafka) if broker is None else broker.settings
    for number in range(args.rounds):
        seed, error = args.seed + number, None
        try:
            account, remarks = await play(
                scenario,
                settings,
                broker if scenario.own_broker else None,
                seed=seed,
                load=Load(args.events, args.rate),
            )
        except Exception as raised:  # noqa: BLE001 - one round that fails is a finding, the others go on
            said = f"{type(raised).__name__}: {(str(raised).strip() or 'no message').splitlines()[-1]}"
            error = ", ".join([said, *getattr(raised, "__notes__", [])])
            figures: dict[str, Any] = {"sound": False, "error": error}
        else:
            figures = {"sound": account.sound, **account.as_json(), **remarks}
        found.append({"scenario": name, "seed": seed, **figures})
        _say(_line(found[-1]), args)
    return found


def _line(figures: dict[str, Any]) -> str:
    head = f"{figures['scenario']:{_WIDTH}}  {figures['seed']:>4}"
    if "error" in figures:
        return f"{head}  FAILED: {figures['error']}"
    cells = "  ".join(f"{figures[name]:>{len(title)}}" for title, name in _COLUMNS)
    verdict = "sound" if figures["sound"] else f"NOT SOUND: {figures.get('logs')}"
    known = {name for _, name in _COLUMNS} | {"scenario", "seed", "sound", "duplicates", "logs"}
    more = ", ".join(f"{key} {figures[key]}" for key in figures if key not in known and not key.startswith("n_"))
    return f"{head}  {cells}  {verdict}{f' ({more})' if more else ''}"


def _say(line: str, args: argparse.Namespace) -> None:
    print(line, file=sys.stderr if args.json else sys.stdout, flush=True)


def _summary(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    summed = []
    for name in dict.fromkeys(each["scenario"] for each in found):
        mine = [each for each in found if each["scenario"] == name]
        total = {key: sum(each.get(key, 0) for each in mine) for _, key in _COLUMNS}
        sound = sum(each["sound"] for each in mine)
        summed.append({"scenario": name, "rounds": len(mine), "rounds_sound": sound, **total})
    return summed


def main(argv: Sequence[str]) -> int:
    """Play scenarios one after the other; 1 if a round was not sound."""
    listed = "\n".join(f"  {name:{_WIDTH}}  {each.says}" for name, each in SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        epilog=f"scenarios:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--scenario", action="append", choices=[*SCENARIOS, "all"], help="may be repeated; default all")
    parser.add_argument("--rounds", type=int, default=1, help="of each scenario")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next has the next one")
    parser.add_argument("--events", type=int, default=Load().n_events, help="at least so many a round")
    parser.add_argument("--rate", type=float, default=Load().rate, help="events a second")
    parser.add_argument("--kafka", help="HOST:PORT; a broker of its own unless given, or where the broker is hurt")
    parser.add_argument("--json", action="store_true", help="end with one JSON line; everything else to standard error")
    args = parser.parse_args(argv)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what we send meets the same trouble
    wanted = args.scenario or ["all"]
    names = list(SCENARIOS) if "all" in wanted else list(dict.fromkeys(wanted))
    _say(f"{'scenario':{_WIDTH}}  seed  " + "  ".join(title for title, _ in _COLUMNS) + "  verdict", args)
    found: list[dict[str, Any]] = []
    with ExitStack() as stack:
        shared: EmbeddedBroker | None = None
        for name in names:
            if SCENARIOS[name].own_broker:
                with EmbeddedBroker() as broker:
                    found += asyncio.run(_rounds(name, args, broker))
                continue
            if shared is None and args.kafka is None:
                shared = stack.enter_context(EmbeddedBroker())
            found += asyncio.run(_rounds(name, args, shared))
    summary = _summary(found)
    for each in summary:
        _say(f"{each['scenario']:{_WIDTH}}  {each['rounds_sound']} of {each['rounds']} rounds sound", args)
    n_sound = sum(each["sound"] for each in found)
    if args.json:
        print(json.dumps({"rounds": len(found), "sound": n_sound, "scenarios": summary, "each": found}), flush=True)
    return 0 if n_sound == len(found) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
