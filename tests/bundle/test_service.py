"""What a worker serves with: a bundle or an experiment, refused by name, followed as files change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stream.bundle.channel import activate
from stream.bundle.errors import BundleError
from stream.bundle.experiment import read_experiment
from stream.bundle.service import ServiceWatcher, load_service
from stream.core.exploration import Exploration
from stream.core.seam import Policy
from tests.worker.bundles import bundle

TWO = """
name = "new"
[[variants]]
name = "control"
bundle = "{one}"
weight = 3
[[variants]]
name = "explore"
bundle = "{two}"
n = 4
seen = "none"
exploration = {{kind = "epsilon", epsilon = 0.2, first = 2}}
[[shadows]]
bundle = "{two}"
sample = 0.25
"""


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    file = tmp_path / "experiment.toml"
    file.write_text(TWO.format(one=bundle("ranker"), two=bundle("ranker-2")))
    return file


def test_an_experiment_names_variants_with_bundles_weights_and_rules(experiment: Path) -> None:
    service = load_service(experiment, n=7)
    control, explore = service.arms
    assert (control.variant, explore.variant) == ("control", "explore")
    assert control.bundle.reference == "ranker@1" != explore.bundle.reference
    assert control.policy == Policy(7, "session"), "what a variant does not say is as it would be without experiment"
    assert explore.policy == Policy(4, "none", Exploration("epsilon", 2, epsilon=0.2, salt="new/explore"))
    assert [(shadow.bundle.reference, shadow.sample) for shadow in service.shadows] == [
        (explore.bundle.reference, 0.25)
    ]
    assert service.assignment is not None
    found = [service.assignment.of(f"user-{number}") for number in range(1_000)]
    assert 700 < found.count("control") < 800
    assert service.reference.startswith("experiment new (control: ranker@1, explore: ")


def test_toml_and_json_say_the_same(experiment: Path, tmp_path: Path) -> None:
    import tomllib

    other = tmp_path / "experiment.json"
    other.write_text(json.dumps(tomllib.loads(experiment.read_text())))
    assert read_experiment(other) == read_experiment(experiment)
    assert load_service(other).reference == load_service(experiment).reference


def test_a_bundle_or_a_channel_serves_alone(tmp_path: Path) -> None:
    channel = tmp_path / "live.json"
    activate(channel, bundle("ranker"))
    for path in (channel, bundle("ranker")):
        service = load_service(path)
        assert service.assignment is None
        assert [(arm.variant, arm.bundle.reference) for arm in service.arms] == [("default", "ranker@1")]


def test_bundles_that_cannot_share_a_fold_are_refused_with_what_differs(experiment: Path) -> None:
    experiment.write_text(TWO.format(one=bundle("ranker"), two=bundle("other-statistics")))
    with pytest.raises(BundleError, match=r"differ in .*popularity channels.*co-visitation"):
        load_service(experiment)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("weight = 3", "weight = -3", "weight"),
        ('name = "explore"', 'name = "control"', "different names"),
        ('name = "explore"', 'name = "two words"', "two words"),
        ("first = 2", "first = 0", "counted from 1"),
        ("first = 2", "fist = 2", "fist"),
        ("n = 4", "n = 0", "n"),
        ("sample = 0.25", "sample = 2", "sample"),
        ("[[variants]]", "[[variant]]", "variant"),
        ('name = "new"', 'name = "new', "experiment"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(experiment: Path, old: str, new: str, said: str) -> None:
    experiment.write_text(experiment.read_text().replace(old, new))
    with pytest.raises(BundleError, match=said):
        read_experiment(experiment)


def test_a_missing_file_is_an_error_of_the_user(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no experiment file"):
        load_service(tmp_path / "nowhere.toml")


def test_changes_are_reported_once_and_broken_ones_not_at_all(experiment: Path) -> None:
    watcher = ServiceWatcher(experiment)
    assert not watcher.poll()
    experiment.write_text(experiment.read_text().replace("weight = 3", "weight = 1"))
    assert watcher.poll()
    assert not watcher.poll()
    good = experiment.read_text()
    experiment.write_text("name =")
    assert not watcher.poll()
    assert watcher.problem is not None
    experiment.write_text(good)
    assert not watcher.poll(), "as before"
    experiment.write_text("# a remark\n" + good.replace("sample = 0.25", "sample = 0.5"))
    assert watcher.poll()
    assert watcher.problem is None


def test_a_bundle_behind_an_experiment_is_followed(tmp_path: Path) -> None:
    channel, experiment = tmp_path / "live.json", tmp_path / "experiment.toml"
    activate(channel, bundle("ranker"))
    experiment.write_text(TWO.format(one="live.json", two="live.json"))
    watcher = ServiceWatcher(experiment)
    activate(channel, bundle("ranker-2"))
    assert watcher.poll()
    assert not watcher.poll()
