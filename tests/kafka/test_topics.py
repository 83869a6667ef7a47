"""The topic layout, and making a cluster follow it."""

from dataclasses import replace

import pytest

from stream.errors import PolytempoError
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import TopicNames, ensure_topics, topic_layout


def test_a_users_event_state_and_recommendation_share_a_partition_number() -> None:
    layout = {topic.name: topic for topic in topic_layout("x-", n_partitions=6)}
    names = TopicNames("x-")
    assert {layout[name].n_partitions for name in (names.events, names.recommendations, names.changelog)} == {6}
    assert layout[names.item_activity].n_partitions == 1, "its order is the truth that replays rely on"


def test_states_and_items_keep_their_last_value_and_events_their_retention() -> None:
    config = {topic.name: topic.config for topic in topic_layout(retention_ms=1000)}
    names = TopicNames()
    assert config[names.items]["cleanup.policy"] == config[names.changelog]["cleanup.policy"] == "compact"
    assert config[names.events]["retention.ms"] == config[names.recommendations]["retention.ms"] == "1000"
    assert config[names.events]["message.timestamp.type"] == "LogAppendTime"
    assert int(config[names.dead_letters]["retention.ms"]) >= 90 * 24 * 3600 * 1000


def test_the_changelog_has_the_name_that_faust_gives_it() -> None:
    import faust

    names = TopicNames("shop-")
    app = faust.App(names.app_id, broker="kafka://unused")
    assert app.Table("users").changelog_topic_name == names.changelog


@pytest.mark.parametrize("wrong", [{"n_partitions": 0}, {"retention_ms": 0}, {"replication": 0}])
def test_figures_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(PolytempoError):
        topic_layout(**wrong)  # type: ignore[arg-type]


def test_topics_are_created_once_and_then_found_as_wanted(kafka: KafkaSettings, topic_prefix: str) -> None:
    layout = topic_layout(topic_prefix)
    assert {state.state for state in ensure_topics(kafka, layout, dry_run=True)} == {"missing"}
    assert {state.state for state in ensure_topics(kafka, layout)} == {"created"}
    assert {state.state for state in ensure_topics(kafka, layout)} == {"present"}


def test_a_setting_that_differs_is_reported_and_left_alone(kafka: KafkaSettings, topic_prefix: str) -> None:
    ensure_topics(kafka, topic_layout(topic_prefix))
    for _ in range(2):
        states = {each.topic.name: each for each in ensure_topics(kafka, topic_layout(topic_prefix, retention_ms=5000))}
        (difference,) = states[TopicNames(topic_prefix).events].differences
        assert (difference.setting, difference.wanted, difference.found) == ("retention.ms", "5000", "-1")
        assert states[TopicNames(topic_prefix).items].state == "present"


def test_another_number_of_partitions_is_an_error_that_names_the_topic(kafka: KafkaSettings, topic_prefix: str) -> None:
    events = topic_layout(topic_prefix, n_partitions=3)[0]
    ensure_topics(kafka, [events])
    with pytest.raises(PolytempoError, match=f"{events.name} has 3 partitions, not 4"):
        ensure_topics(kafka, [replace(events, n_partitions=4)])


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.lookup.ANSWER_TIMEOUT_MS", 300)
    with pytest.raises(PolytempoError, match=r"no Kafka answers at 127\.0\.0\.1:1"):
        ensure_topics(KafkaSettings(bootstrap=("127.0.0.1:1",)), topic_layout())
