"""Pictures for notebooks: what stands on the axes is what was handed over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_target
from matplotlib import pyplot
from matplotlib.axes import Axes

from mdlm_cfg import Guidance, TableMixture, UserError, error_ledger, plot, terminal_law, tv_decay
from mdlm_cfg.compare.metrics import total_variation


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def target() -> TableMixture:
    return random_target(3, 2, seed=1)


def rows(target: TableMixture) -> dict[str, dict[str, torch.Tensor]]:
    exact = {w: terminal_law(target.denoiser(), Guidance(w), 0) for w in (0.0, 2.0)}
    return {f"w = {w:g}": {"class": target.class_pmf(0), "exact": law} for w, law in exact.items()}


def written(axes: Axes, folder: Path) -> int:
    axes.figure.savefig(folder / "picture.png")
    return (folder / "picture.png").stat().st_size


def test_heat_maps_hold_the_laws_and_their_distances(tmp_path: Path) -> None:
    laws = rows(target())
    grid = plot.laws(laws)
    assert grid.shape == (2, 2)
    for line, row in zip(grid, laws.values()):
        for axes, law in zip(line, row.values()):
            np.testing.assert_array_equal(axes.images[0].get_array(), law.numpy().T)
    guided = laws["w = 2"]
    assert (
        grid[1, 0].get_title().splitlines()[-1]
        == f"TV to exact {total_variation(guided['exact'], guided['class']):.3f}"
    )
    assert grid[1, 0].get_ylabel().startswith("w = 2")
    assert written(grid[0, 0], tmp_path) > 1000


def test_a_single_row_and_laws_of_three_coordinates() -> None:
    law = random_target(3, 3, seed=2).class_pmf(0)
    grid = plot.laws({"mine": law, "another": law.flip(0)})
    assert grid.shape == (1, 2) and grid[0, 0].get_title().strip() == "mine"
    np.testing.assert_allclose(grid[0, 1].images[0].get_array(), law.flip(0).sum(dim=2).numpy().T)


def test_laws_of_one_coordinate_are_curves() -> None:
    flat = {"a law": torch.full((5,), 0.2, dtype=torch.float64)}
    grid = plot.laws(rows(random_target(5, 1, seed=3)) | {"w = 8": flat})
    assert [line.get_label() for line in grid.flat[2].lines] == ["a law"]
    np.testing.assert_array_equal(grid.flat[2].lines[0].get_ydata(), np.full(5, 0.2))
    assert len(grid.flat[0].collections) == 1  # the class, as an area


@pytest.mark.parametrize("found", [{}, {"a": torch.ones(2, 2) / 4, "b": torch.ones(3, 3) / 9}])
def test_laws_that_do_not_fit_are_refused(found: dict[str, torch.Tensor]) -> None:
    with pytest.raises(UserError, match=r"\(N, \.\.\., N\).*(None|\(2, 2\), \(3, 3\))"):
        plot.laws(found)


def test_decay_and_lines() -> None:
    decay = tv_decay(target(), 0, [Guidance(0.0), Guidance(2.0)], [0.5, 1.0])
    axes = plot.decay(decay)
    assert [line.get_label() for line in axes.lines] == ["w = 0", "w = 2"]
    np.testing.assert_array_equal(axes.lines[1].get_ydata(), -decay.log_tv[1].numpy())
    other = plot.lines({"a": ([1, 2], [3.0, 4.0])}, "x", "y (nats)", log_y=True)
    assert other.get_yscale() == "log" and other.get_ylabel() == "y (nats)" and other.figure is not axes.figure


def test_a_ledger_is_a_bar_per_line_and_entry() -> None:
    found = [
        error_ledger(
            target(),
            target().denoiser(),
            Guidance(w),
            0,
            "tau_leaping",
            4,
            num_samples=100,
            generator=torch.Generator().manual_seed(0),
        )
        for w in (0.0, 2.0)
    ]
    axes = plot.ledger(found)
    assert [bars.get_label() for bars in axes.containers] == ["w = 0", "w = 2"]
    assert [bar.get_height() for bar in axes.containers[1]] == list(found[1].tv.values())
    assert [len(plot.ledger(found[0]).containers), len(plot.ledger([found[0]] * 2).containers)] == [1, 2]
    with pytest.raises(UserError, match="error_ledger"):
        plot.ledger([])


def test_images_stand_in_a_row_per_class() -> None:
    grid = plot.images({0.0: np.zeros((2, 3, 4, 4)), 2.0: np.ones((2, 3, 4, 4))}, ["cat", "dog"])
    assert grid.shape == (1, 2) and [label.get_text() for label in grid[0, 0].get_yticklabels()] == ["cat", "dog"]
