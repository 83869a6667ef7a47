"""What a comparison came to: one entry for each model and protocol, as a table, as JSON and as a chart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from training.backtest.charts import COLOURS, intervals
from training.backtest.report import STYLE
from training.backtest.significance import Interval, gains, paired_difference, share_interval
from training.compare.baselines import BASELINES
from training.compare.rows import Result
from training.compare.task import K, Protocol

__all__ = ["Entry", "markdown", "summarise", "write_files"]

_COLUMNS: Final = (
    "HR@10",
    "NDCG@10",
    "95 %",
    "seeds",
    "over best baseline",
    "over tempo",
    "coverage",
    "µs/event",
    "state bytes",
    "train s",
    "parameters",
)
_REFERENCE: Final = "tempo"
PROTOCOL_NAMES: Final[dict[Protocol, str]] = {"loo": "leave-one-out", "time": "global time split"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One model under one protocol, over all its seeds.

    Attributes:
        ndcg, hr: mean over targets and seeds, with a 95 % interval from drawing users anew.
        by_seed: NDCG@10 of each seed.
        against_baseline: NDCG@10 less that of the best baseline, paired by target; None for that baseline itself.
        against_tempo: the same against tempo; None for tempo, or where it did not run.
        figures: means over seeds of everything else that a row has.
    """

    model: str
    protocol: Protocol
    seeds: tuple[int, ...]
    ndcg: Interval
    hr: Interval
    by_seed: tuple[float, ...]
    against_baseline: Interval | None
    against_tempo: Interval | None
    figures: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """The entry as one flat object of plain values."""
        plain: dict[str, Any] = {
            "model": self.model,
            "protocol": self.protocol,
            "seeds": list(self.seeds),
            "hr_at_10": round(self.hr.mean, 5),
            "ndcg_at_10": round(self.ndcg.mean, 5),
            **{name: None if value is None else round(value, 5) for name, value in self.figures.items()},
            "hr_interval": [round(self.hr.low, 5), round(self.hr.high, 5)],
            "ndcg_interval": [round(self.ndcg.low, 5), round(self.ndcg.high, 5)],
            "ndcg_by_seed": [round(value, 5) for value in self.by_seed],
        }
        for name, each in (("best_baseline", self.against_baseline), ("tempo", self.against_tempo)):
            plain[f"against_{name}"] = None if each is None else asdict(each)
        return plain


def summarise(results: Sequence[Result]) -> list[Entry]:
    """Entries in the order in which the models came, protocol by protocol."""
    groups: dict[tuple[Protocol, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.row.protocol, result.row.model), []).append(result)
    gain = {key: _gain(group, "ndcg") for key, group in groups.items()}
    entries = []
    for (protocol, model), group in groups.items():
        rivals = [name for p, name in groups if p == protocol and name in BASELINES]
        best = max(rivals, key=lambda name: float(gain[protocol, name].mean()), default=None)
        own, user = gain[protocol, model], group[0].user
        entries.append(
            Entry(
                model,
                protocol,
                tuple(result.row.seed for result in group),
                share_interval(own, user),
                share_interval(_gain(group, "hr"), user),
                tuple(result.row.ndcg_at_10 for result in group),
                None if best in (None, model) else paired_difference(gain[protocol, str(best)], own, user),
                None
                if model == _REFERENCE or (protocol, _REFERENCE) not in gain
                else paired_difference(gain[protocol, _REFERENCE], own, user),
                _figures(group),
            )
        )
    return entries


def markdown(entries: Sequence[Entry]) -> str:
    """One table for each protocol."""
    parts = []
    for protocol in dict.fromkeys(entry.protocol for entry in entries):
        rows = [entry for entry in entries if entry.protocol == protocol]
        lines = [
            f"### {PROTOCOL_NAMES[protocol]}",
            "",
            "| | " + " | ".join(_COLUMNS) + " |",
            "|---" * (1 + len(_COLUMNS)) + "|",
        ]
        lines += ["| " + " | ".join(_cells(entry)) + " |" for entry in rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def write_files(entries: Sequence[Entry], folder: Path, *, title: str) -> None:
    """`table.json`, `table.md` and `comparison.html` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.json").write_text(json.dumps([entry.to_json() for entry in entries], indent=1) + "\n")
    (folder / "table.md").write_text(markdown(entries))
    (folder / "comparison.html").write_text(_page(entries, title), encoding="utf-8")


def _gain(group: Sequence[Result], metric: str) -> NDArray[np.float64]:
    """(R,) what each target contributes, the mean over seeds."""
    total: NDArray[np.float64] = np.mean([gains(result.place, K)[metric] for result in group], axis=0)
    return total


def _figures(group: Sequence[Result]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name in ("mrr_at_10", "coverage", "novelty", "us_per_event", "state_bytes", "train_s", "n_parameters", "row_s"):
        values = [getattr(result.row, name) for result in group]
        found[name] = None if None in values else float(np.mean(values))
    return found


def _cells(entry: Entry) -> list[str]:
    figures = entry.figures
    spread = f"{min(entry.by_seed):.3f} to {max(entry.by_seed):.3f}" if len(entry.by_seed) > 1 else "1"
    learnt = bool(figures["n_parameters"])
    return [
        entry.model.replace("_", " "),
        f"{entry.hr.mean:.3f}",
        f"{entry.ndcg.mean:.4f}",
        f"{entry.ndcg.low:.3f} to {entry.ndcg.high:.3f}",
        spread if learnt else "",
        _difference(entry.against_baseline),
        _difference(entry.against_tempo),
        f"{figures['coverage']:.2f}",
        "" if figures["us_per_event"] is None else f"{figures['us_per_event']:.1f}",
        f"{figures['state_bytes']:.0f}" if learnt else "",
        f"{figures['train_s']:.0f}" if learnt else "",
        f"{figures['n_parameters']:,.0f}" if learnt else "",
    ]


def _difference(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{interval.mean:+.4f} (p {interval.p:.3f})".replace("-", "\N{MINUS SIGN}")


def _page(entries: Sequence[Entry], title: str) -> str:
    sections = []
    for protocol in dict.fromkeys(entry.protocol for entry in entries):
        rows = [entry for entry in entries if entry.protocol == protocol]
        chart = intervals(
            [(entry.model.replace("_", " "), {"NDCG@10": entry.ndcg}) for entry in rows],
            {"NDCG@10": COLOURS[0]},
            label=f"NDCG@10, {PROTOCOL_NAMES[protocol]}",
            notes=[f"{entry.ndcg.mean:.4f}" for entry in rows],
        )
        cells = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(entry)) + "</tr>" for entry in rows
        )
        head = "".join(f"<th>{name}</th>" for name in ("", *_COLUMNS))
        sections.append(
            f"<h2>{PROTOCOL_NAMES[protocol].capitalize()}</h2>{chart}"
            f'<div class="broad"><table class="many"><tr>{head}</tr>{cells}</table></div>'
        )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>"
        '<p class="note">Figures at 10 over the whole catalogue. Intervals and p-values come from drawing users anew; '
        "differences are paired by target.</p>\n" + "\n".join(sections) + "\n</body></html>\n"
    )
