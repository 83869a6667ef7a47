"""`polytempo retrain`: from what happened lately to the bundle that serves."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from stream.cli.bars import Bars
from stream.cli.console import people, print_json, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.errors import PolytempoError

if TYPE_CHECKING:
    from training.retrain import Retrained

__all__ = ["retrain"]

EXIT_KEPT: Final = 3
"""Everything went well, and the bundle that serves goes on serving."""


def retrain(
    config: Path,
    /,
    *,
    channel: Path,
    topic: str = "events",
    since: str = "30d",
    share: float = 0.9,
    rate: float = 0.3,
    tolerance: float = 0.05,
    force: bool = False,
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> int:
    """Train on what happened lately, and let the new bundle serve if it is not worse than the one that does.

    Reads the topic without joining a group. Begins with the weights of the channel's bundle: items that both know keep
    theirs, new ones start as the average. Judges both bundles on the latest events, and promotes the new one through
    the channel, where workers notice. One that is killed changes nothing; the same command goes on where it was.

    Events of users who were forgotten after them are left out, as replays leave them out.

    Exit status: 0 the new bundle serves, 3 the old one goes on serving, 2 an error. For cron.

    Examples:

    `polytempo retrain training/configs/shop-ranker.toml --channel models/live.json --since 30d`

    Args:
        config: The configuration, TOML, as for `train`; its data and times are not used.
        channel: The channel file, such as models/live.json; where there is none, it is created.
        topic: Where events are read from. Items come from the topic `items`.
        since: How far back in event time, such as 30d.
        share: Of the range, its first part, that is trained on. Both bundles are judged on the rest.
        rate: Learning rate where weights are taken over, as a share of the configuration's.
        tolerance: How much worse the new bundle may be, as a share of the old one's NDCG, with 95 % confidence.
        force: Promote the new bundle whatever the comparison says.
        device: Where a sequence model is trained: `auto` is a graphics card if there is one, else the processor.
        json: Print one line at the end.
    """
    from stream.kafka.topics import TopicNames
    from stream.replay.forgotten import read_forgotten
    from stream.replay.topics import TopicReader
    from training.config import read_config
    from training.device import choose_device
    from training.processes import Processes
    from training.retrain import Plan, Slice, working
    from training.retrain import retrain as run

    if not 0 < share < 1 or rate <= 0 or tolerance < 0:
        raise PolytempoError("--share is between 0 and 1, --rate above 0, --tolerance 0 or more.")
    settings = read_config(config)
    options = connection or KafkaOptions()
    names = TopicNames(options.prefix)
    wanted = Slice(options.prefix + topic, names.items, parse_duration_ms(since))
    processes = Processes(device=choose_device(device))
    with working(channel) as folder, TopicReader(options.settings()) as reader, Bars() as bars:
        done = run(
            settings,
            reader,
            wanted,
            channel=channel,
            folder=folder,
            now_ms=time.time_ns() // 1_000_000,
            plan=Plan(share, rate, tolerance, force),
            command=shlex.join(["polytempo", "retrain", config.name, "--since", since, "--share", f"{share:g}"]),
            report=bars,
            processes=processes,
            forgotten=read_forgotten(reader, names),
        )
    (people if json else results).print(_sentence(done), markup=False)
    if json:
        print_json(_document(done))
    return 0 if done.promoted else EXIT_KEPT


def _sentence(done: Retrained) -> str:
    new, found = done.trained.manifest.reference, done.difference
    compared = "" if found is None else f", NDCG {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})"
    began = "" if done.before is None else " from its weights" if done.warm else " from nothing"
    if done.promoted:
        return f"{new} serves{'' if done.before is None else f' instead of {done.before}'}{compared}; trained{began}"
    return f"{done.before} goes on serving: {new} may be worse{compared}"


def _document(done: Retrained) -> dict[str, Any]:
    found = done.difference
    return {
        "promoted": done.promoted,
        "reference": done.trained.manifest.reference,
        "path": str(done.trained.path),
        "before": done.before,
        "warm": done.warm,
        "resumed": done.resumed,
        "n_events": done.n_events,
        "n_forgotten": done.n_forgotten,
        "n_new_items": done.n_new_items,
        "difference": None if found is None else {"ndcg": found.mean, "low": found.low, "high": found.high},
        "metrics": dict(done.trained.manifest.metrics),
        "seconds": done.trained.seconds,
    }
