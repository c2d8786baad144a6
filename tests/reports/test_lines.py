"""Line plots: nothing that is drawn leaves its axes."""

from __future__ import annotations

import warnings
from itertools import pairwise

import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from mdlm_cfg.reports.pictures import lines
from mdlm_cfg.reports.pictures.lines import TITLE, Lines
from mdlm_cfg.reports.style import RC, empty_figure


def test_small_multiples_share_a_scale_that_holds_all_lines() -> None:
    panels = {f"a long title of panel number {k}": {"y": ([0.0, 1.0], [0.1, 0.1 + k])} for k in range(3)}
    grid = Lines(panels, "x", "y").draw(Figure(layout="constrained"))
    assert {axes.get_ylim() for axes in grid.flat} == {grid[0, 0].get_ylim()}
    low, high = grid[0, 0].get_ylim()
    assert low == 0 and high >= 2.1


def test_a_title_of_the_longest_line_does_not_reach_the_next_panel() -> None:
    first = "start = sampled_confidence, {} at"
    assert len(first.format(0)) == TITLE
    panels = {f"{first.format(k)} and more": {"y": ([0.0, 1.0], [0.1, 0.1 + k])} for k in range(4)}
    with rc_context(RC):
        figure = empty_figure()
        grid = Lines(panels, "x", "y").draw(figure)
        figure.draw_without_rendering()
    for axes, following in pairwise(grid.flat):
        shown = axes.get_title(loc="left")
        assert shown.split("\n") == [shown[:TITLE], "and more"]
        (title,) = (text for text in axes.findobj(Text) if text.get_text() == shown)
        assert title.get_window_extent().x1 < following.get_window_extent().x0


def test_letters_without_a_glyph_become_boxes_and_are_said_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "WARNED", [])
    shown = []
    for name in ("日", "a 本 b", "語"):
        with warnings.catch_warnings():  # as a library may do between two pictures
            figure = Figure(layout="constrained")
            Lines({name: {"y": ([0.0, 1.0], [0.1, 0.2])}}, name, "y").draw(figure)
            shown += [axes.get_xlabel() for axes in figure.axes]
    assert shown == ["□", "a □ b", "□"]
    assert len(capsys.readouterr().err.splitlines()) == 1
