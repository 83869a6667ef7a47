"""Where the HTTP endpoints listen, and who may ask them."""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stream.errors import PolytempoError

__all__ = ["MIN_TOKEN_LENGTH", "Listen", "Token", "read_token"]

MIN_TOKEN_LENGTH: Final = 16
_TOKEN: Final = "POLYTEMPO_HTTP_TOKEN"  # noqa: S105 - the name of a variable
_TOKEN_FILE: Final = "POLYTEMPO_HTTP_TOKEN_FILE"  # noqa: S105
_ADDRESS: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/@\[\]]*):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token. Its `repr` does not show it."""

    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < MIN_TOKEN_LENGTH or not re.fullmatch(r"[!-~]+", self.secret):
            raise PolytempoError(
                f"the HTTP token is too short or holds characters that no header can: it needs {MIN_TOKEN_LENGTH} "
                "printable ASCII characters at least, and no spaces.",
                "Make one with: openssl rand -hex 32",
            )

    def admits(self, authorization: str | None) -> bool:
        """Whether this is the value of an Authorization header that carries the token; takes the same time for all."""
        scheme, _, given = (authorization or "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self.secret.encode())
        return scheme.lower() == "bearer" and right


def read_token(environment: Mapping[str, str] | None = None) -> Token | None:
    """The token of POLYTEMPO_HTTP_TOKEN, or of the file that POLYTEMPO_HTTP_TOKEN_FILE names; None without either.

    There is no option for it: every user of a machine can read its command lines.

    Raises:
        PolytempoError: both are set, the file cannot be read, or it is no token.
    """
    variables = os.environ if environment is None else environment
    secret, file = variables.get(_TOKEN), variables.get(_TOKEN_FILE)
    if secret and file:
        raise PolytempoError(f"{_TOKEN} and {_TOKEN_FILE} are both set.", "Leave one of them out.")
    if file:
        try:
            secret = Path(file).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise PolytempoError(
                f"the HTTP token cannot be read from {file}: {error}.", f"See {_TOKEN_FILE}."
            ) from None
        return Token(secret)
    return Token(secret.strip()) if secret else None


@dataclass(frozen=True, slots=True)
class Listen:
    """An address to listen on; port 0 takes a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, token: Token | None, open_to_all: bool = False) -> Listen | None:
        """Read "HOST:PORT" or ":PORT", the latter on this machine only; None for "off".

        Raises:
            PolytempoError: it is no address; or others could reach it, without a token, and nobody said that they may.
        """
        if text.strip().lower() == "off":
            return None
        match = _ADDRESS.fullmatch(text.strip())
        if match is None or int(match["port"]) >= 2**16:
            raise PolytempoError(f"{text!r} is no address to listen on.", "Write HOST:PORT, :PORT or off.")
        listen = cls(match["host"].strip("[]") or "127.0.0.1", int(match["port"]))
        if token is None and not open_to_all and not listen.is_local:
            raise PolytempoError(
                f"at {text} others could read the state of this worker.",
                f"Set {_TOKEN} or {_TOKEN_FILE} to ask for a token, listen on localhost, or allow it with --http-open.",
            )
        return listen

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a name of this machine's that others may know as well
