"""Configurations: read strictly, and every mistake is named where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.core.scales import scale_name
from stream.errors import PolytempoError
from training.config import Config, RankerTraining, RecurrentTraining, feature_spec, read_config, span_ms

CONFIGS = sorted((Path(__file__).parents[2] / "training" / "configs").glob("*-r*.toml"))
MINIMAL = """
[bundle]
path = "out"
name = "it"
[data]
file = "log.parquet"
[model]
kind = "ranker"
"""


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "it.toml"
    path.write_text(text)
    return read_config(path)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_examples_are_valid(path: Path) -> None:
    assert read_config(path).bundle.name == path.stem


def test_all_that_can_be_left_out_has_a_default(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL)
    assert isinstance(config.model, RankerTraining)
    assert feature_spec(config.features, {}).candidates.n == 128


def test_the_kind_decides_which_settings_a_model_has(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL.replace('"ranker"', '"recurrent"\nn_state = 32'))
    assert config.model == RecurrentTraining(n_state=32)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("[data]", "[data"), "it.toml"),
        (('kind = "ranker"', 'kind = "magic"'), r"Invalid value 'magic' - at `\$.model.kind`"),
        (('kind = "ranker"', 'kind = "ranker"\nn_state = 3'), "unknown field `n_state`"),
        (('kind = "ranker"', 'kind = "ranker"\nlearning_rate = 0'), r"> 0.* - at `\$.model.learning_rate`"),
        (('name = "it"', ""), r"missing required field `name` - at `\$.bundle`"),
        (('file = "log.parquet"', ""), "names either a file or"),
        (("[data]", "[window]\ntrain_until = 2020-01-01T00:00:00\n[data]"), r"timezone.* - at `\$.window.train_until`"),
        (("[data]", '[features]\nscales = ["5 min"]\n[data]'), r"at `\$.features.scales\[0\]`"),
        (("[data]", '[features]\nscales = ["1h", "5m"]\n[data]'), "distinct and ascending"),
        (("[data]", '[features]\npopularity = ["some:5m"]\n[data]'), "'some:5m': begins with none of all"),
        (("[data]", '[features]\nco_visitation = ["next:soon"]\n[data]'), "'soon' is no span"),
        (("[data]", '[features]\nco_visitation = ["next:1h:device"]\n[data]'), "by 'device' needs that field"),
        (("[data]", '[features]\nlists = { "all:2m" = 5 }\n[data]'), "no popularity channel is called 'all:2m'"),
        (("[data]", '[features]\npopularity = ["all:1h:device"]\nlists = {}\n[data]'), "'device' needs that field"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, change: tuple[str, str], complaint: str) -> None:
    with pytest.raises(PolytempoError, match=complaint):
        read(tmp_path, MINIMAL.replace(*change))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolytempoError, match=r"none\.toml cannot be read"):
        read_config(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["90s", "5m", "12h", "30d", "1500ms"])
def test_spans_read_as_they_are_written(text: str) -> None:
    assert scale_name(span_ms(text)) == text


def test_a_window_outside_the_log_is_refused(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL.replace("[data]", "[window]\ntrain_until = 2020-01-01T00:00:00Z\n[data]"))
    with pytest.raises(PolytempoError, match="do not fit into it"):
        config.window.bounds_ms(1_700_000_000_000, 1_700_500_000_000)
