"""Pictures as data. Each module has one type of picture: a frozen value that can list its numbers and draw itself.

`save` writes the PNG and the CSV of one picture. With `backend="none"` nothing is drawn, so that tests can check the
data of every picture without rendering it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from mdlm_cfg.reports.style import RC, empty_figure, numbers_of, save_figure
from mdlm_cfg.reports.tables import write_csv
from mdlm_cfg.support.atomic import atomic_write

BLANK = base64.b64decode(  # a PNG of one white pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEAG7buVgAAAABJRU5ErkJggg=="
)


class Drawing(Protocol):
    """A picture before it is drawn."""

    def numbers(self) -> Sequence[Mapping[str, Any]]:
        """Flat rows of everything it shows."""
        ...

    def draw(self, figure: Figure) -> np.ndarray:
        """Draw it on an empty figure, and return its axes."""
        ...


def save(drawing: Drawing, path: Path, backend: str = "matplotlib") -> Path:
    """Write a picture as PNG to `path` and its numbers as CSV beside it, each atomically.

    Args:
        backend: "matplotlib", or "none", which writes a blank picture.

    Returns:
        `path`.
    """
    if backend == "none":
        with atomic_write(path) as file:
            file.write(BLANK)
        write_csv(drawing.numbers(), numbers_of(path))
        return path
    with rc_context(RC):
        figure = empty_figure()
        drawing.draw(figure)
        return save_figure(figure, path, drawing.numbers())
