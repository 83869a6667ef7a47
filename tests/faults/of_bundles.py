"""Trouble with bundles: a corrupt one in the channel, and exchanges under load."""

from __future__ import annotations

import asyncio
import json
import shutil

from stream.bundle.channel import activate
from tests.faults.round import START_S, Round, Scenario
from tests.worker.bundles import bundle
from tests.worker.cluster import until

__all__ = ["SCENARIOS"]


async def corrupt(round_: Round) -> None:
    """A model with one byte changed, half a manifest, no file at all: refused, and the old one serves on."""
    channel = round_.bundle = round_.folder / "live.json"
    activate(channel, bundle("ranker"))
    await round_.serving("a", "b")
    async with round_.under_load():
        for number, harm in enumerate(("model", "manifest", "nothing")):
            broken = shutil.copytree(bundle("ranker-2"), round_.folder / f"broken-{harm}")
            if harm == "model":
                raw = bytearray((broken / "model.onnx").read_bytes())
                raw[len(raw) // 2] ^= 1
                (broken / "model.onnx").write_bytes(raw)
            elif harm == "manifest":
                manifest = broken / "manifest.json"
                manifest.write_bytes(manifest.read_bytes()[:100])
            else:
                shutil.rmtree(broken)
            channel.write_text(json.dumps({"active": broken.name, "previous": None}))
            await until(lambda n=number: round_.count("the new bundle is not used") >= 2 * (n + 1))  # type: ignore[misc]
        activate(channel, bundle("ranker-2"))
        await until(lambda: round_.count("serves from now on instead of") >= 2)


async def swapped(round_: Round) -> None:
    """Two bundles in turn, five times."""
    channel = round_.bundle = round_.folder / "live.json"
    activate(channel, bundle("ranker"))
    await round_.serving("a", "b")
    async with round_.under_load():
        for number in range(5):
            activate(channel, bundle("ranker-2" if number % 2 == 0 else "ranker"))
            await until(lambda n=number: round_.count("serves from now on instead of") >= 2 * (n + 1))  # type: ignore[misc]
            await round_.pause(0, 1)
    served = {each["model"] for each in await round_.cluster.recommendations()}
    assert served == {"ranker@1", "ranker@2"}, served


async def raising(round_: Round) -> None:
    """The graph fails on one event in some hundred, wherever in a batch it stands."""
    workers = [round_.worker(label, module="tests.faults.raising") for label in "ab"]
    await asyncio.gather(*(worker.ready(START_S) for worker in workers))
    async with round_.under_load():
        pass
    await round_.cluster.caught_up(240)
    reasons = [letter["reason"] for letter in await round_.cluster.dead_letters()]
    round_.remarks["unanswered"] = reasons.count("unanswered")
    assert round_.remarks["unanswered"] > 0


SCENARIOS = {
    "bundle-corrupt": Scenario("a corrupt model, half a manifest and a missing folder put in the channel", corrupt),
    "bundle-swapped": Scenario("the bundle exchanged five times under load", swapped),
    "model-raises": Scenario("a graph that fails on one event in some hundred", raising),
}
