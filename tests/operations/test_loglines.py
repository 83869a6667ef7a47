"""Log lines that programs can read and nobody can learn a secret from."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.operations.loglines import HIDDEN, JsonFormatter, Redactor, TextFormatter, set_up_logging

PASSWORD = 'p"ä ss\\w%rd'  # noqa: S105 - of these tests


@pytest.fixture
def spoken() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger that writes JSON lines, and what it wrote."""
    logger, out = logging.getLogger("test.loglines"), io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter(Redactor([PASSWORD])))
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    yield logger, out
    logger.removeHandler(handler)


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_has_its_fields_and_those_that_the_speaker_adds(spoken: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = spoken
    logger.warning("left out: %s", "why", extra={"topic": "events", "partition": 3, "offset": 811})
    (line,) = lines(out)
    assert list(line) == ["time", "level", "logger", "message", "pid", "topic", "partition", "offset"]
    assert (line["level"], line["logger"], line["message"]) == ("warning", "test.loglines", "left out: why")
    assert (line["topic"], line["partition"], line["offset"]) == ("events", 3, 811)
    assert line["time"].endswith("Z")


def test_an_exception_is_inside_its_line(spoken: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = spoken
    error = RuntimeError("two\nlines")
    error.__cause__ = KeyError("a\nb")
    logger.error("it\nfailed", exc_info=error)
    (line,) = lines(out)
    assert line["exception"]["type"] == "RuntimeError"
    assert line["exception"]["message"] == "two\nlines"
    assert "KeyError" in line["exception"]["traceback"]
    assert line["message"] == "it\nfailed"


def test_what_json_has_no_form_for_is_text(spoken: tuple[logging.Logger, io.StringIO]) -> None:
    logger, out = spoken
    logger.info("odd", extra={"nan": float("nan"), "of": {1: {2}}, "bytes": b"\xff", "none": None})
    (line,) = lines(out)
    assert (line["nan"], line["of"], line["bytes"], line["none"]) == ("nan", {"1": [2]}, "b'\\xff'", None)


def test_a_password_is_hidden_wherever_it_is_said(spoken: tuple[logging.Logger, io.StringIO]) -> None:
    """In the message, an argument, an extra field, an exception, and as bytes of a request that a client logs."""
    logger, out = spoken
    extra = {"settings": {"password": PASSWORD}, PASSWORD: 1}
    logger.error("it is %s", PASSWORD, exc_info=ValueError(PASSWORD), extra=extra)
    logger.debug("request %r", b"\0user\0" + PASSWORD.encode())
    written = out.getvalue()
    assert written.count(HIDDEN) >= 5
    for form in (PASSWORD, json.dumps(PASSWORD)[1:-1], "ss\\\\w", "%rd"):
        assert form not in written


@given(
    st.text(st.sampled_from("ABC\"\\'/ßé\n\0 +="), min_size=4),
    st.text(st.sampled_from("0123456789 ")),
    st.text(st.sampled_from("0123456789 ")),
)
def test_no_secret_passes_either_formatter(secret: str, before: str, after: str) -> None:
    """Neighbours share no letter with it, so that none can arise where text was taken out."""
    redactor = Redactor([secret])
    whole = before + secret + after
    record = logging.makeLogRecord({"msg": whole, "levelname": "INFO", "name": "x"})
    if secret.strip(" "):
        assert secret not in json.loads(JsonFormatter(redactor).format(record))["message"]
        assert secret not in TextFormatter(redactor).format(record)
    for written in (repr(secret), repr(secret.encode()), json.dumps(secret)):
        assert HIDDEN in redactor(written)


def test_a_short_secret_is_hidden_as_a_word_and_leaves_other_words_alone() -> None:
    redactor = Redactor(["in", ""])
    assert redactor("password=in inside") == f"password={HIDDEN} inside"


def test_a_program_that_ends_says_so_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    try:
        set_up_logging("warning", "json", [PASSWORD])
        error = RuntimeError(f"no {PASSWORD}")
        sys.excepthook(RuntimeError, error, None)
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = before
        root.setLevel(logging.WARNING)
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert line["level"] == "critical"
    assert line["exception"]["message"] == f"no {HIDDEN}"
