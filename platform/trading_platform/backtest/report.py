"""A run as one HTML file that needs nothing else: figures, equity, drawdown, months, trades, parameters, hashes. Pure.

Plots are SVG drawn here. Nothing is loaded and nothing is executed: the page forbids both itself. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

WIDTH, HEIGHT = 960, 240
LEFT, RIGHT, TOP, BOTTOM = 84, 12, 12, 28
# Places of a plot that say their value when pointed at.
PLACES = 160
MOST_TRADES = 2_000
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

_STYLE = """
:root { color-scheme: light dark; --page: #fcfcfb; --ink: #1f2328; --quiet: #656d76; --line: #d8dee4; --band: #f3f4f4;
  --up: #1a7f37; --down: #c0362c; --equity: #0a66c2; --up-fill: 26 127 55; --down-fill: 192 54 44; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --ink: #e6e8eb; --quiet: #9aa4af; --line: #32383f; --band: #1d2126;
  --up: #4ac26b; --down: #ff7b6e; --equity: #5aa9f0; --up-fill: 74 194 107; --down-fill: 255 123 110; } }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; } p { margin: .2rem 0 1rem; color: var(--quiet); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .9rem; margin: 1.4rem 0; }
dl div { border-top: 1px solid var(--line); padding-top: .4rem; } dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--quiet); font-weight: 500; } .text { text-align: left; } td.text { white-space: normal; overflow-wrap: anywhere; }
.up { color: var(--up); } .down { color: var(--down); } .best td { background: var(--band); }
text { fill: var(--quiet); font: 12px system-ui, sans-serif; } .grid { stroke: var(--line); }
.curve { fill: none; stroke: var(--equity); stroke-width: 1.6; stroke-linejoin: round; }
.fall { fill: rgb(var(--down-fill) / .25); stroke: var(--down); }
.place { fill: transparent; } .place:hover { fill: rgb(128 128 128 / .18); }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>{style}</style></head><body>
{body}
</body></html>
"""


def report(document: Mapping[str, Any]) -> str:
    """Of a run's record (record.py, with details); of a sweep's best, the table of all its runs as well."""
    title = f"{document['strategy']} on {document['source']}"
    curve = [(datetime.fromisoformat(at).timestamp(), float(equity)) for at, equity in document["equity_curve"]]
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_day(document['first']))} to {escape(_day(document['last']))}, {document['ticks']:,} ticks, "
        f"{document['fills']:,} fills, {escape(str(document['parameters']['account']['currency']))}</p>",
        _figures(document),
        "<h2>Equity</h2>",
        _plot(curve, "curve"),
        "<h2>Drawdown</h2>",
        _plot(_drawdown(curve), "fall", percent=True),
        "<h2>Monthly returns</h2>",
        _months(document["monthly_returns"]),
    ]
    if "sweep" in document:
        parts += _sweep(document["sweep"])
    parts += [
        "<h2>Trades</h2>",
        _trades(document["trade_list"]),
        "<h2>What was refused</h2>",
        _pairs(document["denied_by_reason"].items(), "nothing"),
        "<h2>Parameters</h2>",
        _pairs(_flat(document["parameters"])),
        "<h2>What ran</h2>",
        _pairs(
            (
                ("data", document["data_hash"]),
                ("code", f"{document['code']['version']} {document['code']['hash']}"),
                ("order events", document["event_log_hash"]),
                ("fills", document["fills_hash"]),
            )
        ),
    ]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(parts))


def _figures(document: Mapping[str, Any]) -> str:
    trips, returns = document["round_trips"], document["returns"]
    shown = (
        ("Result", _amount(document["result"])),
        ("Equity", _amount(document["equity"])),
        ("Total return", _percent(returns["total_return"])),
        ("Greatest drawdown", _percent(returns["max_drawdown"])),
        ("Sharpe ratio", _amount(returns["sharpe_ratio"])),
        ("Sortino ratio", _amount(returns["sortino_ratio"])),
        ("Calmar ratio", _amount(returns["calmar_ratio"])),
        ("Round trips", f"{trips['round_trips']:,}"),
        ("Won", _percent(trips["round_trip_win_rate"])),
        ("Profit factor", _amount(trips["profit_factor"])),
        ("Expectancy", _amount(trips["expectancy"])),
        ("Fees", " ".join(f"{_amount(fee)} {name}" for name, fee in document["fees"].items()) or "0"),
    )
    return f"<dl>{''.join(f'<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in shown)}</dl>"


# --- plots ---------------------------------------------------------------------------------------------------------------


def _drawdown(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """How far below the highest before, as a share; never above zero."""
    falls, peak = [], -math.inf
    for at, equity in curve:
        peak = max(peak, equity)
        falls.append((at, equity / peak - 1 if peak > 0 else 0.0))
    return falls


def _plot(points: Sequence[tuple[float, float]], kind: str, *, percent: bool = False) -> str:
    """A line over time, or what is below zero filled. Pointing at it tells the value."""
    if len(points) < 2:
        return "<p>Nothing to draw.</p>"
    values = [value for _, value in points] + ([0.0] if percent else [])
    marks = _marks(min(values), max(values))
    low, high = min(marks[0], *values), max(marks[-1], *values)
    first, last = points[0][0], points[-1][0]

    def x(at: float) -> float:
        return LEFT + (at - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return TOP + (high - value) / ((high - low) or 1) * (HEIGHT - TOP - BOTTOM)

    def said(value: float) -> str:
        return f"{value:.2%}" if percent else f"{value:,.2f}"

    path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in points)
    drawn = [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{_label(mark, marks[1] - marks[0], percent)}</text>'
        for mark in marks
    ]
    for number in range(5):
        at = first + (last - first) * number / 4
        anchor = ("start", "middle", "middle", "middle", "end")[number]
        drawn.append(f'<text x="{x(at):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">{_moment(at, last - first)}</text>')
    if kind == "fall":
        path = f"{x(first):.1f},{y(0):.1f} {path} {x(last):.1f},{y(0):.1f}"
        drawn.append(f'<polygon class="fall" points="{path}"/>')
    else:
        drawn.append(f'<polyline class="{kind}" points="{path}"/>')
    step = max(1, math.ceil(len(points) / PLACES))
    for begin in range(0, len(points), step):
        at, value = points[begin]
        end = points[min(begin + step, len(points) - 1)][0]
        drawn.append(
            f'<rect class="place" x="{x(at):.1f}" y="{TOP}" width="{max(1.0, x(end) - x(at)):.1f}" height="{HEIGHT - TOP - BOTTOM}">'
            f"<title>{_moment(at, 0)}: {said(value)}</title></rect>"
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{kind} over time">{"".join(drawn)}</svg>'


def _marks(low: float, high: float) -> list[float]:
    """Round values about a quarter of the range apart, the outermost within or just outside of it."""
    if high <= low:
        room = abs(low) * 0.01 or 1.0
        low, high = low - room, high + room
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    return [round(step * number, 12) for number in range(math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6) + 1)]


def _label(value: float, step: float, percent: bool) -> str:
    """With as many digits as tell one mark from the next."""
    scale = 100 if percent else 1
    digits = next(digits for digits in range(16) if round(step * scale, digits) == round(step * scale, 10) or digits == 10)
    return f"{value * scale + 0.0:,.{digits}f}{'%' if percent else ''}"


def _moment(at: float, span: float) -> str:
    moment = datetime.fromtimestamp(at, UTC)
    return moment.strftime("%Y-%m-%d" if span > 4 * 86_400 else "%Y-%m-%d %H:%M")


# --- tables --------------------------------------------------------------------------------------------------------------


def _months(returns: Sequence[Sequence[str]]) -> str:
    if not returns:
        return "<p>No month has a day's end.</p>"
    found = {month: float(share) for month, share in returns}
    largest = max(abs(share) for share in found.values()) or 1.0
    years = sorted({month[:4] for month in found})
    rows = []
    for year in years:
        cells, whole = [], 1.0
        for number in range(1, 13):
            share = found.get(f"{year}-{number:02}")
            if share is None:
                cells.append("<td></td>")
                continue
            whole *= 1 + share
            tint = f"rgb(var(--{'up' if share >= 0 else 'down'}-fill) / {0.05 + 0.4 * abs(share) / largest:.2f})"
            cells.append(f'<td style="background:{tint}">{share:.2%}</td>')
        rows.append(f"<tr><th>{escape(year)}</th>{''.join(cells)}<td>{whole - 1:.2%}</td></tr>")
    head = _cells(("", *MONTHS, "Year"), "th")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _trades(trades: Sequence[Mapping[str, Any]]) -> str:
    if not trades:
        return "<p>None was closed.</p>"
    rows = []
    for trade in trades[:MOST_TRADES]:
        sign = "down" if float(trade["result"]) < 0 else "up"
        texts = (trade["symbol"], trade["direction"], _second(trade["opened_at"]), _second(trade["closed_at"]))
        numbers = (trade["quantity"], _amount(trade["volume"]), trade["fills"])
        rows.append(f"<tr>{_cells(texts, css='text')}{_cells(numbers)}{_cells([_amount(trade['result'])], css=sign)}</tr>")
    head = _cells(("Instrument", "Direction", "Opened", "Closed"), "th", "text") + _cells(("Quantity", "Volume", "Fills", "Result"), "th")
    more = f"<p>{len(trades) - MOST_TRADES:,} more are not shown.</p>" if len(trades) > MOST_TRADES else ""
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>{more}'


def _sweep(sweep: Mapping[str, Any]) -> list[str]:
    """Every run of a sweep, or every fold of a walk forward, the best first or in their order."""
    names = list(sweep["runs"][0])
    rows = []
    for number, run in enumerate(sweep["runs"]):
        css = ' class="best"' if number == 0 and "unseen" not in sweep else ""
        rows.append(f"<tr{css}>{_cells('–' if run.get(name) is None else run[name] for name in names)}</tr>")
    table = f'<div class="scroll"><table><tr>{_cells(names, "th")}</tr>{"".join(rows)}</table></div>'
    together = [_pairs(sweep["unseen"].items())] if "unseen" in sweep else []
    return [f"<h2>{escape(sweep['title'])}</h2>", table, *together]


def _pairs(pairs: Iterable[tuple[str, Any]], nothing: str = "none") -> str:
    rows = "".join(f"<tr>{_cells([name], 'th', 'text')}{_cells([value], 'td', 'text')}</tr>" for name, value in pairs)
    return f"<table>{rows}</table>" if rows else f"<p>{nothing}</p>"


def _cells(texts: Iterable[Any], of: str = "td", css: str = "") -> str:
    opening = f'<{of} class="{css}">' if css else f"<{of}>"
    return "".join(f"{opening}{escape(str(text))}</{of}>" for text in texts)


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """Names with dots for what is inside of what."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, ", ".join(map(str, value)) if isinstance(value, list) else value


def _amount(text: str | None) -> str:
    return "–" if text is None else f"{float(text):,.2f}"


def _percent(text: str | None) -> str:
    return "–" if text is None else f"{float(text):.2%}"


def _day(at: str) -> str:
    return datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M")


def _second(at: str) -> str:
    return datetime.fromisoformat(at).strftime("%Y-%m-%d %H:%M:%S")
