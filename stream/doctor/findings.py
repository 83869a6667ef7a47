"""What a look at a set-up found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from stream.errors import PolytempoError

__all__ = ["Finding", "error", "from_error", "is_well", "ok", "unknown", "warning"]

Status = Literal["ok", "warning", "error", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: a short stable name.
        status: how it is; `unknown` where it could not be told.
        detail: what was found, in a sentence.
        hint: what to do; empty when nothing is to be done.
    """

    check: str
    status: Status
    detail: str
    hint: str = ""


def ok(check: str, detail: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", detail)


def warning(check: str, detail: str, hint: str = "") -> Finding:
    """It works, and somebody should know."""
    return Finding(check, "warning", detail, hint)


def error(check: str, detail: str, hint: str = "") -> Finding:
    """It does not work."""
    return Finding(check, "error", detail, hint)


def unknown(check: str, detail: str, hint: str = "") -> Finding:
    """It could not be told."""
    return Finding(check, "unknown", detail, hint)


def from_error(check: str, problem: PolytempoError) -> Finding:
    """An error that comes with advice."""
    return Finding(check, "error", problem.message, problem.hint)


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing is an error."""
    return all(finding.status != "error" for finding in findings)
