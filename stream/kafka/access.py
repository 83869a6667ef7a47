"""Whether a cluster lets us in, and if not, why: asked once, at a command's beginning.

Clients try again and again while a broker may be starting, and so a wrong password or an authority that nobody trusts
looks to them like a network that is slow. Here one connection says what is the matter:

    connect ─► TLS handshake ─► API versions ─► SASL handshake and proof, or a question that needs no proof

Only what will not mend itself is an error. A server that does not answer is left to the clients' patience. What others
may read in an error is what Kafka says and the names of settings, never a password.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, Final

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings

__all__ = ["check_access"]

_TIMEOUT_S: Final = 5.0
_METADATA, _SASL_HANDSHAKE, _API_VERSIONS, _SASL_AUTHENTICATE = 3, 17, 18, 36
_TLS_ALERT: Final = 0x15
_MAX_ANSWER_BYTES: Final = 16 * 2**20
_UNSUPPORTED_MECHANISM, _ILLEGAL_STATE = 33, 34


def check_access(settings: KafkaSettings) -> None:
    """Knock at the servers, one after the other, until one lets us in.

    Raises:
        PolytempoError: one refuses in a way that trying again does not mend, and none lets us in.
    """
    refused: PolytempoError | None = None
    for server in settings.bootstrap:
        host, _, port = server.rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port)), _TIMEOUT_S) as connection:
                _knock(connection, host.strip("[]"), server, settings)
        except PolytempoError as error:
            refused = refused or error
        except (OSError, struct.error):  # not there, or not now: the clients wait for it
            continue
        else:
            return
    if refused is not None:
        raise refused


def _knock(plain: socket.socket, host: str, server: str, settings: KafkaSettings) -> None:
    context = settings.ssl_context()
    if context is None:
        _greet(plain, server, settings)
        return
    try:
        secured = context.wrap_socket(plain, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        raise PolytempoError(
            f"the certificate of Kafka at {server} is not trusted: {error.verify_message}.",
            "Name the PEM file of its authority with --kafka-ca or POLYTEMPO_KAFKA_CA, and the server by the name that "
            "its certificate has.",
        ) from None
    except ssl.SSLError as error:
        raise _refused_by_tls(server, error, settings) from None
    except ConnectionError:
        raise _no_tls(server) from None
    with secured:
        try:
            _greet(secured, server, settings)
        except ssl.SSLError as error:  # with TLS 1.3 the server judges our certificate after the handshake
            raise _refused_by_tls(server, error, settings) from None


def _greet(connection: socket.socket, server: str, settings: KafkaSettings) -> None:
    try:
        _ask(connection, _API_VERSIONS, 0, b"")
    except _TlsHereError:
        raise PolytempoError(
            f"Kafka at {server} speaks TLS, and the connection is not encrypted.",
            "Set --kafka-security (POLYTEMPO_KAFKA_SECURITY) to SSL, or to SASL_SSL with a user and a password.",
        ) from None
    except ssl.SSLError:
        raise
    except ConnectionError:
        if settings.uses_tls:
            raise
        raise PolytempoError(
            f"{server} hangs up on an unencrypted connection.",
            "Is it a Kafka server that speaks TLS? --kafka-security SSL or SASL_SSL says so.",
        ) from None
    if settings.uses_sasl:
        _prove(connection, server, settings)
        return
    try:
        _ask(connection, _METADATA, 1, struct.pack(">i", 0))
    except ssl.SSLError:
        raise
    except ConnectionError:
        raise PolytempoError(
            f"Kafka at {server} wants to know who asks.",
            "Set --kafka-user and POLYTEMPO_KAFKA_PASSWORD, and --kafka-sasl-mechanism if it is not PLAIN.",
        ) from None


def _prove(connection: socket.socket, server: str, settings: KafkaSettings) -> None:
    mechanism, user, password = settings.sasl_mechanism, settings.user or "", settings.password or ""
    answer = _ask(connection, _SASL_HANDSHAKE, 1, _text(mechanism))
    code, n = struct.unpack_from(">hi", answer)
    if code == _UNSUPPORTED_MECHANISM:
        raise PolytempoError(
            f"Kafka at {server} does not take the SASL mechanism {mechanism}.",
            f"It takes: {', '.join(_texts(answer, 6, n)) or 'none'}. Set --kafka-sasl-mechanism.",
        )
    if code == _ILLEGAL_STATE:
        raise PolytempoError(
            f"Kafka at {server} asks for no user and no password.",
            f"Set --kafka-security to {'SSL' if settings.uses_tls else 'PLAINTEXT'}, or name another server.",
        )

    def send(token: bytes) -> bytes:
        answer = _ask(connection, _SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        (code,) = struct.unpack_from(">h", answer)
        if code != 0:
            raise PolytempoError(
                f"Kafka at {server} does not let the user {user!r} in.",
                "Is the password in POLYTEMPO_KAFKA_PASSWORD right, and is the user known for "
                f"{mechanism}? Kafka says the same of both.",
            )
        (n,) = struct.unpack_from(">h", answer, 2)
        at = 4 + max(n, 0)
        (n_bytes,) = struct.unpack_from(">i", answer, at)
        return answer[at + 4 : at + 4 + n_bytes]

    if mechanism == "PLAIN":
        send(f"\0{user}\0{password}".encode())
    else:
        _scram(send, user, password, mechanism)


def _scram(send: Callable[[bytes], bytes], user: str, password: str, mechanism: str) -> None:
    from kafka.net.sasl.scram import ScramClient  # what kafka-python itself proves with

    client: Any = ScramClient(user, password, mechanism)
    client.process_server_first_message(send(client.first_message()))
    send(client.final_message())


class _TlsHereError(ConnectionError):
    """The answer is an alert of TLS."""


def _ask(connection: socket.socket, api: int, version: int, body: bytes) -> bytes:
    """The body of the answer to a request; ConnectionError where the server hangs up."""
    request = struct.pack(">hhi", api, version, 0) + _text("polytempo") + body
    connection.sendall(struct.pack(">i", len(request)) + request)
    head = _receive(connection, 4)
    (n_bytes,) = struct.unpack(">i", head)
    if head[0] == _TLS_ALERT:
        raise _TlsHereError
    if not 4 <= n_bytes <= _MAX_ANSWER_BYTES:
        raise ConnectionError("that is no answer of Kafka's")
    return _receive(connection, n_bytes)[4:]


def _receive(connection: socket.socket, n_bytes: int) -> bytes:
    received = b""
    while len(received) < n_bytes:
        part = connection.recv(n_bytes - len(received))
        if not part:
            raise ConnectionResetError
        received += part
    return received


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack(">h", len(encoded)) + encoded


def _texts(answer: bytes, at: int, n: int) -> list[str]:
    texts = []
    for _ in range(n):
        (n_bytes,) = struct.unpack_from(">h", answer, at)
        texts.append(answer[at + 2 : at + 2 + n_bytes].decode(errors="replace"))
        at += 2 + n_bytes
    return texts


def _refused_by_tls(server: str, error: ssl.SSLError, settings: KafkaSettings) -> PolytempoError:
    reason = str(error.reason or "")
    if isinstance(error, ssl.SSLEOFError) or "WRONG_VERSION" in reason or "RECORD_LAYER" in reason:
        return _no_tls(server)
    if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "HANDSHAKE_FAILURE" in reason:
        if settings.cert_file is None:
            return PolytempoError(
                f"Kafka at {server} wants a certificate of its clients.",
                "Name the PEM files with --kafka-cert and --kafka-key (POLYTEMPO_KAFKA_CERT, POLYTEMPO_KAFKA_KEY).",
            )
        return PolytempoError(
            f"Kafka at {server} does not trust the certificate {settings.cert_file}.",
            "It must be signed by an authority that the cluster trusts, and not be out of date.",
        )
    return PolytempoError(f"TLS with Kafka at {server} failed: {reason or type(error).__name__}.")


def _no_tls(server: str) -> PolytempoError:
    return PolytempoError(
        f"Kafka at {server} does not speak TLS.",
        "Name the port that does, or set --kafka-security to PLAINTEXT or SASL_PLAINTEXT for an open network.",
    )
