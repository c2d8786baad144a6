"""What the panel of a page (panel.js, charts.js) is given: laws as float32 in base64, and how to show them."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import Colormap, to_hex
from numpy.typing import ArrayLike

from mdlm_cfg.reports.style import CHANGE, COLOURS, PROBABILITY, TITLES
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.table.panel import TAUS, Panel, PanelLaw

STOPS = 17  # of a colour scale
DISTANCES = {"exact-class": "guidance effect", "exact-tilted": "gap to tilted", "learned-exact": "score error"}


def panel_data(panel: Panel, plan: Plan) -> dict[str, Any]:
    """The panel in types that JSON has; it starts at the plan's class, kind and strongest guidance."""
    first = panel.class_laws[0]
    numbers = [guidance for guidance in plan.guidances if not guidance.is_schedule]
    shown = max(numbers, key=lambda guidance: guidance.constant) if numbers else plan.guidances[0]
    z = plan.classes[0] if plan.classes else 0
    return {
        "dims": first.ndim, "n": first.shape[0], "value_names": panel.value_names,
        "classes": [_class(panel, k) for k in range(len(panel.classes))],
        "kinds": [str(kind) for kind in panel.kinds],
        "strengths": list(panel.strengths),
        "w": [law.guidance.written if not law.guidance.is_schedule else None for law in panel.at(z, panel.kinds[0])],
        "laws": {f"{k}/{kind}": list(map(_laws, panel.at(k, kind))) for k in panel.classes for kind in panel.kinds},
        "tau": TAUS.tolist(),
        "start": {"class": z, "kind": str(panel.kinds[0]), "strength": list(panel.strengths).index(shown.label)},
        "titles": TITLES, "order": [name for name in TITLES if name != "samples"], "distances": DISTANCES,
        "colours": {"laws": COLOURS, "probability": _stops(PROBABILITY), "difference": _stops(colormaps[CHANGE])},
    }  # fmt: skip


def panel_rows(panel: Panel) -> list[dict[str, Any]]:
    """The distances behind the panel, for panel.csv: TV to the exact law at every class, kind and strength."""
    return [
        {"class": law.target_class, "kind": str(law.guidance.kind), "w": law.guidance.written}
        | {f"tv_exact_{name}": law.tv(name) for name in ("class", "tilted", "learned") if law.tv(name) is not None}
        for law in panel.laws
    ]


def _class(panel: Panel, k: int) -> dict[str, Any]:
    region = torch.full(panel.class_laws[k].shape, -1, dtype=torch.int8)
    for place, part in enumerate(panel.regions[k]):
        region[part.mask] = place
    return {
        "id": panel.classes[k],
        "name": panel.class_names[k],
        "law": _float32(panel.class_laws[k]),
        "region": base64.b64encode(region.numpy().tobytes()).decode(),
        "regions": [{"name": part.name, "shared": part.shared} for part in panel.regions[k]],
    }


def _laws(law: PanelLaw) -> dict[str, Any]:
    still = None if law.still_masked is None else [float(f"{v:.6g}") for v in law.still_masked.tolist()]
    return {"laws": {name: _float32(p) for name, p in law.laws.items() if name != "class"}, "still_masked": still}


def _float32(values: ArrayLike) -> str:
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode()


def _stops(colours: Colormap) -> list[str]:
    return [to_hex(colours(share)) for share in np.linspace(0, 1, STOPS)]
