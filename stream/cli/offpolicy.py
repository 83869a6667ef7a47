"""`polytempo offpolicy`: what another bundle would have earned, from lists that were drawn."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from stream.cli.console import people, print_json, progress, results
from stream.cli.options import KafkaOptions
from stream.cli.replaying import read_answers
from stream.errors import PolytempoError
from stream.kafka.topics import TopicNames

__all__ = ["offpolicy"]

_FEW_EFFECTIVE = 100


def offpolicy(
    experiment: Path,
    *,
    target: Annotated[Path, Parameter(name=["--target", "-t"])],
    variant: str | None = None,
    since: str | None = None,
    until: str | None = None,
    sample: float = 1.0,
    json: bool = False,
    connection: KafkaOptions | None = None,
) -> None:
    """Estimate how many outcomes a list another bundle would have had, from lists that were drawn to explore.

    Published lists of variants with `exploration` are replayed as the other bundle would see them; what it would have
    shown there is weighted by how likely that was. Outcomes come from `polytempo feedback`, which must have joined
    them. Nothing is joined or committed here.

    Examples:

    `polytempo offpolicy experiment.toml --target models/next`

    `polytempo offpolicy experiment.toml --target other.toml --variant explore --json`

    Args:
        experiment: Experiment file that the lists were made with.
        target: Bundle folder, channel or experiment file of the other policy.
        variant: Variant of the target, where it is an experiment. Left out: the first.
        since: Only lists for events from this time on: 2024-01-31, 2024-01-31T12:00 (UTC) or epoch milliseconds.
        until: Only lists for events before this time.
        sample: Share of the lists that is used.
        json: Print one line: {"logged": {...}, "snips": {...}, "n_effective": ..., ...}.
    """
    from stream.bundle.service import load_service
    from stream.feedback.codec import decode_feedback
    from stream.feedback.offpolicy import estimate
    from stream.replay.offpolicy import judge_lists
    from stream.replay.topics import TopicReader
    from stream.wire.messages import Outcome

    connection = KafkaOptions() if connection is None else connection
    settings, names = connection.settings(), TopicNames(connection.prefix)
    service, other = load_service(experiment), load_service(target)
    arms = [arm for arm in other.arms if variant in (None, arm.variant)]
    if not arms:
        raise PolytempoError(f"{target} has no variant {variant!r}.")
    hits: dict[str, set[int]] = {}
    with progress(unit="lists", transient=True) as bar:
        with TopicReader(settings) as reader:
            answers = read_answers(reader, names, bar, since=since, until=until, sample=sample)
            for _, records in reader.read(names.feedback, reader.bounds(names.feedback)):
                for record in records:
                    found = decode_feedback(record.value)
                    if isinstance(found, Outcome) and found.position is not None:
                        hits.setdefault(found.rec_id, set()).add(found.position)
        replaying = bar.add_task("replaying", total=None)
        lists = judge_lists(
            settings,
            names,
            answers,
            service,
            arms[0],
            hits,
            on_progress=lambda done, n_all: bar.update(replaying, completed=done, total=n_all),
        )
    if len(lists.target) == 0:
        raise PolytempoError("none of the lists that were drawn can be replayed.")
    if not hits:
        people.print("no outcome has been joined yet; `polytempo feedback` does that.", style="yellow")
    said = estimate(lists.target, lists.logged, lists.outcomes, lists.user)
    if json:
        print_json({"target": arms[0].bundle.reference, **asdict(said), "n_left_out": lists.n_left_out})
        return
    table = Table(title=f"{arms[0].bundle.reference}: outcomes a list", title_justify="left")
    for column in ("estimate", "value", "95 % interval"):
        table.add_column(column, justify="left" if column == "estimate" else "right")
    for name, words in (
        ("logged", "what was shown"),
        ("ips", "inverse propensity"),
        ("snips", "self-normalised"),
        ("dr", "doubly robust"),
        ("whole", "whole lists"),
    ):
        each = getattr(said, name)
        table.add_row(words, f"{each.value:.4f}", f"{each.low:.4f} to {each.high:.4f}")
    results.print(table)
    results.print(
        f"{said.n:,} lists of {said.n_users:,} users, {said.n_supported:,} of them possible under the other policy; "
        f"they are worth {said.n_effective:,.0f} of its own. Mean weight {said.mean_weight:.2f}."
    )
    if said.n_effective < _FEW_EFFECTIVE:
        people.print(
            "That is too few to believe in an interval; explore more, or compare closer policies.", style="yellow"
        )
