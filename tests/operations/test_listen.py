"""Who is let in, and where nobody may listen unprotected."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.errors import PolytempoError
from stream.operations.listen import Listen, Token, read_token

SECRET = "correct-horse-battery"  # noqa: S105 - of these tests


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        (":9464", "127.0.0.1", 9464),
        ("localhost:80", "localhost", 80),
        ("[::1]:9464", "::1", 9464),
    ],
)
def test_this_machine_needs_no_token(text: str, host: str, port: int) -> None:
    assert Listen.parse(text, token=None) == Listen(host, port)


def test_off_is_nowhere() -> None:
    assert Listen.parse("off", token=None) is None


@pytest.mark.parametrize("text", ["0.0.0.0:9464", "[::]:9464", "10.0.0.5:1", "worker.example:9464"])
def test_others_need_a_token_or_leave(text: str) -> None:
    with pytest.raises(PolytempoError, match=r"POLYTEMPO_HTTP_TOKEN.*--http-open"):
        Listen.parse(text, token=None)
    assert Listen.parse(text, token=Token(SECRET)) == Listen.parse(text, token=None, open_to_all=True)


@pytest.mark.parametrize("text", ["", "9464", "localhost", "a:b", "127.0.0.1:70000", "user@host:1", "http://host:1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(PolytempoError, match="no address"):
        Listen.parse(text, token=None)


def test_a_token_comes_from_the_environment_or_a_file_and_is_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    for variables in ({"POLYTEMPO_HTTP_TOKEN": SECRET}, {"POLYTEMPO_HTTP_TOKEN_FILE": str(file)}):
        token = read_token(variables)
        assert token == Token(SECRET)
        assert SECRET not in repr(token)
    assert read_token({}) is None
    assert read_token({"POLYTEMPO_HTTP_TOKEN": ""}) is None


def test_two_tokens_a_missing_file_and_a_short_token_are_refused_without_showing_them(tmp_path: Path) -> None:
    with pytest.raises(PolytempoError, match="both set"):
        read_token({"POLYTEMPO_HTTP_TOKEN": SECRET, "POLYTEMPO_HTTP_TOKEN_FILE": "x"})
    with pytest.raises(PolytempoError, match="cannot be read"):
        read_token({"POLYTEMPO_HTTP_TOKEN_FILE": str(tmp_path / "nothing")})
    for secret in ("tiny-one", "with spaces in between", "mit-Umlauten-äöüäöü"):
        with pytest.raises(PolytempoError, match="openssl rand") as error:
            read_token({"POLYTEMPO_HTTP_TOKEN": secret})
        assert secret not in str(error.value)


@pytest.mark.parametrize(
    ("header", "admitted"),
    [
        (f"Bearer {SECRET}", True),
        (f"bearer  {SECRET} ", True),
        (f"Bearer {SECRET}x", False),
        (f"Bearer {SECRET[:-1]}", False),
        (f"Basic {SECRET}", False),
        (SECRET, False),
        ("Bearer ä\udcff", False),
        ("", False),
        (None, False),
    ],
)
def test_only_the_whole_token_is_admitted(header: str | None, *, admitted: bool) -> None:
    assert Token(SECRET).admits(header) is admitted
