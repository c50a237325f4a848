"""The pictures are files of the right kind, whatever the run looked like."""

from __future__ import annotations

import imageio.v3 as imageio
import matplotlib
import numpy as np
import pytest

from metajax import plots, scores


def rows(count: int, env_steps: int = 100) -> list[dict]:
    return [
        {"update": 10 * i, "env_steps": env_steps * i, "score_before": 0.1 * i, "score_after": i}
        for i in range(1, count + 1)
    ]


def test_a_lone_line_of_metrics_is_seen(tmp_path):
    def blue(rows):
        path = tmp_path / f"{len(rows)}.png"
        plots.learning_curve(rows, path, title="maze, maml")
        red, _, blue, _ = np.moveaxis(imageio.imread(path).astype(int), -1, 0)
        return np.sum(blue - red > 100)

    row = {"update": 5, "env_steps": 100, "score_before": 0.1, "score_after": 0.4}
    without = {**row, "score_after": None}
    assert blue([row]) > blue([without]) + 20


@pytest.mark.parametrize("count", [0, 1, 2, 300])
@pytest.mark.parametrize("env_steps", [0, 100])
def test_a_learning_curve_of_any_length_is_drawn(tmp_path, count, env_steps):
    metrics = rows(count, env_steps)
    if count > 2:
        metrics[1]["score_after"] = None  # it was nan
    plots.learning_curve(metrics, tmp_path / "curve.png", title="maze, maml", oracle=1.0)
    assert imageio.imread(tmp_path / "curve.png").shape == (675, 1080, 4)


def test_a_users_own_settings_do_not_stop_a_drawing(tmp_path):
    path = tmp_path / "curve.png"
    plots.learning_curve(rows(9), path, title="maze, maml")
    drawn = path.read_bytes()
    with matplotlib.rc_context({"text.usetex": True, "savefig.format": "pdf", "figure.dpi": 30}):
        plots.learning_curve(rows(9), path, title="maze, maml")
    assert path.read_bytes() == drawn


@pytest.mark.parametrize("comparisons", [False, True])
def test_an_adaptation_curve_is_drawn(tmp_path, comparisons):
    random = np.random.default_rng(0)
    result = scores.Adaptation(random.normal(size=(9, 4)), np.zeros(9), np.ones(9))
    others = {"random initialisation": result, "multi-task policy": result}
    report = scores.report(
        result, preset="maze", algorithm="maml", comparisons=others if comparisons else None
    )
    plots.adaptation_curve(report, tmp_path / "curve.png", title="maze, maml")
    assert imageio.imread(tmp_path / "curve.png").shape == (675, 1080, 4)


def test_smoothing_keeps_a_constant_and_skips_what_is_missing():
    values = np.full(100, 2.0)
    values[40] = np.nan
    np.testing.assert_allclose(plots._smooth(values), 2.0)


def test_frames_become_a_gif_that_pauses_at_the_end(tmp_path):
    frames = np.zeros((4, 16, 24, 3), np.uint8)
    frames[:, 0, 0, 0] = [0, 80, 160, 240]
    plots.write_gif(frames, tmp_path / "a.gif", milliseconds=100, pause=900)
    assert imageio.imread(tmp_path / "a.gif").shape == (4, 16, 24, 3)
    durations = [imageio.immeta(tmp_path / "a.gif", index=i)["duration"] for i in range(4)]
    assert durations == [100, 100, 100, 900]
