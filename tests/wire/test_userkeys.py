"""Pseudonyms can be renewed without knowing the ids, and secrets are never shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import PolytempoError
from stream.wire.userkeys import PSEUDONYM_BYTES, UserKey, UserKeys

A, B = UserKey("a", b"a" * 32), UserKey("b", b"b" * 16)


@given(st.binary(min_size=1, max_size=200))
def test_a_pseudonym_under_an_old_key_becomes_that_of_the_new_one_without_the_id(user: bytes) -> None:
    before, after = UserKeys([A]), UserKeys([A, B])
    assert after.renewed(before.pseudonym(user), "a") == after.pseudonym(user)
    assert after.pseudonym(user, "a") == before.pseudonym(user)
    assert len({keys.pseudonym(user) for keys in (UserKeys(), before, after, UserKeys([B]))}) == 4
    assert len(after.pseudonym(user)) == PSEUDONYM_BYTES


def test_keys_come_from_a_variable_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"a:{'61' * 32}\n\nb: {'62' * 16}\n")
    read = UserKeys.read({"POLYTEMPO_USER_KEYS_FILE": str(file)})
    assert (read.current, read.names) == ("b", ("", "a", "b"))
    assert read.pseudonym(b"u") == UserKeys([A, B]).pseudonym(b"u")
    assert UserKeys.read({"POLYTEMPO_USER_KEYS": f"a:{'61' * 32},b:{'62' * 16}"}).pseudonym(b"u") == read.pseudonym(
        b"u"
    )
    assert UserKeys.read({}).current == ""


@pytest.mark.parametrize("text", ["a", "a:12", "a:xyz", f"a:{'6' * 33}", f"a:{'61' * 65}", f":{'61' * 32}"])
def test_what_is_no_key_is_refused_without_being_shown(text: str) -> None:
    with pytest.raises(PolytempoError) as refused:
        UserKeys.read({"POLYTEMPO_USER_KEYS": f"ok:{'61' * 32},{text}"})
    assert "number 2" in refused.value.message
    assert len(text) < 4 or text not in f"{refused.value} {refused.value.hint}"
    assert "6161" not in repr(refused.value)


def test_two_keys_of_one_name_and_two_sources_are_refused() -> None:
    with pytest.raises(PolytempoError, match="same name"):
        UserKeys([A, A])
    with pytest.raises(PolytempoError, match="both"):
        UserKeys.read({"POLYTEMPO_USER_KEYS": "x", "POLYTEMPO_USER_KEYS_FILE": "y"})


def test_no_repr_shows_a_secret() -> None:
    assert "aaaa" not in repr(A) + repr(UserKeys([A]))


@given(st.binary(min_size=1, max_size=60).filter(lambda user: b"\0" not in user))
def test_a_stored_key_is_carried_over_from_whatever_it_was_made_with(user: bytes) -> None:
    none, before, after = UserKeys(), UserKeys([A]), UserKeys([A, B])
    assert none.stored(user) == user
    for keys in (none, before, after):
        assert after.carried(keys.stored(user)) == after.stored(user)
    assert after.earlier(user) == [before.stored(user), user]
    assert len(user) < 3 or user not in after.stored(user)
    with pytest.raises(PolytempoError, match="'b'"):
        before.carried(after.stored(user))
