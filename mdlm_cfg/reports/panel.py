"""The look of a page's interactive panel (panel.js, charts.js): titles, colours and colour scales."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex

from mdlm_cfg.reports.style import CHANGE, COLOURS, PROBABILITY, TITLES

STOPS = 17  # of a colour scale
DISTANCES = {
    "exact-class": "guidance effect",
    "exact-tilted": "gap to tilted",
    "learned-exact": "error of the network",
}


def panel_looks() -> dict[str, Any]:
    """What the script needs besides the distributions, as JSON types."""
    return {
        "titles": TITLES,
        "order": [name for name in TITLES if name != "samples"],
        "distances": DISTANCES,
        "colours": {"laws": COLOURS, "probability": _stops(PROBABILITY), "difference": _stops(colormaps[CHANGE])},
    }


def _stops(colours: Colormap) -> list[str]:
    return [to_hex(colours(share)) for share in np.linspace(0, 1, STOPS)]
