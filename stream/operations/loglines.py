"""Logs for people (text) or for programs (one JSON object a line), without secrets in either.

Fields of a JSON line, stable across versions:

    time        UTC, ISO 8601 with milliseconds
    level       debug, info, warning, error or critical
    logger      dotted name of what speaks
    message     one sentence
    pid         the process
    exception   {"type", "message", "traceback"}, where there is one
    topic, partition, offset                      the record that it is about, where there is one
    first_offset, last_offset                     the same for a batch
    and whatever else the speaker passes as `extra`
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import time
import traceback
import urllib.parse
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Literal

__all__ = ["HIDDEN", "JsonFormatter", "Redactor", "TextFormatter", "set_up_logging"]

HIDDEN: Final = "[hidden]"
_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; what else it has was passed as `extra`."""
_LONG: Final = 4


class Redactor:
    """Hides secrets in text, however they were written: as they are, quoted, escaped or in base64.

    Args:
        secrets: what must not be shown; empty ones are left out. One below four characters is hidden as a whole word
            only, as it may be a part of any other.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        patterns = set()
        for secret in filter(None, secrets):
            for written in _written(secret):
                literal = re.escape(written)
                patterns.add(literal if len(secret) >= _LONG else rf"(?<!\w){literal}(?!\w)")
        # The longest first: one may begin like another.
        ordered = sorted(patterns, key=len, reverse=True)
        self._pattern = re.compile("|".join(ordered)) if ordered else None

    def __call__(self, text: str) -> str:
        """The text without them."""
        return text if self._pattern is None else self._pattern.sub(HIDDEN, text)

    def all(self, value: Any) -> Any:
        """A value as JSON knows it, every text in it without them."""
        if value is None or isinstance(value, bool | int):
            return value
        if isinstance(value, float):
            return value if value - value == 0 else str(value)  # JSON has no NaN and no infinity
        if isinstance(value, dict):
            return {self(str(key)): self.all(each) for key, each in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self.all(each) for each in value]
        return self(str(value))


def _written(secret: str) -> set[str]:
    """The ways in which a secret gets into a text."""
    raw = secret.encode(errors="surrogateescape")
    return {
        secret,
        repr(secret)[1:-1],
        repr(raw)[2:-1],
        json.dumps(secret)[1:-1],
        urllib.parse.quote(raw, safe=""),
        urllib.parse.quote_plus(raw),
        base64.b64encode(raw).decode(),
    }


class JsonFormatter(logging.Formatter):
    """One JSON object a line; see the module for its fields."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "pid": record.process,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _OWN and name not in line}
        if record.exc_info is not None and record.exc_info[1] is not None:
            error = record.exc_info[1]
            line["exception"] = {
                "type": type(error).__qualname__,
                "message": str(error),
                "traceback": "".join(traceback.format_exception(error)),
            }
        return json.dumps(self._redactor.all(line), ensure_ascii=False, separators=(",", ":"))


class TextFormatter(logging.Formatter):
    """A line for people: time in UTC, level, who, what; a traceback below it."""

    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_iso(record.created)} {record.levelname} {record.name}: {record.getMessage()}"
        extra = [f"{name}={value}" for name, value in vars(record).items() if name not in _OWN]
        if extra:
            text += f" ({', '.join(extra)})"
        if record.exc_info is not None and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip()
        return self._redactor(text)


def set_up_logging(level: str, form: Literal["text", "json"], secrets: Iterable[str] = ()) -> None:
    """Log to standard error, everything from `level` on, in place of what was set up before.

    As JSON, warnings of Python and an exception that ends the program become such lines too.
    """
    redactor = Redactor(secrets)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(redactor) if form == "json" else TextFormatter(redactor))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    if form == "json":
        logging.captureWarnings(capture=True)
        sys.excepthook = _log_the_end


def _log_the_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    logging.getLogger(__name__).critical("the program ends: %s", error, exc_info=(kind, error, trace))


def _iso(seconds: float) -> str:
    whole_ms = int(seconds * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole_ms // 1000)) + f".{whole_ms % 1000:03d}Z"
