"""The comparison with peers: what is checked of them, and each of those that are installed, on a few events."""

import pickle
import sqlite3
import sys
from pathlib import Path

import pytest

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from tests.bench.history import history_of
from tests.bench.path import PathOptions, Subject, measure
from tests.bench.path_events import load_events
from tests.bench.path_peers import PEER_EVENTS, bytewax_offsets, same_lists
from tests.bench.peer_env import PEERS, Peer, environment, find_environment
from tests.bundle.models import write_ranker

LIST = [("a", 0.9), ("b", 0.5), ("c", 0.1)]


def test_the_same_lists_are_the_same() -> None:
    assert same_lists({(0, 0): LIST, (1, 0): []}, {(1, 0): [], (0, 0): list(LIST)}) == ""


def test_items_with_equal_scores_may_change_places() -> None:
    tied = [("a", 0.9), ("b", 0.50001), ("c", 0.5)]
    assert same_lists({(0, 0): tied}, {(0, 0): [("a", 0.9), ("c", 0.50001), ("b", 0.5)]}) == ""


def test_an_item_as_good_as_the_last_one_may_stand_for_it() -> None:
    assert same_lists({(0, 0): LIST}, {(0, 0): [*LIST[:2], ("d", 0.1)]}) == ""


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        ({}, "were not answered"),
        ({(0, 0): LIST, (0, 1): LIST}, "belong to no event"),
        ({(0, 0): LIST[:2]}, "was answered with"),
        ({(0, 0): [("b", 0.9), ("a", 0.5), ("c", 0.1)]}, "was answered with"),
        ({(0, 0): [("x", 0.9), ("b", 0.5), ("c", 0.1)]}, "was answered with"),
        ({(0, 0): [("a", 0.9), ("b", 0.6), ("c", 0.1)]}, "was answered with"),
    ],
)
def test_an_answer_that_is_missing_superfluous_or_different_is_found(
    found: dict[tuple[int, int], list[tuple[str, float]]], complaint: str
) -> None:
    assert complaint in same_lists({(0, 0): LIST}, found)


def test_what_a_recovery_store_resumes_from_is_the_newest_snapshot_of_a_closed_epoch(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "part-0.sqlite3") as store:
        store.execute("CREATE TABLE fronts (worker_frontier INTEGER)")
        store.execute("CREATE TABLE snaps (step_id TEXT, state_key TEXT, snap_epoch INTEGER, ser_change BLOB)")
        store.execute("INSERT INTO fronts VALUES (4)")
        snaps = [("0-events", 2, 100), ("0-events", 3, 70_000), ("0-events", 4, 90_000), ("1-events", 3, 7)]
        for key, epoch, offset in snaps:
            store.execute("INSERT INTO snaps VALUES (?, ?, ?, ?)", ("flow.events", key, epoch, pickle.dumps(offset)))
        store.execute("INSERT INTO snaps VALUES ('flow.users', 'u', 3, ?)", (pickle.dumps(5),))
    store.close()
    assert bytewax_offsets(tmp_path) == 70_007


def test_a_store_without_tables_resumes_from_the_beginning(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "part-0.sqlite3").close()
    (tmp_path / "part-0.sqlite3").touch()
    assert bytewax_offsets(tmp_path) == 0


def test_a_peer_that_cannot_be_installed_is_named_with_what_the_installer_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    peer = Peer("nobody", "Nobody", "tests.bench.nobody", ("event",), (str(tmp_path / "no-such-package.whl"),))
    with pytest.raises(PolytempoError, match="cannot be installed") as raised:
        environment(peer)
    assert "no-such-package" in raised.value.hint
    assert find_environment(peer) is None


def test_every_formulation_of_a_peer_has_a_backlog() -> None:
    assert set(PEER_EVENTS) == {(peer.name, each) for peer in PEERS for each in peer.formulations}


@pytest.mark.parametrize(
    ("name", "formulation"), [("faust", "take"), ("quix", "event"), ("bytewax", "user"), ("bytewax", "partition")]
)
async def test_a_peer_gives_the_answers_of_plain_faust(
    name: str, formulation: str, kafka: KafkaSettings, tmp_path: Path
) -> None:
    """Only for peers that `polytempo bench path --peers` has installed before: no test installs anything."""
    peer = next(each for each in PEERS if each.name == name)
    python = find_environment(peer)
    if python is None:
        pytest.skip(f"{peer.label} is not installed: `polytempo bench path --peers` does it")
    bundle = tmp_path / "ranker"
    write_ranker(bundle)
    shop = load_events(160, n_users=20, n_items=60)
    history, pairs = history_of(bundle, shop[:100]).activity, shop[100:]
    assert history
    options = PathOptions(n_partitions=2)
    stored = None if peer.in_kafka else bytewax_offsets
    answers = [
        (
            await measure(options, kafka, subject, pairs, bundle, None, tmp_path, history=history, read_answers=True)
        ).answers
        for subject in (
            Subject("tests.bench.peer_faust", "plain Faust", Path(sys.executable), "event", fixed_view=True),
            Subject(peer.module, peer.label, python, formulation, fixed_view=True, stored=stored),
        )
    ]
    assert len(answers[0]) == len(pairs)
    assert same_lists(*answers) == ""
