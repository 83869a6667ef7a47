"""Apache Kafka on this machine without Docker: one node that is broker and controller at once (KRaft).

    with EmbeddedBroker() as broker:
        ...  # broker.bootstrap is "127.0.0.1:PORT", and it answers

It is meant for a demo, tests and work on one machine: it listens on the loopback address only, without encryption
unless it is given listeners with it.
"""

import base64
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from stream.errors import PolytempoError
from stream.kafka import watchdog
from stream.kafka.jars import ensure_jars
from stream.kafka.java import find_java
from stream.kafka.settings import KafkaSettings

__all__ = ["EmbeddedBroker", "Listener"]

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 90
STOP_TIMEOUT_S: Final = 30
MIN_FREE_BYTES: Final = 256 * 2**20

_POLL_S: Final = 0.05
_N_PORT_TRIES: Final = 3
_LOCK_TIMEOUT_S: Final = 10

# What one node needs to differ in from a cluster's defaults, and what its clients here rely on.
_CONFIG: Final = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    # Internal topics have one copy, and few partitions: each costs open files and time at start.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # A topic that nobody declared is a mistyped name; Faust creates its changelog through the admin API.
    "auto.create.topics.enable": "false",
    # What a topic does not say itself is kept for ever: it is the user's data.
    "log.retention.ms": "-1",
    "message.max.bytes": str(4 * 2**20),
    "replica.fetch.max.bytes": str(4 * 2**20),
    # A group starts with its first member; tests end sessions after a second.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # After kill -9 the broker may register again only once its old session is over; the default is 9 s.
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    # The default of 128 MiB for compaction is a quarter of the heap.
    "log.cleaner.dedupe.buffer.size": str(16 * 2**20),
    "num.network.threads": "2",
    "num.io.threads": "4",
}


@dataclass(frozen=True, slots=True)
class Listener:
    """One more port for clients, on a way that asks more of them.

    Attributes:
        name: in capitals; no other listener's.
        protocol: SSL, SASL_PLAINTEXT or SASL_SSL.
        config: what Kafka needs for it, under Kafka's names without the listener's prefix.
    """

    name: str
    protocol: str
    config: Mapping[str, str] = field(default_factory=dict, repr=False)  # passwords among it


class EmbeddedBroker:
    """A Kafka broker that this process owns: it ends when this process ends, even by kill -9.

    Args:
        data: the folder for its logs; made if it is not there, kept afterwards, used again by the next broker on it.
            None takes a temporary one, which is deleted at the end.
        port: the port for clients; 0 takes a free one.
        memory: the size of Java's heap, such as "512m" or "2g".
        on_bytes: called with (bytes there, bytes in all) while Kafka's jars are fetched for the first time.
        listeners: further ports, each free one; `address` names them.

    Attributes:
        data: the folder in use.
        port: the port for clients, 0 before the first start.
        pid: the process id of the running broker, 0 when it does not run.
    """

    def __init__(
        self,
        data: Path | str | None = None,
        *,
        port: int = 0,
        memory: str = "512m",
        on_bytes: Callable[[int, int], None] | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        if re.fullmatch(r"[1-9][0-9]*[mMgG]", memory) is None:
            raise PolytempoError(f"{memory!r} is no amount of memory.", "Write it like 512m or 2g.")
        if not 0 <= port < 2**16:
            raise PolytempoError(f"{port} is no port.", "Ports go from 1 to 65535; 0 takes a free one.")
        self._is_temporary = data is None
        self._wanted_data = None if data is None else Path(data).expanduser().absolute()
        self.data = Path() if self._wanted_data is None else self._wanted_data
        self.port = port
        self.pid = 0
        self._port_is_free_choice = port == 0
        self._controller_port = 0
        self._ports = {listener.name: 0 for listener in listeners}
        self._listeners = tuple(listeners)
        self._memory = memory
        self._on_bytes = on_bytes
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._java = Path()
        self._class_path = ""

    @property
    def bootstrap(self) -> str:
        """The address for clients, "127.0.0.1:PORT"."""
        return f"{HOST}:{self.port}"

    @property
    def settings(self) -> KafkaSettings:
        """The address as settings; nothing of the environment's security applies to this broker."""
        return KafkaSettings(bootstrap=(self.bootstrap,))

    def address(self, name: str) -> str:
        """The address of one of `listeners`, "127.0.0.1:PORT"."""
        return f"{HOST}:{self._ports[name]}"

    @property
    def log_file(self) -> Path:
        """What the broker has to say: warnings and errors."""
        return self.data / "broker.log"

    @property
    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._watchdog is not None and self._watchdog.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it and wait until it answers a metadata request.

        Raises:
            PolytempoError: no Java, no jars, no room, the port or the folder is taken, or Kafka itself refuses.
        """
        if self.is_running:
            return self
        self._java = find_java()
        self._class_path = os.pathsep.join(map(str, ensure_jars(on_bytes=self._on_bytes)))
        self._prepare_data()
        try:
            self._start_on_a_port()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it in order, and delete its data if they were temporary. No harm if it does not run."""
        self._end(signal.SIGTERM)
        if self._is_temporary and self.data != Path():
            shutil.rmtree(self.data, ignore_errors=True)

    def kill(self) -> None:
        """End it as a power cut would, with SIGKILL; its data stay for `restart`."""
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
        self._end(None)

    def restart(self) -> None:
        """Start it again on the same port and data, stopping it first if it runs.

        Raises:
            PolytempoError: as `start` does.
        """
        self._end(signal.SIGTERM)
        self._port_is_free_choice = False
        self.start()

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Wait until its process ends by itself; give its exit code, None when the time is over."""
        if self._watchdog is None:
            return None
        try:
            return self._watchdog.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def console_consumer(
        self, topic: str, n_messages: int, *, with_keys: bool = False, timeout_s: float = 30.0
    ) -> list[str]:
        """Read a topic from its start with Kafka's own console consumer, as a client that shares no code with ours.

        Args:
            topic: its whole name.
            n_messages: how many to read.
            with_keys: whether each line is "key<TAB>value" instead of the value.
            timeout_s: how long to wait for the next message.

        Returns:
            One line for each message; fewer than `n_messages` when no more came in time.

        Raises:
            PolytempoError: the console consumer failed; its words are in the message.
        """
        options = ["--property", "print.key=true"] if with_keys else []
        answer = subprocess.run(
            [
                *self._java_command("128m"),
                "org.apache.kafka.tools.consumer.ConsoleConsumer",
                *("--bootstrap-server", self.bootstrap, "--topic", topic, "--from-beginning"),
                *("--max-messages", str(n_messages), "--timeout-ms", str(int(timeout_s * 1000))),
                *options,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0 and "TimeoutException" not in answer.stderr:
            raise PolytempoError(f"Kafka's console consumer failed: {answer.stderr.strip()[:500]}")
        return answer.stdout.splitlines()

    def keep_log(self) -> Path:
        """Give the path at which the log outlasts `stop`: it is copied out of a folder that is temporary."""
        if not self._is_temporary:
            return self.log_file
        handle, name = tempfile.mkstemp(prefix="polytempo-kafka-", suffix=".log")
        os.close(handle)
        return Path(shutil.copy(self.log_file, name))

    def _prepare_data(self) -> None:
        """Make the folder, and format it once."""
        if self._wanted_data is None and not self.data.name:
            self.data = Path(tempfile.mkdtemp(prefix="polytempo-kafka-"))
        try:
            (self.data / "tmp").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PolytempoError(f"the data folder {self.data} cannot be made: {error.strerror}.") from error
        foreign = {entry.name for entry in self.data.iterdir()} - {
            "tmp",
            "lock",
            "log",
            "broker.log",
            "broker.properties",
        }
        if foreign and not (self.data / "log").exists():
            (self.data / "tmp").rmdir()
            raise PolytempoError(f"{self.data} holds other things than a broker's data.", "Name an empty folder.")
        n_free = shutil.disk_usage(self.data).free
        if n_free < MIN_FREE_BYTES:
            raise PolytempoError(
                f"{self.data} has {n_free / 2**20:.0f} MiB left; a broker needs {MIN_FREE_BYTES / 2**20:.0f} at least.",
                "Free some, or name another folder with --data.",
            )

    def _start_on_a_port(self) -> None:
        for i_try in range(_N_PORT_TRIES):
            if self._port_is_free_choice:
                self.port = _free_port()
            elif not _is_free(self.port):
                raise PolytempoError(
                    f"port {self.port} is taken by another process.",
                    "Choose one with --port; --port 0 takes a free one.",
                )
            if self._controller_port == 0 or not _is_free(self._controller_port):
                self._controller_port = _free_port()
            for name, port in self._ports.items():
                if port == 0 or not _is_free(port):
                    self._ports[name] = _free_port()
            self._write_config()
            self._format_once()
            n_logged = self.log_file.stat().st_size if self.log_file.exists() else 0
            self._launch()
            if self._wait_until_ready():
                return
            said = self.log_file.read_bytes()[n_logged:].decode(errors="replace")
            self._end(signal.SIGTERM)
            # Another process can take a free port between our look and Kafka's.
            if "Address already in use" not in said or i_try == _N_PORT_TRIES - 1:
                raise PolytempoError(f"Kafka did not start: {_reason(said)}", f"Its whole log: {self.keep_log()}")

    def _write_config(self) -> None:
        secured = [f"{each.name}://{self.address(each.name)}" for each in self._listeners]
        clients = ",".join([f"PLAINTEXT://{self.bootstrap}", *secured])
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT"}
        protocols |= {each.name: each.protocol for each in self._listeners}
        controller = f"{HOST}:{self._controller_port}"
        config = {
            **_CONFIG,
            "listeners": f"{clients},CONTROLLER://{controller}",
            "advertised.listeners": clients,
            "controller.quorum.voters": f"1@{controller}",
            "log.dirs": str(self.data / "log"),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
        }
        for each in self._listeners:
            config |= {f"listener.name.{each.name.lower()}.{name}": value for name, value in each.config.items()}
        lines = [f"{name}={value.replace(chr(92), chr(92) * 2)}\n" for name, value in config.items()]
        file = self.data / "broker.properties"
        file.touch(mode=0o600)
        file.write_text("".join(lines), encoding="latin-1", errors="backslashreplace")

    def _format_once(self) -> None:
        if (self.data / "log" / "meta.properties").exists():
            return
        answer = subprocess.run(
            [
                *self._java_command("128m"),
                "kafka.tools.StorageTool",
                *("format", "--cluster-id", _cluster_id(), "--config", str(self.data / "broker.properties")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise PolytempoError(f"Kafka could not format {self.data}: {_reason(answer.stderr + answer.stdout)}")

    def _launch(self) -> None:
        lock = _lock(self.data / "lock")
        try:
            with self.log_file.open("ab") as log:
                self._watchdog = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid())),
                        str(self.data) if self._is_temporary else "",
                        *self._java_command(self._memory, lasting=True),
                        "kafka.Kafka",
                        str(self.data / "broker.properties"),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    # Ctrl-C goes to a terminal's whole foreground group; who started the broker decides when it ends.
                    start_new_session=True,
                    # The lock is the watchdog's from here on, so that it lasts exactly as long as the broker.
                    pass_fds=(lock,),
                )
        finally:
            os.close(lock)
        if self._watchdog.stdout is not None:
            self.pid = int(self._watchdog.stdout.readline() or 0)

    def _java_command(self, memory: str, *, lasting: bool = False) -> list[str]:
        return [
            *(str(self._java), f"-Xmx{memory}"),
            # Short-lived tools start faster without the optimising compiler and with the plainest collector. A broker
            # runs faster with it. Nobody is answered while it collects, some 9 ms: a young generation of a fixed size
            # makes that seldom. G1, told to take 5 ms, shrank it until it collected three times a second, 5 ms each.
            *(
                ("-XX:+UseParallelGC", f"-Xmn{_quarter(memory)}")
                if lasting
                else ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
            ),
            # Leave nothing outside of the data folder, not even after kill -9.
            *("-XX:-UsePerfData", f"-Djava.io.tmpdir={self.data / 'tmp'}", f"-XX:ErrorFile={self.data / 'crash.log'}"),
            *("-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
            *("-cp", self._class_path),
        ]

    def _wait_until_ready(self) -> bool:
        """Whether it came to answer; False when its process ended instead.

        Raises:
            PolytempoError: it neither answered nor ended in time.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while self.is_running:
            if not _is_free(self.port) and _answers(self.settings):
                return True
            if time.monotonic() > deadline_s:
                raise PolytempoError(
                    f"Kafka did not answer within {START_TIMEOUT_S} s of its start.",
                    f"Its whole log: {self.keep_log()}",
                )
            time.sleep(_POLL_S)
        return False

    def _end(self, how: signal.Signals | None) -> None:
        """Wait for the watchdog's end, asking it with the signal `how` first."""
        if self._watchdog is None:
            return
        if how is not None and self._watchdog.poll() is None:
            self._watchdog.send_signal(how)
        try:
            self._watchdog.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._watchdog.kill()  # takes the broker with it
            self._watchdog.wait()
        if self._watchdog.stdout is not None:
            self._watchdog.stdout.close()
        self._watchdog = None
        self.pid = 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _quarter(memory: str) -> str:
    """Of an amount such as 512m."""
    return f"{int(memory[:-1]) * 256}{'k' if memory[-1] in 'mM' else 'm'}"


def _is_free(port: int) -> bool:
    """Whether Kafka could listen there; like Java's, this socket does not mind connections that are fading away."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError as error:
            raise PolytempoError(
                f"port {port} needs more rights than this user has.", "Ports from 1024 on do not."
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        return True


def _answers(settings: KafkaSettings) -> bool:
    """Whether a metadata request names a broker: then topics can be created, too."""
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

    try:
        admin = KafkaAdminClient(**settings.kafka_python(), bootstrap_timeout_ms=2000)
    except KafkaError:
        return False
    try:
        return bool(admin.describe_cluster()["brokers"])
    except KafkaError:
        return False
    finally:
        admin.close()


def _lock(path: Path) -> int:
    """The descriptor of the locked file `path`; a broker that is just ending there is waited for.

    Raises:
        PolytempoError: another broker keeps it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                os.close(descriptor)
                raise PolytempoError(
                    f"another broker is using {path.parent}.", "Stop that one, or name another folder with --data."
                ) from None
            time.sleep(_POLL_S)
        else:
            return descriptor


def _cluster_id() -> str:
    """A random id in Kafka's form: 22 characters of URL-safe base64, none in front that looks like an option."""
    while True:
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[:22]
        if not name.startswith("-"):
            return name


def _reason(said: str) -> str:
    """The line of Kafka's log that tells most: the last cause, else the last error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    for pattern in (r"Caused by: ", r"Exception\b", r"ERROR"):
        matching = [line for line in lines if re.search(pattern, line)]
        if matching:
            return matching[-1]
    return lines[-1] if lines else "it said nothing."
