"""How to reach a Kafka cluster: one description, adapted to each of the three clients in use.

Faust and aiokafka carry the worker's traffic; kafka-python serves producers, administration and replay.
"""

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stream.errors import PolytempoError

__all__ = ["DEFAULT_BOOTSTRAP", "MECHANISMS", "PROTOCOLS", "KafkaSettings"]

DEFAULT_BOOTSTRAP: Final = "localhost:9092"
PROTOCOLS: Final = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")

_SERVER: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]+)(:(?P<port>[0-9]{1,5}))?")
_DEFAULT_PORT: Final = 9092


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """Where the cluster is and how to be let in. Its `repr` shows no password.

    Args:
        bootstrap: servers as `(host:port, ...)`; at least one.
        security: one of `PROTOCOLS`. Left empty it follows from the rest, and never sends a password in the clear:
            SASL_SSL with a user, SSL with certificate files, else PLAINTEXT.
        sasl_mechanism: one of `MECHANISMS`; empty means PLAIN where SASL is used.
        user: SASL user name.
        password: SASL password.
        ca_file: PEM file with the authorities to trust; None trusts those of the system.
        cert_file: PEM file with this client's certificate, for mutual TLS.
        key_file: PEM file with the certificate's private key; None when `cert_file` holds it.

    Raises:
        PolytempoError: an unknown protocol or mechanism, a missing file, or settings that contradict each other.
    """

    bootstrap: tuple[str, ...] = (DEFAULT_BOOTSTRAP,)
    security: str = ""
    sasl_mechanism: str = ""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __post_init__(self) -> None:
        if not self.bootstrap:
            raise PolytempoError("no Kafka server is named.", "Give --kafka HOST:PORT or set POLYTEMPO_KAFKA.")
        security = (self.security or self._implied_security()).upper()
        if security not in PROTOCOLS:
            raise PolytempoError(
                f"unknown Kafka security protocol {self.security!r}.", f"Known: {', '.join(PROTOCOLS)}."
            )
        object.__setattr__(self, "security", security)
        self._check_sasl()
        self._check_files()

    @classmethod
    def read(
        cls, servers: str | None = None, environment: Mapping[str, str] | None = None, **options: str | None
    ) -> "KafkaSettings":
        """Settings from what the caller names and, where it names nothing, from the environment.

        Variables: POLYTEMPO_KAFKA (servers), and POLYTEMPO_KAFKA_ followed by SECURITY, SASL_MECHANISM, USER,
        PASSWORD, CA, CERT, KEY. An empty variable counts as unset.

        Args:
            servers: "host:port,host:port", each optionally with kafka:// in front; a port left out is 9092.
            environment: variables to read; None takes the process's own.
            options: `security`, `sasl_mechanism`, `user`, `password`, `ca`, `cert`, `key`, each over its variable.

        Raises:
            PolytempoError: as the class says, or `servers` cannot be read.
        """
        variables = os.environ if environment is None else environment

        def wanted(option: str) -> str | None:
            return options.pop(option, None) or variables.get(f"POLYTEMPO_KAFKA_{option.upper()}") or None

        def wanted_file(option: str) -> Path | None:
            name = wanted(option)
            return None if name is None else Path(name).expanduser()

        settings = cls(
            bootstrap=_parse_servers(servers or variables.get("POLYTEMPO_KAFKA") or DEFAULT_BOOTSTRAP),
            security=wanted("security") or "",
            sasl_mechanism=wanted("sasl_mechanism") or "",
            user=wanted("user"),
            password=wanted("password"),
            ca_file=wanted_file("ca"),
            cert_file=wanted_file("cert"),
            key_file=wanted_file("key"),
        )
        if options:
            raise TypeError(f"unknown Kafka options: {', '.join(sorted(options))}")
        return settings

    @property
    def servers(self) -> str:
        """The servers as one line, "host:port,host:port"."""
        return ",".join(self.bootstrap)

    @property
    def uses_sasl(self) -> bool:
        """Whether a user name and password are sent."""
        return self.security.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.security.endswith("SSL")

    def kafka_python(self) -> dict[str, Any]:
        """Keyword arguments for kafka-python's producers, consumers and admin client."""
        return {"bootstrap_servers": list(self.bootstrap), **self._client_security()}

    def aiokafka(self) -> dict[str, Any]:
        """Keyword arguments for aiokafka's producers, consumers and admin client."""
        return {"bootstrap_servers": list(self.bootstrap), **self._client_security()}

    def faust(self) -> dict[str, Any]:
        """Keyword arguments for `faust.App`: `broker` and, unless the cluster is open, `broker_credentials`."""
        broker = {"broker": [f"kafka://{server}" for server in self.bootstrap]}
        if self.security == "PLAINTEXT":
            return broker
        from faust.auth import SASLCredentials, SSLCredentials

        context = self.ssl_context()
        if not self.uses_sasl:
            return {**broker, "broker_credentials": SSLCredentials(context)}
        credentials = SASLCredentials(
            username=self.user, password=self.password, ssl_context=context, mechanism=self.sasl_mechanism
        )
        return {**broker, "broker_credentials": credentials}

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS context of this connection; None when it is not encrypted.

        Raises:
            PolytempoError: a file holds no usable certificate or key.
        """
        if not self.uses_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (ssl.SSLError, OSError) as error:
            raise PolytempoError(f"{self.ca_file} holds no certificate authorities: {error}.") from error
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file)
            except (ssl.SSLError, OSError) as error:
                raise PolytempoError(f"{self.cert_file} and its key cannot be used: {error}.") from error
        return context

    def _client_security(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {"security_protocol": self.security}
        if self.uses_tls:
            arguments["ssl_context"] = self.ssl_context()
        if self.uses_sasl:
            arguments["sasl_mechanism"] = self.sasl_mechanism
            arguments["sasl_plain_username"] = self.user
            arguments["sasl_plain_password"] = self.password
        return arguments

    def _implied_security(self) -> str:
        if self.user is not None or self.sasl_mechanism:
            return "SASL_SSL"
        return "PLAINTEXT" if self.ca_file is None and self.cert_file is None else "SSL"

    def _check_sasl(self) -> None:
        if not self.uses_sasl:
            if self.sasl_mechanism or self.user is not None or self.password is not None:
                raise PolytempoError(
                    f"a Kafka user, password or SASL mechanism is set, but the protocol {self.security} sends none.",
                    "Set POLYTEMPO_KAFKA_SECURITY to SASL_SSL or SASL_PLAINTEXT, or leave them out.",
                )
            return
        mechanism = (self.sasl_mechanism or "PLAIN").upper()
        if mechanism not in MECHANISMS:
            raise PolytempoError(
                f"unknown SASL mechanism {self.sasl_mechanism!r}.", f"Supported: {', '.join(MECHANISMS)}."
            )
        object.__setattr__(self, "sasl_mechanism", mechanism)
        if not self.user or not self.password:
            raise PolytempoError(
                f"{self.security} needs a user and a password.",
                "Set POLYTEMPO_KAFKA_USER and POLYTEMPO_KAFKA_PASSWORD.",
            )

    def _check_files(self) -> None:
        files = {"CA": self.ca_file, "CERT": self.cert_file, "KEY": self.key_file}
        for name, path in files.items():
            if path is not None and not path.is_file():
                raise PolytempoError(f"the Kafka {name} file {path} does not exist.", f"See POLYTEMPO_KAFKA_{name}.")
        if self.key_file is not None and self.cert_file is None:
            raise PolytempoError("a Kafka key file without a certificate file.", "Set POLYTEMPO_KAFKA_CERT too.")
        if not self.uses_tls and any(path is not None for path in files.values()):
            raise PolytempoError(
                f"certificate files are set, but the protocol {self.security} does not encrypt.",
                "Set POLYTEMPO_KAFKA_SECURITY to SSL or SASL_SSL, or leave them out.",
            )


def _parse_servers(line: str) -> tuple[str, ...]:
    """Split "kafka://host:port,host" into ("host:port", "host:9092").

    Raises:
        PolytempoError: a part is no server; the message does not repeat what might be a password.
    """
    servers = []
    for part in re.split(r"[,;]", line):
        server = part.strip().removeprefix("kafka://").rstrip("/")
        if "@" in server:
            raise PolytempoError(
                "the Kafka address holds a user or password.",
                "Leave them out and set POLYTEMPO_KAFKA_USER and POLYTEMPO_KAFKA_PASSWORD.",
            )
        match = _SERVER.fullmatch(server)
        port = _DEFAULT_PORT if match is None or match["port"] is None else int(match["port"])
        if match is None or not 0 < port < 2**16:
            raise PolytempoError(
                f"{part.strip()!r} is no Kafka server.", "Write HOST:PORT, several with commas between."
            )
        servers.append(f"{match['host']}:{port}")
    return tuple(servers)
