"""`polytempo doctor`: what is wrong with a set-up, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from stream.cli.console import people, print_json, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.kafka.topics import TopicNames

__all__ = ["doctor"]

_MARK = {
    "ok": "[green]ok     [/]",
    "warning": "[yellow]warning[/]",
    "error": "[red]error  [/]",
    "unknown": "[dim]unknown[/]",
}


def doctor(
    *,
    bundle: Annotated[Path | None, Parameter(name=["--bundle", "-b"])] = None,
    data: Path | None = None,
    store: Literal["memory", "rocksdb"] = "memory",
    worker: Annotated[list[str] | None, Parameter(name=["--worker", "-w"])] = None,
    listen: str = "2s",
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> int:
    """Look at cluster, topics, workers, lag, item statistics, clocks, and at this machine; say what to do.

    Nothing is written, joined or committed, so it may run beside live workers. It exits with 0 if nothing is broken,
    with warnings too, and with 1 if something is.

    Examples:

    `polytempo doctor`

    `polytempo doctor --bundle models/live.json --data /var/lib/polytempo --worker http://127.0.0.1:9464 --json`

    Args:
        bundle: Bundle folder or channel that a worker here is to serve: it is loaded and verified.
        data: Folder of a worker here, as its --data.
        store: As the worker's --store.
        worker: Address of a running worker's health and metrics; once for each. Its token is read like the worker's.
        listen: For how long to wait for a new record, which tells the brokers' clocks.
        json: Print one line: {"ok": ..., "findings": [{"check": ..., "status": ..., "detail": ..., "hint": ...}]}.
    """
    from stream.doctor.cluster import check_cluster
    from stream.doctor.findings import is_well
    from stream.doctor.machine import check_bundle, check_data, check_worker
    from stream.operations.listen import read_token

    connection = KafkaOptions() if connection is None else connection
    settings, names, token = connection.settings(), TopicNames(connection.prefix), read_token()
    with people.status(f"looking at {settings.servers}"):
        findings = list(check_cluster(settings, names, listen_s=parse_duration_ms(listen) / 1000))
        if bundle is not None:
            findings.append(check_bundle(bundle))
        if data is not None:
            findings += check_data(data, store=store, prefix=connection.prefix)
        findings += [check_worker(url, token) for url in worker or ()]
    well = is_well(findings)
    if json:
        print_json({"ok": well, "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            results.print(f"{_MARK[finding.status]} [bold]{finding.check}[/]: ", end="")
            results.print(finding.detail, markup=False, soft_wrap=True)
            if finding.hint:
                results.print(f"        {finding.hint}", markup=False, style="dim", soft_wrap=True)
    return 0 if well else 1
