"""Pictures of many small images fit on a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mdlm_cfg.reports.pictures.mosaic import Images
from mdlm_cfg.reports.style import DPI, save_figure

PAGE = 11.84  # inches: as wide as a page's text, at 96 pixels per inch
SHRUNK = 0.68  # how far a page shrinks a picture before it has to be scrolled


@pytest.mark.parametrize(
    ("blocks", "shape", "name", "signed"),
    [
        (1, (1, 1, 4, 4), 40, False),
        (2, (4, 10, 28, 28), 1, False),
        (9, (1, 10, 4, 4), 40, True),
        (9, (4, 1, 28, 28), 20, True),
        (5, (2, 10, 4, 4), 30, False),
    ],
)
def test_no_picture_of_images_is_wider_than_a_page_and_each_block_is_there(
    blocks: int, shape: tuple[int, ...], name: int, signed: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"w = {k}": rng.random(shape) for k in range(blocks)}
    images = Images(arrays, ["n" * name] * shape[0], "change" if signed else "")
    figure = Figure(layout="constrained")
    axes = [one for one in images.draw(figure).flat if one.get_title()]
    assert [one.get_title() for one in axes] == list(arrays)
    path = tmp_path / "images.png"
    save_figure(figure, path, [])
    with Image.open(path) as drawn:
        assert SHRUNK * drawn.width / DPI <= PAGE
