"""`polytempo rekey`: carry the users' states over to a new secret."""

from __future__ import annotations

from dataclasses import asdict

from stream.cli.console import people, print_json, progress, results
from stream.cli.options import KafkaOptions
from stream.kafka.topics import TopicNames

__all__ = ["rekey"]


def rekey(*, json: bool = False, connection: KafkaOptions | None = None) -> None:
    """Carry the users' states over to the newest key of POLYTEMPO_USER_KEYS, while no worker runs.

    Keys are NAME:HEX with commas or lines between, the oldest first; POLYTEMPO_USER_KEYS_FILE names a file of them. To
    renew: append a key, start the workers with it - states of users who come by move by themselves - and, once they can
    be stopped for a while, carry over the rest with this. Old keys stay in the list: a new one hashes their results on.

    For example:

        openssl rand -hex 32
        POLYTEMPO_USER_KEYS_FILE=/etc/polytempo/keys polytempo rekey --json

    Args:
        json: Print one line: {"n_carried": ..., "n_current": ...}.
    """
    from stream.rekey import rekey as carry
    from stream.wire.userkeys import UserKeys

    connection = KafkaOptions() if connection is None else connection
    with progress(unit="records", transient=True) as bar:
        task = bar.add_task("reading", total=None)
        done = carry(
            connection.settings(),
            TopicNames(connection.prefix),
            UserKeys.read(),
            on_progress=lambda n, n_all: bar.update(task, completed=n, total=n_all),
        )
    if json:
        print_json(asdict(done))
        return
    results.print(f"{done.n_carried:,} states carried over, {done.n_current:,} had the newest key")
    people.print("Workers with their own files of states (--store rocksdb) read the difference when they start.")
