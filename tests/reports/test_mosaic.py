"""Pictures of many small images fit on a page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given, settings, strategies as st
from matplotlib.figure import Figure
from PIL import Image

from mdlm_cfg.reports.pictures.mosaic import Images
from mdlm_cfg.reports.style import DPI, save_figure

PAGE = 11.84  # inches: as wide as a page's text, at 96 pixels per inch
SHRUNK = 0.68  # how far a page shrinks a picture before it has to be scrolled


@settings(deadline=None, max_examples=10)
@given(
    blocks=st.integers(1, 9),
    lines=st.integers(1, 4),
    columns=st.integers(1, 10),
    side=st.sampled_from([4, 28]),
    name=st.integers(1, 40),
    signed=st.booleans(),
)
def test_no_picture_of_images_is_wider_than_a_page_and_each_block_is_there(
    blocks: int, lines: int, columns: int, side: int, name: int, signed: bool, tmp_path_factory
) -> None:
    rng = np.random.default_rng(0)
    arrays = {f"w = {k}": rng.random((lines, columns, side, side)) for k in range(blocks)}
    images = Images(arrays, ["n" * name] * lines, "change" if signed else "")
    figure = Figure(layout="constrained")
    axes = [one for one in images.draw(figure).flat if one.get_title()]
    assert [one.get_title() for one in axes] == list(arrays)
    path: Path = tmp_path_factory.mktemp("mosaic") / "images.png"
    save_figure(figure, path, [])
    with Image.open(path) as drawn:
        assert SHRUNK * drawn.width / DPI <= PAGE
