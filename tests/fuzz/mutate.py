"""Inputs like good ones, but wrong: seeded, so that a run can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

__all__ = ["mutated"]

_MAX_BYTES: Final = 1 << 20
_TOKENS: Final = (
    *(b"null", b"true", b"-0", b"1e999", b"NaN", b"9223372036854775808", b"-1", b'""', b"[]", b"{}", b"[" * 500),
    *(b"\0", b"\\u0000", b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"'", b"\\", b"\n", b'"', b",", b":"),
    *(b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f", b"\x7f\xff"),
)

Change = Callable[[bytearray, Random, Sequence[bytes]], None]


def mutated(seeds: Sequence[bytes], rng: Random) -> bytes:
    """One of the seeds, changed in one to eight places."""
    data = bytearray(rng.choice(seeds))
    for _ in range(1 + rng.randrange(8) * (rng.random() < 0.5)):
        rng.choice(_CHANGES)(data, rng, seeds)
    return bytes(data[:_MAX_BYTES])


def _place(data: bytearray, rng: Random) -> int:
    return rng.randrange(len(data) + 1)


def _flip(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.randrange(256)


def _digit(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    """A number of a text, another one: lengths, offsets, times."""
    places = [at for at, byte in enumerate(data[:65536]) if 0x30 <= byte <= 0x39]
    if places:
        data[rng.choice(places)] = rng.choice(b"0123456789-.e")


def _insert(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = rng.choice(_TOKENS)


def _overwrite(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    at, token = _place(data, rng), rng.choice(_TOKENS)
    data[at : at + len(token)] = token


def _cut(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    del data[at : at + 1 + int(len(data) * rng.random() ** 4)]


def _truncate(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    del data[_place(data, rng) :]


def _repeat(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + 1 + rng.randrange(64)] * rng.choice((1, 2, 50))


def _splice(data: bytearray, rng: Random, seeds: Sequence[bytes]) -> None:
    other, at = rng.choice(seeds), _place(data, rng)
    begin = rng.randrange(len(other) + 1)
    data[at:] = other[begin:]


_CHANGES: Final[tuple[Change, ...]] = (*(_flip, _byte, _digit, _insert, _overwrite, _cut, _truncate, _repeat, _splice),)
