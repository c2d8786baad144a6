"""Pictures are judged by the numbers beside them, which are the laws' own, and by what is on their axes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import Inconsistent, random_target
from matplotlib.figure import Figure
from mdlm_cfg.reports.cells import LIKELIEST, cell_pictures
from mdlm_cfg.reports.differences import draw_differences, draw_pairs
from mdlm_cfg.reports.heatmaps import draw_laws
from mdlm_cfg.studies.table.distances import TableEvaluation, evaluate_table
from mdlm_cfg.studies.table.geometry import MAX_REGIONS
from PIL import Image

from mdlm_cfg import Guidance, Sampler, TableMixture, linear_ramp
from mdlm_cfg.reports import differences, heatmaps
from mdlm_cfg.reports.curves import line_plot, lines_on
from mdlm_cfg.reports.style import CYCLE, MARKERS, TITLES, new_figure, numbers_of, save_figure
from mdlm_cfg.reports.ticks import mark_values
from mdlm_cfg.studies.plan import Plan


def evaluated(n: int, d: int, value_names: Sequence[str] | None = None) -> TableEvaluation:
    plan, target = Plan((Guidance(1.0), Guidance(3.0)), Sampler(), 50, classes=(1,)), random_target(n, d, seed=5)
    named = TableMixture(target.class_pmfs, target.class_weights, value_names=value_names)
    return evaluate_table(named, Inconsistent(n, d, 2), plan)


def read(picture: Path) -> list[dict[str, str]]:
    with numbers_of(picture).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("d", [1, 2])
def test_differences_are_those_of_the_laws(d: int, tmp_path: Path) -> None:
    evaluation = evaluated(3, d)
    rows = read(draw_differences(evaluation, tmp_path / "a.png"))
    assert len(rows) == 2 * 3**d
    for row in rows:
        laws = evaluation.results[0 if row["w"] == "1" else 1].laws
        place = tuple(int(row[name]) for name in (["x"] if d == 1 else ["x1", "x2"]))
        for first, second in (("exact", "class"), ("exact", "tilted"), ("learned", "exact"), ("samples", "learned")):
            assert float(row[f"{first} - {second}"]) == float(laws[first][place] - laws[second][place])


@pytest.mark.parametrize("d", [1, 2])
def test_axes_carry_the_names_of_the_values(d: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    for room in (heatmaps, differences):
        monkeypatch.setattr(room, "save_figure", lambda figure, path, rows: figures.append(figure) or path)
    names = ["a", "bb", "ccc", "a name of many letters"]
    for value_names in (names, None):
        evaluation = evaluated(4, d, value_names)
        draw_laws(evaluation, tmp_path / "a.png"), draw_differences(evaluation, tmp_path / "b.png")
    for figure in figures[:2]:
        axes = next(one for one in figure.axes if one.get_xlabel())
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "bb", "ccc", "a name of…"]
        if d == 2:
            assert [label.get_text() for label in axes.get_yticklabels()][:3] == ["a", "bb", "ccc"]
    for figure in figures[2:]:
        axes = next(one for one in figure.axes if one.get_xlabel())
        assert {0.0, 1.0, 2.0, 3.0} >= {tick for tick in axes.get_xticks() if 0 <= tick <= 3}
        assert not any(label.get_text() in names for label in axes.get_xticklabels())


def test_of_many_names_some_are_shown() -> None:
    axes = Figure().subplots()
    mark_values(axes.xaxis, [f"v{k}" for k in range(100)])
    assert list(axes.get_xticks()) == [0, 17, 34, 51, 68, 85]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["v0", "v17", "v34", "v51", "v68", "v85"]


def test_pairs_are_marginals_of_two_coordinates(tmp_path: Path) -> None:
    result = evaluated(3, 4).results[1]
    rows = read(draw_pairs(result, tmp_path / "a.png"))
    assert len(rows) == 6 * 9
    for row in rows:
        i, j, a, b = (int(row[name]) for name in ("i", "j", "x_i", "x_j"))
        for name in ("exact", "class"):
            part = result.laws[name].select(i - 1, a).select(j - 1, b)  # j < i: its place is not moved
            assert float(row[name]) == pytest.approx(float(part.sum()), abs=1e-14)


def test_cells_are_shown_by_likeliest_and_mean_images(tmp_path: Path) -> None:
    evaluation = evaluated(2, 4)
    pictures = {picture.path.name: picture.path for picture in cell_pictures(evaluation, (2, 2), tmp_path)}
    assert set(pictures) == {
        "likeliest.png", "means.png", "means_exact_class.png", "means_exact_tilted.png", "means_learned_exact.png"
    }  # fmt: skip
    laws = evaluation.results[1].laws
    cells = ["0,0", "0,1", "1,0", "1,1"]
    shown = [r for r in read(pictures["likeliest.png"]) if (r["block"], r["class"]) == ("w = 3", TITLES["exact"])]
    found = [float(laws["exact"][tuple(int(float(row[cell])) for cell in cells)]) for row in shown]
    assert found == sorted(laws["exact"].flatten().tolist(), reverse=True)[:LIKELIEST]
    (mean,) = [r for r in read(pictures["means.png"]) if (r["block"], r["class"]) == ("w = 3", TITLES["learned"])]
    expected = [float(laws["learned"].select(k, 1).sum()) for k in range(4)]
    assert [float(mean[cell]) for cell in cells] == pytest.approx(expected)


def test_lines_on_one_another_are_one_with_both_names_but_dashed_ones_stay() -> None:
    figure, x = Figure(), [0.0, 1.0]
    lines = {"a": (x, [1.0, 2.0]), "b": (x, [1.0, 2.0 + 1e-15]), "floor": (x, [1.0, 2.0]), "c": (x, [1.0, 2.1])}
    axes = lines_on(figure, lines, "x", "y", dashed=["floor"])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a, b", "floor", "c"]
    assert len([line for line in axes.lines if len(line.get_xdata())]) == 3


def test_long_names_stand_above_and_leave_the_panel_its_room() -> None:
    lines = {", ".join([f"setting_{k}=1234"] * 5 * k): ([0, 1], [k, k + 1.0]) for k in (1, 4, 7)}
    figure = Figure(layout="constrained")
    axes = lines_on(figure, lines, "x", "y")
    figure.draw_without_rendering()
    legend, panel = figure.legends[0].get_window_extent(), axes.get_window_extent()
    assert legend.y0 >= panel.y1 and legend.x1 <= figure.bbox.x1
    assert panel.height >= 200 and panel.width >= 400  # points at 100 dpi: 2 x 4 inches
    assert [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()] == list(lines)


def test_zero_stands_hollow_at_the_foot_of_a_logarithmic_axis(tmp_path: Path) -> None:
    lines = {"a": ([1, 2, 4], [0.5, 0.25, 0.0]), "b": ([1, 2, 4], [0.4, 0.3, 0.2])}
    axes = lines_on(Figure(), lines, "x", "y", log_y=True)
    hollow = [line for line in axes.lines if line.get_color() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[4]]
    assert 0 < hollow[0].get_ydata()[0] < 0.2 and "0" in [text.get_text() for text in axes.texts]
    path = line_plot({"a": ([1, 2], [0.5, 0.0])}, tmp_path / "a.png", "calls", "TV", log_y=True)
    assert read(path)[1] == {"series": "a", "calls": "2", "TV": "0.0"}  # the numbers beside it are as they are


def test_bands_and_levels_are_numbers_too(tmp_path: Path) -> None:
    bands = {"a": ([0.1, 0.2], [0.8, 0.9])}
    path = line_plot({"a": ([1, 2], [0.5, 0.4])}, tmp_path / "a.png", "x", "y", bands=bands, levels={"b": 0.3})
    assert [(r["series"], r["x"], r["y"], r["low"], r["high"]) for r in read(path)] == [
        ("a", "1", "0.5", "0.1", "0.8"), ("a", "2", "0.4", "0.2", "0.9"), ("b", "", "0.3", "", ""),
    ]  # fmt: skip


def test_there_is_a_colour_and_a_marker_for_every_region() -> None:
    assert len(set(CYCLE)) >= MAX_REGIONS and len(set(MARKERS)) == len(CYCLE)


def test_a_picture_without_a_tilted_law_leaves_its_cells_blank(tmp_path: Path) -> None:
    plan = Plan((Guidance(1.0), Guidance(linear_ramp(0.0, 2.0))), Sampler(), 20)
    evaluation = evaluate_table(random_target(3, 2), None, plan)
    rows = read(draw_differences(evaluation, tmp_path / "a.png"))
    assert [bool(row["exact - tilted"]) for row in rows] == [True] * 9 + [False] * 9
    ramp = evaluation.results[1].laws["exact"]
    assert float(rows[9]["exact - class"]) == float((ramp - evaluation.class_law)[0, 0])
    assert np.isfinite([float(row["samples - exact"]) for row in rows]).all()


def test_nothing_is_cut_off(tmp_path: Path) -> None:
    """Words beyond the edges of a figure stand in the picture, whole."""
    figure, grid = new_figure(1, 1, 2.0, 1.0)
    grid[0, 0].set_axis_off()
    for x, colour in ((1.1, (1.0, 0.0, 0.0)), (-0.5, (0.0, 0.0, 1.0))):
        figure.text(x, 0.5, "left and right", color=colour)
    shown = np.asarray(Image.open(save_figure(figure, tmp_path / "a.png", [{"a": 1}])).convert("RGB")).astype(int)
    for colour in ((255, 0, 0), (0, 0, 255)):
        columns = np.abs(shown - colour).sum(axis=2).min(axis=0) < 90
        assert columns.any() and not columns[[0, -1]].any()
