"""Health and metrics of a worker as its surroundings see them, when it is well and when it is stuck for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream.batching import Applied, Load, RecordBatch
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.settings import KafkaSettings
from stream.live.drifting import Workers
from stream.operations.listen import Listen, Token
from stream.operations.probe import ask
from stream.operations.watchdog import WatchdogConfig
from stream.worker.app import Worker, WorkerConfig
from stream.worker.observed import Observing
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster, keyed, until
from tests.worker.test_worker import clicks

LOCAL = Listen("127.0.0.1", 0)
CALM = WatchdogConfig(stalled_s=600.0, silent_s=600.0, unsettled_s=600.0, view_s=600.0, blocked_s=600.0, steady_s=0.5)
"""Each test makes the one threshold short that it is about: a slow machine must not trip another."""


async def page(url: str, token: Token | None = None) -> tuple[int, dict[str, Any]]:
    """Status and document of a page, asked for from outside the event loop."""
    status, body = await asyncio.get_running_loop().run_in_executor(None, ask, url, token)
    return status, json.loads(body) if body.startswith("{") else {"said": body}


async def objected(url: str, timeout_s: float = 30.0) -> set[str]:
    """Until the worker is not ready; what is said against it."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        status, document = await page(f"{url}/ready")
        if status == 503:
            return {each["kind"] for each in document["objections"]}
        await asyncio.sleep(0.05)
    raise TimeoutError("it stayed ready")


async def ready(url: str, timeout_s: float = 30.0) -> None:
    """Until the worker is ready."""
    deadline_s = time.monotonic() + timeout_s
    while (await page(f"{url}/ready"))[0] != 200:
        assert time.monotonic() < deadline_s, await page(f"{url}/ready")
        await asyncio.sleep(0.05)


def metrics_of(text: str) -> dict[str, float]:
    """name{labels} -> value of a page of metrics."""
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@asynccontextmanager
async def serving(cluster: Cluster, *, model: str = "ranker", **observing: Any) -> AsyncIterator[tuple[Worker, str]]:
    """A worker in this process, ready, and the address of its pages."""
    config = WorkerConfig(bundle(model), observing=Observing(listen=LOCAL, **observing))
    worker, stop, is_ready, urls = Worker(config, cluster.settings, cluster.names), asyncio.Event(), asyncio.Event(), []
    running = asyncio.ensure_future(worker.run(ready=is_ready.set, stop=stop, listening=urls.append))
    waiting = asyncio.ensure_future(is_ready.wait())
    await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED, timeout=90)
    try:
        assert is_ready.is_set(), running.exception() if running.done() else "it takes too long"
        yield worker, urls[0]
    finally:
        waiting.cancel()
        stop.set()
        await running


async def test_a_worker_is_alive_at_once_and_ready_when_it_answers(cluster: Cluster) -> None:
    """As a process: the address is on its first line, readiness says what it waits for, metrics count every event."""
    worker = cluster.worker(bundle("ranker"), "--http", "127.0.0.1:0")
    await until(lambda: '"http"' in worker.said() or worker.process.poll() is not None)
    url = json.loads(worker.said().splitlines()[0])["http"]
    assert await page(f"{url}/live") == (200, {"alive": True})
    status, document = await page(f"{url}/ready")
    assert status == 503
    assert document["objections"][0]["kind"] in {"connecting", "reading-statistics", "warming-up", "recovering"}
    await worker.ready()
    await ready(url)

    events = clicks(300)
    await cluster.send(map(keyed, events))
    await cluster.send([(b"u", b"{"), (b"u", b"{")])
    await cluster.caught_up()
    n_users = len({each["user_id"] for each in events})

    def look() -> dict[str, float]:
        return metrics_of(ask(f"{url}/metrics")[1])

    await until(lambda: sum(v for k, v in look().items() if k.startswith("polytempo_finished_offset")) == 302)
    found = look()
    assert found["polytempo_events_total{outcome=applied}"] == 300
    assert found["polytempo_events_total{outcome=refused}"] == 2
    assert sum(found[f"polytempo_events_total{{outcome={each}}}"] for each in ("duplicate", "replayed")) == 0
    assert sum(v for k, v in found.items() if k.startswith("polytempo_dead_letters_total")) == 2
    assert found["polytempo_recommendations_total"] == 300
    assert found["polytempo_event_latency_seconds_count"] == 302
    assert found["polytempo_batch_events_sum"] == 302
    n_batches = found["polytempo_batch_events_count"]
    for stage in ("fetch", "queue", "step", "sends", "changelog"):
        assert found[f"polytempo_stage_seconds_count{{stage={stage}}}"] == n_batches
    assert found["polytempo_store_users"] == n_users
    assert found["polytempo_store_bytes"] > 1000 * n_users
    assert found["polytempo_partitions"] == cluster.n_partitions
    assert sum(v for k, v in found.items() if k.startswith("polytempo_lag_events")) == 0
    assert found["polytempo_ready"] == 1
    assert found["polytempo_view_age_seconds"] < 30
    assert found["polytempo_rebalances_total"] >= 1
    assert found["polytempo_drift_known{variant=default}"] == 0, "this bundle does not tell of its training"
    assert found["process_resident_memory_bytes"] > 0
    _, status_page = await page(f"{url}/status")
    assert status_page["events"]["applied"] == 300
    (model,) = [key for key in found if key.startswith("polytempo_model_info")]
    name, variant, version = (part.rstrip("}").split("=")[1] for part in model.split("{")[1:])
    assert status_page["models"] == {variant: f"{name}@{version}"}
    await worker.stopped()
    assert (await page(f"{url}/live"))[0] == 0


async def test_a_worker_tells_how_far_it_is_from_what_its_bundle_was_trained_on(cluster: Cluster) -> None:
    """Scores like those of training there are none; after 300 events of its sample it says so, and watchers see it."""
    async with serving(cluster, model="telling", watchdog=CALM) as (worker, url):

        def look() -> dict[str, float]:
            return metrics_of(ask(f"{url}/metrics")[1])

        await until(lambda: worker.observed.vitals is not None)
        assert look()["polytempo_drift_known{variant=default}"] == 1
        assert "polytempo_drift_index{group=score}{variant=default}" not in look(), "too few events"
        await cluster.send(map(keyed, clicks(6_400)))
        await cluster.caught_up()
        await until(lambda: look()["polytempo_drift_events{variant=default}"] > 350)
        assert look()["polytempo_drift_index{group=score}{variant=default}"] > 1
        assert look()["polytempo_drift_index{group=history}{variant=default}"] > 0
        with Workers([url]) as workers:
            await asyncio.get_running_loop().run_in_executor(None, workers.asked.wait, 20)
        (seen,) = workers.drifted
        assert (seen.variant, seen.verdict) == ("default", "changed")
        assert {name for name, _ in seen.moved_most} == {"score", "context:events"}


async def test_an_idle_worker_is_answered_all_the_time_and_lags_by_nothing(cluster: Cluster) -> None:
    """Whoever sees no events must not be taken for stuck: that is told by what the broker answers meanwhile."""
    async with serving(cluster, watchdog=CALM) as (worker, url):
        await cluster.send(map(keyed, clicks(20)))
        await cluster.caught_up()
        moments = [worker.observed.vitals]
        while len(moments) < 5:
            await until(lambda: worker.observed.vitals is not moments[-1])
            moments.append(worker.observed.vitals)
            assert (await page(f"{url}/ready"))[0] == 200
        for before, after in pairwise(moments[1:]):
            assert before is not None
            assert after is not None
            assert [each.lag for each in after.partitions] == [0] * cluster.n_partitions
            assert all(each.waiting for each in after.partitions)
        first, last = moments[1], moments[-1]
        assert first is not None
        assert last is not None
        assert all(
            (b.answered_ms or 0) > (a.answered_ms or 0) for a, b in zip(first.partitions, last.partitions, strict=True)
        )


async def test_a_step_that_blocks_the_event_loop_is_found_out_while_it_does(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page comes from another thread; when the loop turns again, the worker is ready again."""
    released, step = False, Worker._step

    def blocking(self: Worker, batches: Sequence[RecordBatch], loads: Sequence[Load]) -> list[Applied]:
        while not released:
            time.sleep(0.01)
        return step(self, batches, loads)

    monkeypatch.setattr(Worker, "_step", blocking)
    async with serving(cluster, watchdog=replace(CALM, blocked_s=2.0)) as (_, url):
        await ready(url)

        def outside() -> list[dict[str, Any]]:
            nonlocal released
            try:
                deadline_s = time.monotonic() + 30
                while time.monotonic() < deadline_s:
                    status, body = ask(f"{url}/ready")
                    if status == 503:
                        found: list[dict[str, Any]] = json.loads(body)["objections"]
                        return found
                    time.sleep(0.05)
                raise TimeoutError("it stayed ready")
            finally:
                released = True

        looking = asyncio.get_running_loop().run_in_executor(None, outside)
        await cluster.send(map(keyed, clicks(20)))
        assert [each["kind"] for each in await looking] == ["blocked"]
        await ready(url)
        await cluster.caught_up()


async def test_deliveries_that_never_come_are_a_stall(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop turns and the broker answers, but nothing is finished: only progress against lag shows it."""
    import stream.batching.pipeline as pipeline

    go, delivered = asyncio.Event(), pipeline.delivered

    async def held(deliveries: Any) -> tuple[int, int]:
        await go.wait()
        return await delivered(deliveries)

    monkeypatch.setattr(pipeline, "delivered", held)
    async with serving(cluster, watchdog=replace(CALM, stalled_s=1.0)) as (_, url):
        await ready(url)
        await cluster.send(map(keyed, clicks(20)))
        assert await objected(url) == {"stalled"}
        _, document = await page(f"{url}/ready")
        assert "events wait, none finished" in document["objections"][0]["detail"]
        found = metrics_of(ask(f"{url}/metrics")[1])
        assert found["polytempo_ready"] == 0
        assert found["polytempo_objection{kind=stalled}"] == 1
        assert sum(v for k, v in found.items() if k.startswith("polytempo_lag_events")) == 20
        go.set()
        await cluster.caught_up()
        await ready(url)


@pytest.fixture
def own_broker() -> Iterator[EmbeddedBroker]:
    """A broker that a test may maltreat."""
    with EmbeddedBroker() as broker:
        yield broker


async def test_a_broker_that_falls_silent_is_objected_to_until_it_speaks_again(
    own_broker: EmbeddedBroker, kafka: KafkaSettings, topic_prefix: str, tmp_path: Path
) -> None:
    """SIGSTOP: connections stay open and nothing comes. No event waits as far as is known, and yet it is not well."""
    del kafka  # where no broker can be had this test is skipped like the others
    cluster = Cluster(own_broker.settings, topic_prefix, tmp_path)
    cluster.create()
    async with serving(cluster, watchdog=replace(CALM, silent_s=1.0, view_s=3.0)) as (_, url):
        await cluster.send(map(keyed, clicks(20)))
        await cluster.caught_up()
        await ready(url)
        os.kill(own_broker.pid, signal.SIGSTOP)
        try:
            assert "silent" in await objected(url)
            deadline_s = time.monotonic() + 30
            while await objected(url) != {"silent", "old-view"}:
                assert time.monotonic() < deadline_s
            assert metrics_of(ask(f"{url}/metrics")[1])["polytempo_view_age_seconds"] > 3
        finally:
            os.kill(own_broker.pid, signal.SIGCONT)
        await ready(url)


async def test_a_token_is_asked_for_and_probes_need_none(cluster: Cluster) -> None:
    """Balancers see the status of readiness alone; everything else is for those who know the token."""
    token = Token("a-token-of-a-test-0123456789")
    async with serving(cluster, token=token) as (_, url):
        assert ask(f"{url}/metrics")[0] == ask(f"{url}/status")[0] == 401
        assert ask(f"{url}/status", Token("another-token-0123456789"))[0] == 401
        assert ask(f"{url}/ready") == (200, "")
        assert json.loads(ask(f"{url}/ready", token)[1]) == {"ready": True, "objections": []}
        assert ask(f"{url}/metrics", token)[0] == ask(f"{url}/status", token)[0] == 200


async def test_every_line_of_a_workers_log_is_json_and_none_has_the_password(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its most talkative, clients included, from the start to a topic that is missing."""
    password, token = "planted-Pa55word", "planted-token-0123456789"
    monkeypatch.setenv("POLYTEMPO_HTTP_TOKEN", token)
    options = ("--log-format", "json", "--log-level", "debug")
    worker = cluster.worker(bundle("ranker"), *options)
    await worker.ready()
    await cluster.send(map(keyed, clicks(20)))
    await cluster.caught_up()
    await worker.stopped()
    monkeypatch.setenv("POLYTEMPO_KAFKA_PASSWORD", password)
    monkeypatch.setenv("POLYTEMPO_KAFKA_USER", "shop")
    monkeypatch.setenv("POLYTEMPO_KAFKA_SECURITY", "SASL_PLAINTEXT")
    refused = cluster.worker(bundle("ranker"), *options, label="refused")
    assert await refused.ended() == 2, "the broker speaks no SASL"
    for each in (worker, refused):
        text = each.stderr.read_text()
        assert password not in text
        assert token not in text
        events = [json.loads(line) for line in text.splitlines()]
        assert all({"time", "level", "logger", "message", "pid"} <= event.keys() for event in events)
    said = [json.loads(line)["message"] for line in worker.stderr.read_text().splitlines()]
    assert "ready" in said
    assert "stopped" in said
    last = json.loads(refused.stderr.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert "asks for no user and no password" in last["message"]
