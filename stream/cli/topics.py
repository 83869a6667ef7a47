"""`polytempo topics`: the topics, laid out as the worker needs them."""

from rich.table import Table

from stream.cli.console import people, print_json, results
from stream.cli.options import KafkaOptions, parse_duration_ms
from stream.kafka.topics import (
    DEFAULT_PARTITIONS,
    FOREVER_MS,
    Topic,
    TopicState,
    ensure_topics,
    topic_layout,
)

__all__ = ["topics"]

_STYLE = {"created": "green", "missing": "yellow", "present": "dim", "differs": "bold yellow"}


def topics(
    *,
    partitions: int = DEFAULT_PARTITIONS,
    retention: str = "forever",
    replication: int | None = None,
    dry_run: bool = False,
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> None:
    """Create the topics with the right partitions, retention and compaction; compare those that exist.

    Nothing that exists is changed: a setting that differs is shown, and another number of partitions is an error,
    because users would no longer lie where their states are. Running it again does no harm.

    For example:

        polytempo topics                    what is missing on localhost:9092
        polytempo topics --dry-run --json   only look, for a script
        polytempo topics --partitions 12 --replication 3 --retention 30d

    Args:
        partitions: Partitions of events, recommendations and changelog: at most so many workers share the load.
        retention: How long events and recommendations are kept: forever, or a duration such as 12h or 30d.
        replication: Copies of each partition. Left out: the cluster's default.
        dry_run: Only look; create nothing.
        json: Print one line: {"topics": [{"name": ..., "state": ..., ...}]}.
    """
    connection = KafkaOptions() if connection is None else connection
    settings = connection.settings()
    layout = topic_layout(
        connection.prefix,
        n_partitions=partitions,
        retention_ms=FOREVER_MS if retention == "forever" else parse_duration_ms(retention),
        replication=-1 if replication is None else replication,
    )
    with people.status(f"asking Kafka at {settings.servers}"):
        states = ensure_topics(settings, layout, dry_run=dry_run)
    if json:
        print_json({"kafka": settings.servers, "topics": [_as_json(state) for state in states]})
        return
    results.print(_table(states, settings.servers))
    if any(state.state == "differs" for state in states):
        people.print("Settings that differ were left as they are; kafka-configs changes them.", style="yellow")


def _as_json(state: TopicState) -> dict[str, object]:
    topic = state.topic
    return {
        "name": topic.name,
        "state": state.state,
        "partitions": topic.n_partitions,
        "replication": None if topic.replication == -1 else topic.replication,
        "config": dict(topic.config),
        "differences": [
            {"setting": each.setting, "wanted": each.wanted, "found": each.found} for each in state.differences
        ],
    }


def _table(states: tuple[TopicState, ...], servers: str) -> Table:
    table = Table(title=f"Topics on {servers}", title_justify="left")
    table.add_column("topic")
    table.add_column("partitions", justify="right")
    table.add_column("kept")
    table.add_column("state")
    for state in states:
        differences = "".join(f"\n{each.setting} is {each.found}, not {each.wanted}" for each in state.differences)
        table.add_row(
            state.topic.name,
            str(state.topic.n_partitions),
            _kept(state.topic),
            f"[{_STYLE[state.state]}]{state.state}[/]{differences}",
        )
    return table


def _kept(topic: Topic) -> str:
    if topic.config["cleanup.policy"] == "compact":
        return "last of each key"
    retention_ms = int(topic.config["retention.ms"])
    return "forever" if retention_ms == FOREVER_MS else f"{retention_ms / 86_400_000:g} days"
