"""TLS and SASL from end to end, against a broker that insists on them; who is not let in learns why, and no secret."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from stream.cli.main import main
from stream.errors import PolytempoError
from stream.kafka.access import check_access
from stream.kafka.broker import EmbeddedBroker, Listener
from stream.kafka.settings import KafkaSettings
from tests.kafka.certificates import Authority
from tests.worker.bundles import bundle
from tests.worker.cluster import Cluster

PASSWORD = "Pl4nted-secret,with=signs"  # noqa: S105
SCRAM = "SCRAM-SHA-512"


@dataclass(frozen=True, slots=True)
class Secured:
    """A broker with a port for passwords and one for certificates, and what opens them."""

    broker: EmbeddedBroker
    authority: Path
    other_authority: Path
    client: Path
    stranger: Path

    def ways(self, way: str) -> dict[str, str]:
        """The variables that lead in: `plain`, `scram` or `certificate`."""
        if way == "certificate":
            address = self.broker.address("CERTIFIED")
            return {"": address, "SECURITY": "SSL", "CA": str(self.authority), "CERT": str(self.client)}
        mechanism = {"plain": "PLAIN", "scram": SCRAM}[way]
        who = {"USER": "alice", "PASSWORD": PASSWORD, "SASL_MECHANISM": mechanism}
        return {"": self.broker.address("SECURED"), "SECURITY": "SASL_SSL", "CA": str(self.authority), **who}


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Alice has the same password for PLAIN and for SCRAM."""
    folder = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    stores = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(ours.issue("server")),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(ours.file),
    }
    logins = "org.apache.kafka.common.security"
    passwords = {
        "sasl.enabled.mechanisms": f"PLAIN,{SCRAM}",
        "plain.sasl.jaas.config": f'{logins}.plain.PlainLoginModule required user_alice="{PASSWORD}";',
        "scram-sha-512.sasl.jaas.config": f"{logins}.scram.ScramLoginModule required;",
    }
    listeners = [
        Listener("SECURED", "SASL_SSL", {**stores, **passwords}),
        Listener("CERTIFIED", "SSL", {**stores, "ssl.client.auth": "required"}),
    ]
    with EmbeddedBroker(listeners=listeners) as broker:
        from kafka import KafkaAdminClient
        from kafka.admin import ScramMechanism, UserScramCredentialUpsertion

        admin = KafkaAdminClient(**broker.settings.kafka_python())
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("alice", ScramMechanism.SCRAM_SHA_512, PASSWORD, iterations=4096)]
        )
        admin.close()
        yield Secured(broker, ours.file, theirs.file, ours.issue("client"), theirs.issue("stranger"))


def variables(way: Mapping[str, str]) -> dict[str, str]:
    return {f"POLYTEMPO_KAFKA_{name}".rstrip("_"): value for name, value in way.items()}


@pytest.mark.parametrize("way", ["scram", "certificate"])
async def test_every_command_works_through_it_and_shows_no_secret(
    secured: Secured,
    way: str,
    topic_prefix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables(secured.ways(way)).items():
        monkeypatch.setenv(name, value)
    prefix = ["--prefix", topic_prefix]
    log = tmp_path / "log.csv"
    began_s = int(time.time()) - 3600
    rows = [f"u{n % 5},i{n % 11},click,{began_s + n}" for n in range(200)]
    log.write_text("\n".join(["user_id,item_id,event_type,timestamp", *rows]))
    commands = [
        ["topics", "--partitions", "2", "--json"],
        ["produce", str(log), "--json"],
        ["watch", "--plain", "--from-beginning", "--events", "100", "--for", "20", "--json"],
        ["forget", "u1", "--json"],
        ["backtest", "--topic", "events", "--bundle", str(bundle("ranker")), "--json"],
        ["verify", "--bundle", str(bundle("ranker")), "--json"],
        ["doctor", "--json"],
    ]
    assert await asyncio.to_thread(main, [*commands[0], *prefix]) == 0
    settings = KafkaSettings.read()
    cluster = Cluster(settings, topic_prefix, tmp_path, n_partitions=2)
    worker = cluster.worker(bundle("ranker"), "--http", "127.0.0.1:0", "--log-level", "debug")
    try:
        await worker.ready()
        url = json.loads(worker.said().splitlines()[0])["http"]
        for command in commands[1:]:
            status = main([*command, *prefix])  # in the main thread, as some handle signals
            assert status in ((0, 1) if command[0] == "doctor" else (0,)), (command, capfd.readouterr())
        pages = [
            (await asyncio.to_thread(urllib.request.urlopen, url + page)).read().decode()
            for page in ("/status", "/metrics")
        ]
        process = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes().decode()
        assert (await worker.stopped())["recommendations"] == 200
    finally:
        await cluster.kill_all()
    out, err = capfd.readouterr()
    seen = [out, err, process, *pages, worker.said(), worker.stderr.read_text()]
    assert len(worker.stderr.read_text()) > 1000, "a debug log that could have held it"
    assert not [text for text in seen if PASSWORD in text or "PRIVATE KEY" in text]


@pytest.mark.parametrize("way", ["plain", "scram", "certificate"])
def test_who_has_what_it_takes_is_let_in(secured: Secured, way: str) -> None:
    check_access(KafkaSettings.read(environment=variables(secured.ways(way))))
    check_access(secured.broker.settings)


NOBODY = {"USER": "", "PASSWORD": "", "SASL_MECHANISM": ""}
WRONG = {
    "wrong password": ("scram", {"PASSWORD": "not-the-secret"}, "does not let the user 'alice' in", "PASSWORD"),
    "wrong password, plain": ("plain", {"PASSWORD": "not-the-secret"}, "does not let the user 'alice' in", "PASSWORD"),
    "unknown user": ("scram", {"USER": "mallory"}, "does not let the user 'mallory' in", "PASSWORD"),
    "mechanism": ("scram", {"SASL_MECHANISM": "SCRAM-SHA-256"}, "does not take the SASL mechanism", SCRAM),
    "untrusted authority": ("plain", {"CA": "OTHER"}, "is not trusted", "--kafka-ca"),
    "authority of the system": ("plain", {"CA": ""}, "is not trusted", "--kafka-ca"),
    "no certificate": ("certificate", {"CERT": ""}, "wants a certificate", "--kafka-cert"),
    "a stranger's certificate": ("certificate", {"CERT": "STRANGER"}, "does not trust the certificate", "signed"),
    "no password asked for": ("plain", {"": "CERTIFIED", "CERT": "CLIENT"}, "asks for no user", "SSL"),
    "no TLS there": ("plain", {"": "OPEN"}, "does not speak TLS", "PLAINTEXT"),
    "no user": ("plain", {**NOBODY, "SECURITY": "SSL"}, "who asks", "--kafka-user"),
    "not encrypted": ("plain", {**NOBODY, "SECURITY": "PLAINTEXT", "CA": ""}, "speaks TLS|hangs up", "SASL_SSL"),
    "in the clear": ("plain", {"SECURITY": "SASL_PLAINTEXT", "CA": ""}, "speaks TLS|hangs up", "SASL_SSL"),
}


@pytest.mark.parametrize("case", WRONG)
def test_who_is_not_let_in_learns_within_seconds_why_and_what_to_do(
    secured: Secured, case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    way, changes, why, what_to_do = WRONG[case]
    named = {
        "OTHER": str(secured.other_authority),
        "STRANGER": str(secured.stranger),
        "CLIENT": str(secured.client),
        "CERTIFIED": secured.broker.address("CERTIFIED"),
        "OPEN": secured.broker.bootstrap,
    }
    wrong = secured.ways(way) | {name: named.get(value, value) for name, value in changes.items()}
    with pytest.raises(PolytempoError, match=why) as refused:
        check_access(KafkaSettings.read(environment=variables(wrong)))
    assert what_to_do in (refused.value.hint or "")
    for name, value in variables(wrong).items():
        monkeypatch.setenv(name, value)
    assert main(["topics", "--dry-run", "--json"]) == 2
    shown = capsys.readouterr()
    assert refused.value.message in shown.err.replace("\n", " ")
    assert not [text for text in shown if PASSWORD in text or "not-the-secret" in text]


def test_a_server_that_is_not_there_yet_is_left_to_the_patience_of_the_clients() -> None:
    check_access(KafkaSettings(bootstrap=("127.0.0.1:1",)))


def test_one_server_that_lets_us_in_is_enough(secured: Secured) -> None:
    way = secured.ways("plain")
    both = f"{secured.broker.bootstrap},{way['']}"  # the first does not speak TLS
    check_access(KafkaSettings.read(environment=variables(way | {"": both})))
