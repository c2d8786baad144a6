"""Real digits with an exact distribution: images shrunk to a few binary cells, whose states are counted."""

from __future__ import annotations

import torch
from torch import Tensor

from mdlm_cfg.chain.lattice import flat_index
from mdlm_cfg.support.errors import UserError

MAX_CELLS = 20  # 2^20 states
CHUNK = 10_000  # images shrunk at a time


def area_average(images: Tensor, height: int, width: int) -> Tensor:
    """Mean intensity of every cell of a height x width grid laid over the images.

    Cells may cut through pixels (28 is not divisible by 3): pixels count by area. The sums of integer pixels are exact,
    and are divided once: a mean equals a threshold in float64 where it equals it exactly.

    Args:
        images: (n, H, W), any real type; integers below 2^53 / HW for exact sums.

    Returns:
        float64 (n, height, width), in the units of the images.

    Raises:
        UserError: images of another shape, or a grid that is empty or finer than the image.
    """
    if images.ndim != 3:
        raise UserError(f"images must have shape (n, height, width), got {tuple(images.shape)}")
    if not (1 <= height <= images.shape[1] and 1 <= width <= images.shape[2]):
        raise UserError(
            f"a grid of {height} x {width} cells does not fit images of {tuple(images.shape[1:])} pixels; "
            "it needs at least 1 x 1 cells and at most one cell per pixel"
        )
    rows = _overlaps(height, images.shape[1])
    columns = _overlaps(width, images.shape[2])
    area = images.shape[1] * images.shape[2]
    return torch.cat([rows @ chunk.double() @ columns.T / area for chunk in images.split(CHUNK)])


def _overlaps(num_cells: int, num_pixels: int) -> Tensor:
    """The length of every cell that each pixel covers along one axis, float64 (num_cells, num_pixels).

    It is a whole number in units of 1 / num_cells of a pixel, in which a cell has the length num_pixels.
    """
    cells = torch.arange(num_cells)[:, None] * num_pixels
    pixels = torch.arange(num_pixels) * num_cells
    overlap = torch.minimum(cells + num_pixels, pixels + num_cells) - torch.maximum(cells, pixels)
    return overlap.clamp(min=0).double()


def count_states(cells: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """The number of images of every class in every state, int64 (K, 2^D).

    Args:
        cells: intensities, (n, height, width); a cell is 1 where above the threshold, and 0 where equal to it.
        labels: int64 (n,), classes from 0.
    """
    flat = cells.flatten(1)
    num_states = 2 ** flat.shape[1]
    state = flat_index(flat > threshold, 2)
    num_classes = int(labels.max()) + 1
    return torch.bincount(labels * num_states + state, minlength=num_classes * num_states).reshape(num_classes, -1)


def mutual_information(counts: Tensor) -> float:
    """I(state; class) = H(x) - H(x | z) in nats from counts (K, S), each entropy corrected for its bias."""
    shares = counts.sum(dim=1).double() / counts.sum()
    within = sum(share * _entropy(row) for share, row in zip(shares.tolist(), counts) if share > 0)
    return _entropy(counts.sum(dim=0)) - within


def _entropy(counts: Tensor) -> float:
    """Entropy in nats behind counts (S,): of their shares, plus (states seen - 1) / 2n (Miller 1955)."""
    seen = counts[counts > 0].double()
    p = seen / seen.sum()
    return float(-(p * p.log()).sum() + (len(seen) - 1) / (2 * seen.sum()))


def informative_threshold(cells: Tensor, labels: Tensor) -> int:
    """The intensity, of 1..127, above which counting a cell as 1 tells most about the class.

    It maximises the `mutual_information` of state and class: guidance acts on what tells classes apart.
    On MNIST: 5 for 3 x 3 cells, 13 for 3 x 4, 25 for 4 x 4.
    """
    return max(range(1, 128), key=lambda t: mutual_information(count_states(cells, labels, t)))


def tiny_mnist_pmfs(
    images: Tensor, labels: Tensor, height: int, width: int, threshold: float | None = None
) -> tuple[Tensor, Tensor]:
    """Class pmfs and class weights of shrunk, binary images: the empirical distribution, not a model of it.

    Args:
        images: uint8 (n, H, W).
        labels: int64 (n,), classes from 0; every class needs an image.
        height: of the grid of cells; width: likewise. D = height * width.
        threshold: a cell is 1 where its mean intensity (0..255) is above it, and 0 where it equals it exactly; None:
            `informative_threshold`.

    Returns:
        class_pmfs: float64 (K, 2, ..., 2), cells in C order.
        class_weights: float64 (K,).

    Raises:
        UserError: a grid of more than 20 cells or finer than the images, labels that do not fit the images,
            or a threshold outside 0..255.
    """
    if height * width > MAX_CELLS:
        raise UserError(
            f"a grid of {height} x {width} cells has 2^{height * width} states, too many to count; "
            f"at most {MAX_CELLS} cells"
        )
    if threshold is not None and not 0 <= threshold < 255:
        raise UserError(f"threshold = {threshold} must be an intensity from 0 to below 255, or null for the best")
    if labels.shape != images.shape[:1] or len(labels) == 0 or int(labels.min()) < 0:
        raise UserError(f"labels must be {len(images)} > 0 classes from 0, got shape {tuple(labels.shape)}")
    cells = area_average(images, height, width)
    if threshold is None:
        threshold = informative_threshold(cells, labels)
    counts = count_states(cells, labels, threshold).double()
    totals = counts.sum(dim=1)
    if bool((totals == 0).any()):
        empty = (totals == 0).nonzero().flatten().tolist()
        raise UserError(f"classes {empty} have no image to be counted; relabel the classes without gaps")
    return (counts / totals[:, None]).reshape(-1, *[2] * (height * width)), totals / totals.sum()
