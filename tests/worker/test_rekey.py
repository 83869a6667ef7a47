"""States survive the renewal of the secret byte for byte, whoever carries them over; no id is left in the clear."""

from __future__ import annotations

import asyncio
import json

import pytest

from stream.cli.main import main
from stream.rekey import rekeyed
from stream.wire.userkeys import UserKey, UserKeys
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed
from tests.worker.test_forget import clicks

A, B = "a:" + "61" * 32, "b:" + "62" * 32


async def states(cluster: Cluster) -> dict[bytes, bytes]:
    """What the changelog holds, by key."""
    found: dict[bytes, bytes] = {}
    for each in await cluster.records(cluster.names.changelog, cluster.n_partitions):
        if each.value is None:
            found.pop(each.key, None)
        else:
            found[each.key] = each.value
    return found


async def test_renewing_the_secret_loses_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    keys       none     a            a, b
    worker     ─────    ── (u0, u1)
    rekey                            ──     everybody else, and those two once more
    """
    users = [f"user-{n}" for n in range(10)]
    worker = cluster.worker(bundle("recurrent"))
    await worker.ready()
    await cluster.send([keyed(each) for user in users for each in clicks(user, 4)])
    await cluster.caught_up()
    await worker.stopped()
    before = await states(cluster)
    assert set(before) == {user.encode() for user in users}

    monkeypatch.setenv("POLYTEMPO_USER_KEYS", A)
    worker = cluster.worker(bundle("recurrent"))
    await worker.ready()
    options = ["--json", "--kafka", cluster.broker, "--prefix", cluster.prefix]
    assert await asyncio.to_thread(main, ["rekey", *options]) == 2, "a worker runs"
    await cluster.send([keyed(each) for user in users[:2] for each in clicks(user, 1, first=10)])
    await cluster.caught_up()
    await worker.stopped()
    between, keys = await states(cluster), UserKeys.read()
    assert set(between) == {*map(keys.stored, map(str.encode, users[:2])), *(user.encode() for user in users[2:])}

    monkeypatch.setenv("POLYTEMPO_USER_KEYS", f"{A},{B}")
    capsys.readouterr()
    assert await asyncio.to_thread(main, ["rekey", *options]) == 0
    assert json.loads(capsys.readouterr().out) == {"n_carried": 10, "n_current": 0}
    after, keys = await states(cluster), UserKeys.read()
    earlier = UserKeys.read({"POLYTEMPO_USER_KEYS": A})
    for number, user in enumerate(map(str.encode, users)):
        assert after[keys.stored(user)] == (between[earlier.stored(user)] if number < 2 else before[user])
    assert len(after) == len(users)
    assert not [key for key, value in after.items() if b"user-" in key + value]
    assert await asyncio.to_thread(main, ["rekey", *options]) == 0
    assert json.loads(capsys.readouterr().out) == {"n_carried": 0, "n_current": 10}


def test_what_a_worker_carried_over_already_is_the_newer_state() -> None:
    """As after a crash between the new record and the tombstone of the old one."""
    keys = UserKeys([UserKey("a", b"a" * 32)])
    new = keys.stored(b"u")
    assert list(rekeyed({b"u": b"old", new: b"newer"}, keys)) == [(b"u", None)]
    assert list(rekeyed({b"u": b"old"}, keys)) == [(new, b"old"), (b"u", None)]
