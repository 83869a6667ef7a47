"""The private names of Faust and aiokafka that the batch path relies on."""

import importlib
import importlib.metadata
import re
from pathlib import Path

import pytest

from stream.batching import private
from stream.batching.private import NAMES, PrivateName, problem


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name.owner.__name__}.{name.name}")
def test_each_private_name_is_there_and_takes_what_is_expected(name: PrivateName) -> None:
    """One test per name, so that an upgrade says exactly what to look at."""
    assert problem(name) is None


def test_no_private_name_is_touched_that_is_not_listed() -> None:
    """Every `something._name` in the package is its own, or in the list."""
    sources = [path.read_text() for path in Path(private.__file__).parent.glob("*.py")]
    touched = {name for source in sources for name in re.findall(r"\w\.(_[a-z]\w*)", source)}
    own = {
        name
        for source in sources
        for name in re.findall(r"(?:def |^class |self\.|^    )(_[a-zA-Z]\w*)(?=\(|\b.*=|: )", source, re.MULTILINE)
    }
    assert touched - own - {name.name for name in NAMES} == set()


def test_a_missing_name_is_reported() -> None:
    """The check can fail."""
    gone = PrivateName(NAMES[0].owner, "_never_was", ())
    assert "is gone" in (problem(gone) or "")


def test_other_parameters_are_reported() -> None:
    """The check compares names, not only presence."""
    other = PrivateName(NAMES[0].owner, "_drain_messages", ("somebody",))
    assert "expected ('somebody',)" in (problem(other) or "")


def test_another_release_is_refused_at_import(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first rebalance."""
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.15.4" if name == "faust-streaming" else real(name)
    )
    with pytest.raises(ImportError, match=r"faust-streaming 0\.15\.3, found 0\.15\.4"):
        importlib.reload(private)
    monkeypatch.undo()
    importlib.reload(private)
