"""Pseudonyms of users: a keyed hash of their ids, under a secret that can be renewed without knowing the ids.

    no key         BLAKE2b(user)                      anybody who guesses an id can confirm it
    keys a         BLAKE2b(user, key a)
    keys a, b      BLAKE2b(BLAKE2b(user, key a), key b)

A new key hashes the old pseudonym once more. So stored pseudonyms can be carried over without their users' ids, and who
has learnt an old key alone can tell nobody from what was written under the new one.

BLAKE2b's own key and personalisation (RFC 7693) do what HMAC does for other hashes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Final

from stream.errors import PolytempoError

__all__ = ["KEYS_VARIABLE", "PSEUDONYM_BYTES", "UserKey", "UserKeys"]

KEYS_VARIABLE: Final = "POLYTEMPO_USER_KEYS"
PSEUDONYM_BYTES: Final = 16
_PERSON: Final = b"polytempo.user"
_LINE: Final = re.compile(r"(?P<id>[A-Za-z0-9_.-]{1,32}):\s*(?P<secret>[0-9a-fA-F]+)")
_MIN_SECRET_BYTES: Final = 16
_MAX_SECRET_BYTES: Final = 64  # BLAKE2b takes no more


@dataclass(frozen=True, slots=True)
class UserKey:
    """One secret and the name that stored pseudonyms carry; its `repr` does not show the secret."""

    id: str
    secret: bytes = field(repr=False)


class UserKeys:
    """The secrets of a deployment, the oldest first; none is possible.

    Raises:
        PolytempoError: two have the same name.
    """

    def __init__(self, keys: Sequence[UserKey] = ()) -> None:
        self._keys: Final = tuple(keys)
        self._number: Final = {"": 0, **{key.id: number for number, key in enumerate(self._keys, 1)}}
        if len(self._number) != len(self._keys) + 1:
            raise PolytempoError("two user keys have the same name.", "Give each its own, such as 2024 and 2025.")

    @classmethod
    def read(cls, environment: Mapping[str, str] | None = None) -> UserKeys:
        """The keys of POLYTEMPO_USER_KEYS, or of the file that POLYTEMPO_USER_KEYS_FILE names; none without either.

        Each is NAME:SECRET with 16 to 64 bytes in hexadecimal, the oldest first; lines or commas lie between.

        Raises:
            PolytempoError: what is there is no list of keys; the message shows none of it.
        """
        variables = os.environ if environment is None else environment
        text, file = variables.get(KEYS_VARIABLE, ""), variables.get(f"{KEYS_VARIABLE}_FILE", "")
        if text and file:
            raise PolytempoError(f"both {KEYS_VARIABLE} and {KEYS_VARIABLE}_FILE are set.", "Leave one of them out.")
        if file:
            try:
                text = Path(file).expanduser().read_text(encoding="ascii")
            except (OSError, UnicodeError) as error:
                raise PolytempoError(f"the file {file} of user keys cannot be read.", str(error)) from None
        keys = []
        for number, line in enumerate(filter(None, (part.strip() for part in re.split(r"[,\n]", text))), 1):
            match = _LINE.fullmatch(line)
            secret = b"" if match is None or len(match["secret"]) % 2 else bytes.fromhex(match["secret"])
            if match is None or not _MIN_SECRET_BYTES <= len(secret) <= _MAX_SECRET_BYTES:
                raise PolytempoError(
                    f"user key number {number} is none.",
                    "Write NAME:SECRET, the secret as 32 to 128 hexadecimal digits; `openssl rand -hex 32` makes one.",
                )
            keys.append(UserKey(match["id"], secret))
        return cls(keys)

    @property
    def current(self) -> str:
        """The name of the newest key; empty if there is none."""
        return self._keys[-1].id if self._keys else ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all keys, the oldest first, behind the empty name of no key."""
        return tuple(self._number)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown, as it was written."""
        return tuple(key.secret.hex() for key in self._keys)

    def pseudonym(self, user: bytes, name: str | None = None) -> bytes:
        """(16 bytes) of a user's id under the key of this name, the newest unless given.

        Raises:
            KeyError: there is no such key.
        """
        number = len(self._keys) if name is None else self._number[name]
        digest = blake2b(user, digest_size=PSEUDONYM_BYTES, person=_PERSON).digest() if number == 0 else user
        return self._onwards(digest, 0, number)

    def renewed(self, pseudonym: bytes, name: str) -> bytes:
        """The pseudonym under the newest key of who has this one under the key `name`.

        Raises:
            KeyError: there is no such key, or it is the empty name: without a key, ids are not hashed on.
        """
        if not name:
            raise KeyError(name)
        return self._onwards(pseudonym, self._number[name], len(self._keys))

    def stored(self, user: bytes, name: str | None = None) -> bytes:
        """The key under which a user's state is stored: the id itself without a key, else one that names its secret.

        Ids hold no NUL, so the two are never taken for each other.

        Raises:
            KeyError: there is no such key.
        """
        name = self.current if name is None else name
        return user if not name else _stored(name, self.pseudonym(user, name))

    def earlier(self, user: bytes) -> list[bytes]:
        """The keys under which a state may still be stored, the newest first."""
        return [self.stored(user, name) for name in reversed(self.names[:-1])]

    def carried(self, stored: bytes) -> bytes:
        """The newest key of the state that is stored under this one.

        Raises:
            PolytempoError: its secret is not there.
        """
        if not stored.startswith(b"\0"):
            return self.stored(stored)
        name, pseudonym = stored[1:-PSEUDONYM_BYTES].rstrip(b"\0").decode(), stored[-PSEUDONYM_BYTES:]
        if name not in self._number:
            raise PolytempoError(
                f"states are stored under the user key {name!r}, which is not known here.",
                f"Set {KEYS_VARIABLE} or {KEYS_VARIABLE}_FILE with all keys so far, the oldest first.",
            )
        return _stored(self.current, self.renewed(pseudonym, name))

    def _onwards(self, digest: bytes, first: int, last: int) -> bytes:
        for key in self._keys[first:last]:
            digest = blake2b(digest, digest_size=PSEUDONYM_BYTES, key=key.secret, person=_PERSON).digest()
        return digest


def _stored(name: str, pseudonym: bytes) -> bytes:
    return b"\0" + name.encode() + b"\0" + pseudonym
