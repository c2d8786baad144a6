"""Distributions of a table as pictures: heat maps, differences, marginals of two coordinates, images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from mdlm_cfg.chain.lattice import points_at
from mdlm_cfg.compare.geometry import others_law
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.studies.evaluation import TableEvaluation
from mdlm_cfg.studies.panel import PAIRS
from mdlm_cfg.studies.views import Mosaic, Panel, PanelGrid, View

MAX_PAIRED = 6  # coordinates up to which the marginals of all pairs are shown
LIKELIEST = 6  # most probable images shown per distribution
NO_OTHERS = "Light blue: no others have a probability."
TITLES = {"class": "class", "tilted": "tilted", "exact": "exact guided", "learned": "learned", "samples": "samples"}


def plane_of(law: Tensor, i: int = 0, j: int = 1) -> np.ndarray:
    """The marginal of two coordinates, (N, N), x_i first; a law of one or two coordinates is returned unchanged."""
    if law.ndim < 3:
        return law.numpy()
    marginal = law.sum(dim=[k for k in range(law.ndim) if k not in (i, j)]).numpy()
    return marginal if i < j else marginal.T


def law_panels(
    rows: Mapping[str, Mapping[str, Tensor]], names: Sequence[str], outlines: Sequence[np.ndarray] = ()
) -> dict[str, list[Panel | None]]:
    """Distributions side by side, one line of panels per row.

    Args:
        rows: float64 (N,)*D by name, by the label of the row. If a row has "exact", titles give the TV to it.
        names: in their order; a row may lack some.
        outlines: boolean (N, N), sets of states to surround with a line, for D >= 2.

    Returns:
        for D = 1 one panel per row with all distributions; for D >= 2 one panel per distribution, a heat map of its
        first two coordinates.
    """
    panels: dict[str, list[Panel | None]] = {}
    for label, laws in rows.items():
        there = {name: laws[name] for name in names if name in laws}
        first = next(iter(there.values()))
        if first.ndim == 1:
            curves = {name: law.numpy() for name, law in there.items()}
            panels[label] = [Panel("", first.numpy(), curves=curves)]
        else:
            panels[label] = [_heat_map(name, there, outlines) if name in there else None for name in names]
    return panels


def _heat_map(name: str, laws: Mapping[str, Tensor], outlines: Sequence[np.ndarray]) -> Panel:
    title = TITLES.get(name, name)
    if name != "exact" and "exact" in laws:
        title += f"\nTV to exact {total_variation(laws['exact'], laws[name]):.3f}"
    return Panel(title, plane_of(laws[name]), outlines=outlines)


def side_by_side(e: TableEvaluation) -> PanelGrid:
    """Every distribution of every strength, with the support of the class outlined."""
    rows = {f"w = {result.guidance.label}": result.laws for result in e.results}
    target = e.target
    if target.num_dims == 1:
        panels = law_panels(rows, e.law_names)
        return PanelGrid(panels, "Every distribution, one panel for each w.", True, ("value x", ""), target.value_names)
    support = plane_of(target.class_pmf(e.target_class)) > 0
    others = plane_of(others_law(target, e.target_class)) > 0
    panels = law_panels(rows, e.law_names, (support, support & others))
    caption = "The blue line surrounds the class's support; it is dotted where other classes have support as well."
    if target.num_dims > 2:
        caption += " Shown are marginals of the first two coordinates."
    return PanelGrid(panels, caption, True, ("$x_1$", "$x_2$"), target.value_names)


def differences(e: TableEvaluation) -> PanelGrid:
    """Differences of distributions, a line for each strength."""
    pairs = [pair for pair in PAIRS if set(pair) <= set(e.law_names)]
    pairs += [] if e.follows is None else [("samples", e.follows)]
    panels: dict[str, list[Panel | None]] = {}
    for result in e.results:
        line: list[Panel | None] = []
        for first, second in pairs:
            if {first, second} <= set(result.laws):
                change = (result.laws[first] - result.laws[second]).numpy()
                line.append(Panel(f"{TITLES[first]}\n- {TITLES[second]}", change, kind="change"))
            else:
                line.append(None)
        panels[f"w = {result.guidance.label}"] = line
    caption = "Differences between two distributions; each column has its own scale."
    return PanelGrid(panels, caption, False, ("$x_1$", "$x_2$" if e.target.num_dims == 2 else ""), e.target.value_names)


def all_pairs(e: TableEvaluation) -> list[View]:
    """Marginals of all pairs of coordinates at the largest w, minus the class's."""
    if e.target.num_dims > MAX_PAIRED:
        return []
    result = e.strongest
    change = result.laws["exact"] - result.laws["class"]
    panels: dict[str, list[Panel | None]] = {}
    for j in range(1, e.target.num_dims):
        line = [Panel(f"$x_{{{i + 1}}}, x_{{{j + 1}}}$", plane_of(change, i, j), kind="change") for i in range(j)]
        panels[f"x_{j + 1}"] = [*line, *[None] * (e.target.num_dims - 1 - j)]
    caption = f"Marginals of every two coordinates at w = {result.guidance.label}, exact guided minus the class."
    return [PanelGrid(panels, caption, value_names=e.target.value_names)]


def cells(e: TableEvaluation, shape: Sequence[int]) -> list[View]:
    """Mean images, their changes, and the most probable images, for coordinates that are cells of a grid."""
    results = [result for result in e.results if set(e.law_names) <= set(result.laws)]
    if not results:
        return []
    lines = [TITLES[name] for name in e.law_names]
    labels = [f"w = {result.guidance.label}" for result in results]
    means = [np.stack([_mean(r.laws[name], shape) for name in e.law_names]) for r in results]
    likeliest = [np.stack([_likeliest(r.laws[name], shape) for name in e.law_names]) for r in results]
    caption = "The most probable images of every distribution, in order."
    if np.isnan(likeliest).any():
        caption += f" {NO_OTHERS}"
    views: list[View] = [
        Mosaic(dict(zip(labels, likeliest)), lines, caption),
        Mosaic({label: mean[:, None] for label, mean in zip(labels, means)}, lines, "Mean images."),
    ]
    for first, second in PAIRS:
        if {first, second} <= set(e.law_names):
            a = e.law_names.index(first)
            b = e.law_names.index(second)
            change = {label: (mean[a] - mean[b])[None, None] for label, mean in zip(labels, means)}
            title = f"{TITLES[first]} - {TITLES[second]}"
            views.append(Mosaic(change, [title], f"Change of the mean image: {title}.", signed="change of the mean"))
    return views


def _mean(law: Tensor, shape: Sequence[int]) -> np.ndarray:
    """The mean of every cell, as a share of the largest value."""
    values = np.arange(law.shape[0]) / max(law.shape[0] - 1, 1)
    others = [[k for k in range(law.ndim) if k != i] for i in range(law.ndim)]
    return np.array([float(law.sum(dim=rest).numpy() @ values) for rest in others]).reshape(shape)


def _likeliest(law: Tensor, shape: Sequence[int]) -> np.ndarray:
    """At most `LIKELIEST` images, (m, *shape), as shares of the largest value; NaN where no others are possible."""
    images = most_probable(law, LIKELIEST).double().numpy() / max(law.shape[0] - 1, 1)
    missing = np.full((min(LIKELIEST, law.numel()) - len(images), law.ndim), math.nan)
    return np.concatenate([images, missing]).reshape(-1, *shape)


def most_probable(law: Tensor, most: int) -> Tensor:
    """The most probable states in order, int64 (at most `most`, D); none of probability 0."""
    found = law.flatten().topk(min(most, law.numel()))
    return points_at(found.indices[found.values > 0], law.shape[0], law.ndim)
