"""The health check tells a worker that takes part from one that does not."""

from kafka import KafkaConsumer

from stream.kafka.health import group_trouble
from stream.kafka.settings import KafkaSettings
from stream.kafka.topics import Topic, ensure_topics


def test_a_member_of_the_group_is_healthy_and_its_absence_is_trouble(kafka: KafkaSettings, topic_prefix: str) -> None:
    topic = f"{topic_prefix}events"
    ensure_topics(kafka, [Topic(topic, 1)])
    assert group_trouble(kafka, topic_prefix) != "", "nobody has joined yet"
    consumer = KafkaConsumer(topic, group_id=topic_prefix, **kafka.kafka_python())
    while not consumer.assignment():
        consumer.poll(100)
    assert group_trouble(kafka, topic_prefix) == ""
    consumer.close()
    assert group_trouble(kafka, topic_prefix) == f"the group {topic_prefix} is Empty"


def test_a_cluster_that_is_not_there_is_trouble() -> None:
    assert "no Kafka answers" in group_trouble(KafkaSettings(bootstrap=("127.0.0.1:1",)), "anything")
