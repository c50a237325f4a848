"""Pictures of a run: the learning curve, the adaptation curve, and frames as a GIF."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator

__all__ = ["adaptation_curve", "learning_curve", "side_by_side", "write_gif", "write_png"]

# Okabe and Ito's palette, distinct to every kind of colour vision; line styles and markers differ
# too, for print.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#666666"
_ROWS = ((_BLUE, "o", "-"), (_ORANGE, "s", "--"), (_GREEN, "^", "-."), (_GREY, "D", ":"))
_SMOOTHED_SHARE = 20  # a point of the smooth line is the mean of a twentieth of the run


# The user's own settings may ask for what is not there, such as LaTeX.
_ours = matplotlib.style.context("default")


@_ours
def learning_curve(
    rows: Sequence[Mapping[str, Any]],
    path: str | os.PathLike[str],
    *,
    title: str,
    oracle: float | None = None,
    samples: str = "environment steps",
) -> None:
    """Draws the score on training tasks, before and after adaptation, against updates.

    Args:
        rows: of `metrics.jsonl`.
        path: the PNG to write.
        title: above the picture.
        oracle: the best mean score, where known; a dashed line.
        samples: what `env_steps` counts.
    """
    figure, axes = _figure(title)
    updates = np.array([row["update"] for row in rows])
    series = (
        ("score_before", "before adaptation", _ORANGE, "--"),
        ("score_after", "after adaptation", _BLUE, "-"),
    )
    for name, label, colour, style in series if rows else ():
        score = np.array([row.get(name) for row in rows], dtype=float)  # null becomes nan
        axes.plot(updates, score, color=colour, linewidth=0.8, alpha=0.3)
        # A single point is no line; it lies on the right edge.
        alone = {"marker": "o", "clip_on": False} if len(rows) == 1 else {}
        smooth = _smooth(score)
        axes.plot(updates, smooth, style, color=colour, linewidth=2, label=label, **alone)
    _draw_oracle(axes, oracle)
    axes.set_xlabel("updates")
    axes.set_ylabel("score on training tasks")
    axes.set_xlim(left=0, right=updates[-1] if rows else 1)
    if rows and rows[-1].get("env_steps"):
        pace = rows[-1]["env_steps"] / updates[-1]
        above = axes.secondary_xaxis("top", (lambda x: x * pace, lambda x: x / pace))
        above.xaxis.set_major_formatter(EngFormatter(sep=""))
        above.set_xlabel(samples, color=_GREY)
        above.tick_params(colors=_GREY)
    _save(figure, axes, path)


@_ours
def adaptation_curve(
    report: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    title: str,
    unit: str = "inner step",
) -> None:
    """Draws the score on held-out tasks against inner steps, with 95% intervals.

    Args:
        report: of `scores.report`, the content of `adaptation.json`.
        path: the PNG to write.
        title: above the picture.
        unit: what a step is.
    """
    figure, axes = _figure(title)
    rows = {report["algorithm"]: report, **report.get("comparisons", {})}
    for (label, row), (colour, marker, style) in zip(rows.items(), _ROWS, strict=False):
        mean = np.array(row["mean"], dtype=float)
        low, high = np.array(row["ci95"], dtype=float).T
        steps = report["steps"]
        axes.fill_between(steps, low, high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            steps, mean, style, color=colour, marker=marker, markersize=6, linewidth=2, label=label
        )
    _draw_oracle(axes, report["oracle"])
    axes.set_xlabel(f"{unit}s")
    axes.set_ylabel(f"score on {report['tasks']} held-out tasks")
    alone = len(report["steps"]) == 1  # has no range to put ticks in
    axes.xaxis.set_major_locator(FixedLocator([0]) if alone else MaxNLocator(integer=True))
    _save(figure, axes, path)


def side_by_side(films: Mapping[str, np.ndarray], *, gap: int = 16, header: int = 36) -> np.ndarray:
    """Several films as one, each under its title; the shorter ones stay at their last frame.

    Args:
        films: title -> (F, height, width, 3) uint8, all of one height and width.
        gap: pixels between them and around.
        header: pixels of height for the titles.

    Returns:
        (longest F, height + header + gap, widths and gaps, 3) uint8.
    """
    length = max(map(len, films.values()))
    shape = next(iter(films.values())).shape
    columns = []
    for title, film in films.items():
        held = np.concatenate([film, np.repeat(film[-1:], length - len(film), axis=0)])
        band = np.broadcast_to(_title(title, shape[2], header), (length, header, shape[2], 3))
        columns.append(np.concatenate([band, held], axis=1))
    margin = np.full((length, shape[1] + header, gap, 3), 255, np.uint8)
    joined = [part for column in columns for part in (margin, column)]
    row = np.concatenate([*joined, margin], axis=2)
    return np.pad(row, ((0, 0), (0, gap), (0, 0), (0, 0)), constant_values=255)


@_ours
def _title(text: str, width: int, height: int) -> np.ndarray:
    """Dark text on white, (height, width, 3) uint8."""
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.text(0.5, 0.45, text, ha="center", va="center", fontsize=11, color="#222222")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def write_png(picture: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Writes a picture, (height, width, 3) uint8."""
    import imageio.v3 as imageio

    imageio.imwrite(os.fspath(path), picture)


def write_gif(
    frames: np.ndarray | Sequence[np.ndarray],
    path: str | os.PathLike[str],
    *,
    milliseconds: int = 120,
    pause: int = 1200,
) -> None:
    """Writes frames as an endless GIF.

    Args:
        frames: (F, height, width, 3) uint8.
        path: the file to write.
        milliseconds: how long a frame stays.
        pause: milliseconds that the last frame stays.
    """
    import imageio.v3 as imageio

    durations = [milliseconds] * (len(frames) - 1) + [pause]
    imageio.imwrite(os.fspath(path), np.stack(list(frames)), duration=durations, loop=0)


def _figure(title: str) -> tuple[Figure, Axes]:
    # Not pyplot: it would keep the figure, and ask for a display.
    figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontweight="bold", pad=10)
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_oracle(axes: Axes, oracle: float | None) -> None:
    if oracle is not None:
        axes.axhline(oracle, color="black", linestyle=(0, (6, 4)), linewidth=1.2, label="optimal")


def _save(figure: Figure, axes: Axes, path: str | os.PathLike[str]) -> None:
    if not axes.get_lines():
        axes.annotate("nothing was logged", (0.5, 0.5), xycoords="axes fraction", ha="center")
    figure.legend(frameon=False, loc="outside lower center", ncols=4)  # beside the curves, not on
    figure.savefig(os.fspath(path))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving mean, over fewer values toward the ends; nan where there is nothing."""
    width = len(values) // _SMOOTHED_SHARE | 1
    known = np.isfinite(values)
    kernel = np.ones(width)
    total = np.convolve(np.where(known, values, 0.0), kernel, "same")
    count = np.convolve(known.astype(float), kernel, "same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
