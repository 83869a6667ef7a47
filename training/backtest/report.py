"""The report of a backtest: one HTML file that needs no network and no other file."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final

from stream.core.scales import DAY_MS, HOUR_MS, MINUTE_MS
from training.backtest.analysis import Analysis, Difference
from training.backtest.charts import COLOURS, Line, bars, intervals, lines
from training.backtest.run import BASELINES, Example

__all__ = ["STYLE", "colours_of", "report_html", "write_report"]

STYLE: Final = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; color: #1c2430; background: #fff;
       max-width: 900px; margin: 40px auto 80px; padding: 0 20px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; } h2 { font-size: 20px; margin: 44px 0 6px; }
h3 { font-size: 15px; margin: 26px 0 2px; } p { margin: 6px 0 12px; }
.note, .faint { color: #657083; } .note { font-size: 13.5px; }
table { border-collapse: collapse; width: 100%; margin: 10px 0 4px; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid #e3e7ee; }
th { font-weight: 600; color: #657083; font-size: 13px; } th:first-child, td:first-child { text-align: left; }
td { white-space: nowrap; } td:first-child { white-space: normal; } .many td { font-size: 12.5px; padding: 5px 6px; }
tr.best td { font-weight: 650; } .wide, .broad, .plot { overflow-x: auto; }
.broad { width: max-content; min-width: 100%; max-width: calc(100vw - 40px); position: relative; left: 50%;
         transform: translateX(-50%); }
svg { width: 100%; min-width: 740px; height: auto; display: block; } svg text { font-size: 12px; fill: #39424f; }
svg text.faint { fill: #8791a1; } .grid { stroke: #e8ebf1; } .zero { stroke: #8791a1; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0; font-size: 13.5px; }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(380px, 100%), 1fr)); gap: 12px; }
.example { border: 1px solid #e3e7ee; border-radius: 8px; padding: 10px 14px; font-size: 13.5px; }
.example ol { margin: 6px 0 0; padding-left: 26px; } .example li.hit { font-weight: 650; color: #1d7a46; }
.example code { background: #f2f4f8; border-radius: 4px; padding: 1px 5px; }
@media print { body { margin: 0 auto; } svg { min-width: 0; } h2 { break-after: avoid; }
               svg, .example { break-inside: avoid; } }
"""
_N_EXAMPLES: Final = 8
_FEWEST: Final = 20
"""Targets of a part that is shown: below, an interval says nothing and stretches the axis for all."""


def write_report(analysis: Analysis, path: Path, *, title: str) -> None:
    """Write the report of a backtest; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(report_html(analysis, title=title), encoding="utf-8")
    aside.replace(path)


def report_html(analysis: Analysis, *, title: str) -> str:
    """The report as text of a whole HTML document."""
    colour = colours_of(analysis)
    sections = [
        _heading(analysis, title),
        _overall(analysis),
        _over_time(analysis, colour),
        _significance(analysis, colour),
        _by_part(analysis, colour),
        _breadth(analysis),
        _calibration(analysis),
        _cost(analysis),
        _examples(analysis),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body></html>\n"
    )


def colours_of(analysis: Analysis) -> dict[str, str]:
    """Bundles first, so that they have the strongest colours; baselines are greys."""
    bundles = [outcome.name for outcome in analysis.outcomes if outcome.name not in BASELINES]
    greys = ("#5f6b7a", "#98a2b0", "#c3c9d2")
    baselines = [outcome.name for outcome in analysis.outcomes if outcome.name in BASELINES]
    colours = {name: COLOURS[at % len(COLOURS)] for at, name in enumerate(bundles)}
    return colours | {name: greys[at % len(greys)] for at, name in enumerate(reversed(baselines))}


def _named(name: str) -> str:
    return BASELINES.get(name, name)


def _moment(ms: int) -> str:
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M}"


def _heading(analysis: Analysis, title: str) -> str:
    log, targets, judged = analysis.material.log, analysis.targets, analysis.judged
    ts_ms = log.ts_ms[targets.row]
    n_users = len(set(log.user[targets.row].tolist()))
    rule = {
        "session": "the next new item of a session",
        "next": "the next item, however long the pause",
        "horizon": f"the next item within {_duration(judged.horizon_ms or 0)}",
    }[judged.rule]
    sample = "" if judged.sample == 1 else f" ({judged.sample:.0%} sample)"
    return (
        f"<h1>Backtest: {escape(title)}</h1>"
        f'<p class="note">{len(ts_ms):,} targets{sample} of {n_users:,} users, from {_moment(int(ts_ms.min()))} to '
        f"{_moment(int(ts_ms.max()))} UTC; {len(log):,} events replayed, each recommended for, looked at and only then "
        f"learned from. A target is {rule}; a hit is a target among the {analysis.k} items recommended right after the "
        "event before it. All items compete; an item that could not be recommended is a miss.</p>"
    )


def _overall(analysis: Analysis) -> str:
    k = analysis.k
    ranked = sorted(analysis.outcomes, key=lambda each: -analysis.overall[each.name]["hr"].mean)
    rows = "".join(
        f"<tr{' class=best' if at == 0 else ''}><td>{escape(_named(each.name))}</td>"
        + "".join(f"<td>{analysis.overall[each.name][metric].mean:.4f}</td>" for metric in ("hr", "ndcg", "mrr"))
        + f"<td>{analysis.overall[each.name]['hr'].low:.4f} to {analysis.overall[each.name]['hr'].high:.4f}</td></tr>"
        for at, each in enumerate(ranked)
    )
    return (
        f'<h2>Overall</h2><div class="wide"><table><tr><th></th><th>HR@{k}</th><th>NDCG@{k}</th><th>MRR@{k}</th>'
        f"<th>HR@{k}, 95 % interval</th></tr>{rows}</table></div>"
        '<p class="note">Intervals by drawing users anew (bootstrap), since targets of one user are alike.</p>'
    )


def _over_time(analysis: Analysis, colour: dict[str, str]) -> str:
    course = analysis.course
    drawn = [
        Line(_named(name), colour[name], course.hit_rate[name].tolist(), faint=name in BASELINES) for name in colour
    ]
    chart = lines(course.ends_ms.tolist(), drawn, label=f"HR@{analysis.k} over time")
    return (
        f"<h2>Over time</h2>{chart}"
        f'<p class="note">HR@{analysis.k} in sliding windows of {_duration(course.width_ms)}, by event time (UTC); '
        "windows with fewer than 20 targets are left out.</p>"
    )


def _significance(analysis: Analysis, colour: dict[str, str]) -> str:
    if not analysis.differences:
        return ""
    rows = [
        (f"{each.two} \N{MINUS SIGN} {_named(each.one)}", {each.two: each.by_metric["hr"]})
        for each in analysis.differences
    ]
    shown = {name: colour[name] for name in colour if name not in BASELINES}
    notes = [_p(each) for each in analysis.differences]
    chart = intervals(rows, shown, label="Differences in hit rate", notes=notes, signed=True)
    table = "".join(
        f"<tr><td>{escape(each.two)} \N{MINUS SIGN} {escape(_named(each.one))}</td>"
        + "".join(
            f"<td>{i.mean:+.4f} <span class=faint>{i.low:+.3f} to {i.high:+.3f}</span></td>".replace(
                "-", "\N{MINUS SIGN}"
            )
            for i in (each.by_metric[metric] for metric in ("hr", "ndcg", "mrr"))
        )
        + "</tr>"
        for each in analysis.differences
    )
    return (
        f'<h2>Differences</h2>{chart}<div class="wide"><table class="many"><tr><th></th><th>HR@{analysis.k}</th>'
        f"<th>NDCG@{analysis.k}</th><th>MRR@{analysis.k}</th></tr>{table}</table></div>"
        '<p class="note">Paired: the same targets, and the same draws of users, on both sides. An interval that does '
        "not touch zero is a difference that chance does not explain.</p>"
    )


def _p(each: Difference) -> str:
    p = each.by_metric["hr"].p
    return "p < 0.001" if p <= 0.001 else f"p = {p:.3f}"


def _by_part(analysis: Analysis, colour: dict[str, str]) -> str:
    shown = {_named(name): colour[name] for name in colour}
    sections: list[str] = []
    n_left_out = sum(part.n_targets < _FEWEST for part in analysis.parts)
    for by, parts in groupby(analysis.parts, key=lambda part: part.by):
        several = [part for part in parts if part.n_targets >= _FEWEST]
        if len(several) < 2:
            continue
        rows = [(part.label, {_named(name): interval for name, interval in part.hit_rate.items()}) for part in several]
        notes = [f"{part.n_targets:,} targets" for part in several]
        chart = intervals(rows, shown, label=f"HR by {by}", notes=notes, with_legend=not sections)
        sections.append(f"<h3>By {escape(by)}</h3>{chart}")
    if n_left_out > 0:
        sections.append(f'<p class="note">Parts with fewer than {_FEWEST} targets are left out.</p>')
    return f"<h2>HR@{analysis.k} by part</h2>" + "".join(sections)


def _breadth(analysis: Analysis) -> str:
    rows = "".join(
        f"<tr><td>{escape(_named(each.name))}</td><td>{b.n_items:,}</td><td>{b.coverage:.1%}</td>"
        f"<td>{b.top_share:.1%}</td><td>{b.gini:.2f}</td></tr>"
        for each in analysis.outcomes
        for b in (analysis.breadth[each.name],)
    )
    wanted = next(iter(analysis.breadth.values())).top_share_wanted
    return (
        '<h2>Coverage and popularity</h2><div class="wide"><table><tr><th></th><th>distinct items</th><th>coverage</th>'
        f"<th>share of the top 1 %</th><th>Gini</th></tr>{rows}</table></div>"
        '<p class="note">Coverage: of the items that users touched, the share that was recommended at least once. '
        f"The top 1 % of these items are {wanted:.1%} of the targets: a larger share among recommendations is a bias "
        "towards what is popular. Gini: 0 when all recommended items come equally often.</p>"
    )


def _calibration(analysis: Analysis) -> str:
    charts = "".join(
        f"<h3>{escape(name)}</h3>"
        + bars([(f"{at + 1}", rate) for at, rate in enumerate(each.hit_rate)], label=f"Hit rate by lead, {name}")
        for name, each in analysis.calibration.items()
    )
    if not charts:
        return ""
    return (
        f"<h2>What scores mean</h2>{charts}"
        f'<p class="note">HR@{analysis.k} by how far the best item leads the last of the list: targets in tenths, the '
        "smallest lead first. Rising bars say that a surer list is a better one.</p>"
    )


def _cost(analysis: Analysis) -> str:
    seen: set[tuple[float, int]] = set()
    rows = ""
    for each in analysis.outcomes:
        name = "all baselines together" if each.name in BASELINES else each.name
        if (each.seconds, each.n_scored) in seen:
            continue
        seen.add((each.seconds, each.n_scored))
        rate = each.n_events / each.seconds if each.seconds > 0 else 0.0
        rows += (
            f"<tr><td>{escape(name)}</td><td>{each.n_events:,}</td><td>{each.n_scored:,}</td>"
            f"<td>{each.seconds:,.1f}</td><td>{rate:,.0f}</td></tr>"
        )
    return (
        '<h2>Cost</h2><div class="wide"><table><tr><th></th><th>events</th><th>of them recommended for</th>'
        f"<th>seconds</th><th>events/s</th></tr>{rows}</table></div>"
    )


def _examples(analysis: Analysis) -> str:
    boxes = [
        _example(analysis, outcome.name, each)
        for outcome in analysis.outcomes
        for each in _spread(outcome.examples, _N_EXAMPLES)
    ]
    return f'<h2>Examples</h2><div class="examples">{"".join(boxes)}</div>' if boxes else ""


def _example(analysis: Analysis, name: str, each: Example) -> str:
    log, material = analysis.material.log, analysis.material
    row = int(analysis.targets.row[each.target])
    titles = {update.item_id: update.title for update in material.items if update.title}
    wanted = log.item_ids[int(log.item[row])]

    def shown(item_id: str) -> str:
        return escape(f"{titles[item_id]} ({item_id})" if item_id in titles else item_id)

    listed = "".join(
        f"<li{' class=hit' if item == wanted else ''}>{shown(item)} <span class=faint>{score:.2f} "
        f"{escape(', '.join(reasons))}</span></li>"
        for item, score, reasons in zip(each.items, each.scores, each.reasons, strict=True)
    )
    past = " \N{RIGHTWARDS ARROW} ".join(f"<code>{shown(item)}</code>" for item in each.past)
    hit = f"at place {each.items.index(wanted) + 1}" if wanted in each.items else "not among them"
    return (
        f'<div class="example"><b>{escape(name)}</b>, {_moment(int(log.ts_ms[row]))}: {past}<br>'
        f"then came <code>{shown(wanted)}</code>, {hit}:<ol>{listed}</ol></div>"
    )


def _spread(examples: Sequence[Example], n: int) -> Sequence[Example]:
    return examples if len(examples) <= n else [examples[at * len(examples) // n] for at in range(n)]


def _duration(ms: int) -> str:
    for unit_ms, unit in ((DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute"), (1000, "second")):
        if ms >= unit_ms and ms % unit_ms == 0:
            n = ms // unit_ms
            return f"{n} {unit}{'' if n == 1 else 's'}"
    return f"{ms} ms"
