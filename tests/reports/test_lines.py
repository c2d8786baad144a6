"""Line plots: nothing that is drawn leaves its axes."""

from __future__ import annotations

from matplotlib.figure import Figure

from mdlm_cfg.reports.pictures.lines import Lines


def test_small_multiples_share_a_scale_that_holds_all_lines() -> None:
    panels = {f"a long title of panel number {k}": {"y": ([0.0, 1.0], [0.1, 0.1 + k])} for k in range(3)}
    grid = Lines(panels, "x", "y").draw(Figure(layout="constrained"))
    assert {axes.get_ylim() for axes in grid.flat} == {grid[0, 0].get_ylim()}
    low, high = grid[0, 0].get_ylim()
    assert low == 0 and high >= 2.1
    for axes in grid.flat:
        widest = max(len(line) for line in axes.get_title(loc="left").split("\n"))
        assert widest <= 26
