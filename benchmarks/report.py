"""One page of all measurements: a table of each part of each record, with plots.

    python benchmarks/report.py                          # benchmarks/results -> report.html
    python benchmarks/report.py figures/*.json --out page.html

The page embeds its pictures and loads nothing from elsewhere.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
from guard import ratios
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from support import records

_RESULTS = Path(__file__).resolve().parent / "results"
_STYLE = """body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
td, th { padding: .15rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left } svg, img { max-width: 100%; height: auto }
.where { color: #666 }"""  # noqa: E501


@dataclasses.dataclass(frozen=True)
class Options:
    """Makes a page from records."""

    records: tyro.conf.Positional[tuple[Path, ...]] = ()
    """JSON files; all of benchmarks/results by default."""
    out: Path = Path("report.html")
    """The page to write."""


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{str(key).replace('_', ' ')} {_cell(leaf)}" for key, leaf in value.items()
        )
    if isinstance(value, list | tuple):
        return ", ".join(_cell(leaf) for leaf in value)
    return "" if value is None else str(value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same kind as HTML; a column for every key that any of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(str(c).replace('_', ' '))}</th>" for c in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_cell(row.get(c)))}</td>" for c in columns) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def part(name: str, content: Any) -> str:
    """One part of a record: a list of rows, rows or groups of rows by name, or figures by name."""
    title = f"<h3>{html.escape(name.replace('_', ' '))}</h3>"
    if isinstance(content, Mapping) and content:
        rows = [
            row
            for group in content.values()
            if isinstance(group, Mapping)
            for row in group.values()
        ]
        if rows and all(isinstance(row, Mapping) for row in rows):
            return "".join(part(f"{name}: {key}", group) for key, group in content.items())
        if all(isinstance(value, Mapping) for value in content.values()):
            return title + table([{"": key, **value} for key, value in content.items()])
        return title + table([{"": key, "value": value} for key, value in content.items()])
    if isinstance(content, list) and content:
        if all(isinstance(value, Mapping) for value in content):
            return title + table(content)
        return title + f"<p>{html.escape(_cell(content))}</p>"
    return ""


def _svg(figure: Figure) -> str:
    FigureCanvasSVG(figure)
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return out.getvalue()[out.getvalue().index("<svg") :]


def bars(record: Mapping[str, Any]) -> str:
    """Ratios of a record as bars on a logarithmic scale, if it has any."""
    found = [(name, value) for name, value in ratios(record) if value > 0]
    if not found:
        return ""
    figure = Figure(figsize=(8, 0.6 + 0.3 * len(found)), layout="constrained")
    axes = figure.subplots()
    names = [name for name, _ in found][::-1]
    drawn = axes.barh(names, [value for _, value in found][::-1], color="#0072B2")
    axes.bar_label(drawn, fmt="%.1f", padding=3, fontsize=8)
    axes.axvline(1, color="0.3", linewidth=1)
    axes.set(xscale="log", xlabel="times as fast as the other side")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def lines(rows: Any, x: str, y: str) -> str:
    """`y` over `x`, both logarithmic, with a line per name and flags; none if `x` is the same."""
    if not isinstance(rows, list) or len({row.get(x) for row in rows if isinstance(row, dict)}) < 2:
        return ""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        flags = [key.replace("_", " ") for key, value in row.items() if value is True]
        series.setdefault(", ".join([row.get("name", ""), *flags]), []).append((row[x], row[y]))
    for name, points in series.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7)
    return _svg(figure)


def _pictures(record: Path) -> list[Path]:
    """The pictures beside a record: of its name, or of its parts where they have no record."""
    script, _, machine = record.stem.partition("-")
    of_parts = record.parent.glob(f"{script}-*{machine}.png")
    alone = [picture for picture in of_parts if not picture.with_suffix(".json").exists()]
    return sorted({*record.parent.glob(f"{record.stem}.png"), *alone})


def _embedded(picture: Path) -> str:
    content = base64.b64encode(picture.read_bytes()).decode()
    return f'<p><img alt="{html.escape(picture.stem)}" src="data:image/png;base64,{content}"></p>'


def section(path: Path) -> str:
    """The section of one record."""
    record = records.read(path)
    stamps = ("hardware", "date", "commit", "versions")
    where = [_cell(record.pop(key)) for key in stamps if record.get(key)]
    scalars = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    parts = [part(name, content) for name, content in record.items() if name not in scalars]
    return "".join(
        [
            f"<h2>{html.escape(path.stem)}</h2>",
            f"<p class=where>{html.escape('; '.join(where))}</p>",
            bars(record),
            lines(record.get("steps"), "environments", "steps_per_s"),
            *map(_embedded, _pictures(path)),
            part("", scalars) if scalars else "",
            *parts,
        ]
    )


def main() -> int:
    """Writes the page."""
    options = tyro.cli(Options)
    paths = options.records or tuple(sorted(_RESULTS.glob("*.json")))
    sections = [section(path) for path in paths]
    head = (
        f"<!doctype html><meta charset=utf-8><title>metajax: figures</title><style>{_STYLE}</style>"
    )
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(f"{head}<h1>metajax: what was measured</h1>{''.join(sections)}")
    except OSError as error:  # a folder, or in what is no folder
        records.refuse(f"out: {options.out}: {error.strerror}")
    print(f"{len(paths)} records in {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
