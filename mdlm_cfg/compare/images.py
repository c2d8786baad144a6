"""How sets of images compare: moments, diversity, nearest neighbours, precision and recall, energy distance.

Pure functions of tensors. Images are integer (n, D) with values 0..top = N - 1; top = 1 is black and white. The
distance between two is the sum over pixels of the squared difference, in units of top: for black and white images the
number of pixels in which they differ. Its square root is the Euclidean distance.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, conditionals
from mdlm_cfg.chain.masking import mask_uniform
from mdlm_cfg.compare.metrics import relative_difference
from mdlm_cfg.support.errors import UserError

CHUNK = 4096  # rows of a distance matrix at a time
MAX_SPLIT = 2000  # points whose distances are held at once
SPLITS = 20  # random halves that the noise of an energy distance is taken from
MAX_ANSWERS = 16_000  # partial states per call of a denoiser, times N


def pixel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and unbiased covariance (D, D) of points (n, D), float64; the covariance of one point is 0."""
    x = x.double()
    centred = x - x.mean(dim=0)
    return x.mean(dim=0), centred.T @ centred / max(1, len(x) - 1)


def moment_difference(x: Tensor, mean: Tensor, covariance: Tensor) -> dict[str, float]:
    """How far the moments of points are from given ones.

    Args:
        x: (n, D).
        mean: (D,); covariance: (D, D): of the reference.

    Returns:
        mean_rms: root mean square over pixels of the difference of means, in units of the values.
        covariance: |Cov(x) - covariance| / |covariance|, Frobenius; 0 where both are equal, also where both are 0.
    """
    own_mean, own_covariance = pixel_moments(x)
    difference = relative_difference(own_covariance, covariance)["frobenius"]
    return {"mean_rms": float((own_mean - mean).square().mean().sqrt()), "covariance": difference}


def pixel_distance(x: Tensor, y: Tensor, top: int = 1) -> Tensor:
    """In how many pixels images differ: float32 (n, m) from (n, D) and (m, D); exact for D top^2 < 2^24."""
    x = x.float()
    y = y.float()
    return (x.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * (x @ y.T)) / top**2


def mean_pixel_distance(x: Tensor, top: int = 1) -> float:
    """The mean number of pixels in which two different images of a set differ: its diversity.

    Needs no pairs: sum_{a, b} (x_a - x_b)^2 = 2 n sum_a x_a^2 - 2 (sum_a x_a)^2, pixel by pixel.

    Raises:
        UserError: fewer than two images.
    """
    n = len(x)
    if n < 2:
        raise UserError(f"a mean distance between pairs needs at least 2 images, not {n}")
    x = x.double()
    pairs = 2 * (n * x.square().sum(dim=0) - x.sum(dim=0).square())
    return float(pairs.sum() / (n * (n - 1))) / top**2


def nearest_image(x: Tensor, reference: Tensor, top: int = 1) -> tuple[Tensor, Tensor]:
    """The distance in pixels to the nearest image of a reference set, float32 (n,), and its index, int64 (n,)."""
    best = torch.full((len(x),), float("inf"))
    index = torch.zeros(len(x), dtype=torch.int64)
    for k, part in enumerate(reference.split(CHUNK)):
        distance, at = pixel_distance(x, part, top).min(dim=1)
        index = torch.where(distance < best, at + k * CHUNK, index)
        best = torch.minimum(best, distance)
    return best, index


def precision_and_recall(reference: Tensor, samples: Tensor, k: int = 3) -> tuple[float, float]:
    """Precision and recall by k-nearest-neighbour manifolds (Kynkaanniemi et al. 2019, arXiv 1904.06991, eq. 1 and 2).

    A set's manifold is the union of balls around its points, each reaching to the point's k-th nearest neighbour in
    the set. Precision is the share of samples in the reference's manifold: fidelity. Recall is the share of the
    reference in the samples' manifold: coverage. Two sets from one distribution do not score 1 (a ball misses what is
    rare), so read both beside a held-out set of the same size. Both depend on the sizes of the sets.

    Args:
        reference: features of data, (n, F).
        samples: features of samples, (m, F).
        k: which neighbour.

    Raises:
        UserError: a set of no more than k points.
    """
    smallest = min(len(reference), len(samples))
    if not 1 <= k < smallest:
        raise UserError(f"k = {k} nearest neighbours need sets of more than k points, and one has {smallest}")
    between = torch.cdist(reference.double(), samples.double())
    precision = (between <= neighbour_radii(reference, k)[:, None]).any(dim=0)
    recall = (between <= neighbour_radii(samples, k)[None]).any(dim=1)
    return float(precision.double().mean()), float(recall.double().mean())


def neighbour_radii(points: Tensor, k: int) -> Tensor:
    """The distance of every point to its k-th nearest neighbour among the others, float64 (n,)."""
    distances = torch.cdist(points.double(), points.double()).fill_diagonal_(0.0)
    return distances.kthvalue(k + 1, dim=1).values  # the nearest is the point itself


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, unbiased: 0 on average, and only then, for equal distributions.

    Of Euclidean distances (Szekely and Rizzo 2013): between images those are square roots of numbers of pixels. The
    numbers themselves would not do: their energy distance is 2 |mean(x) - mean(y)|^2, blind to all but the means.

    Args:
        x, y: (n, F) and (m, F): images or features, each set with at least two rows.

    Returns:
        in units of the values; may be negative by chance.
    """
    if min(len(x), len(y)) < 2:
        raise UserError(f"an energy distance needs at least 2 points of each kind, not {len(x)} and {len(y)}")
    x = x.double()
    y = y.double()
    within = sum(float(_distance_sums(a, a).sum()) / (len(a) * (len(a) - 1)) for a in (x, y))
    return 2 * float(_distance_sums(x, y).sum()) / (len(x) * len(y)) - within


def energy_error(x: Tensor, y: Tensor) -> float:
    """The standard error of `energy_distance` by the choice of x, to first order; it vanishes at equal distributions.

    The standard deviation over x of 2 (E|x - y| - E|x - x'|), over the square root of n.

    Args:
        x, y: as of `energy_distance`.
    """
    x = x.double()
    y = y.double()
    influence = 2 * (_distance_sums(x, y) / len(y) - _distance_sums(x, x) / (len(x) - 1))
    return float(influence.std()) / math.sqrt(len(x))


def energy_by_chance(x: Tensor, generator: torch.Generator | None = None) -> float:
    """The chance level of the energy distance between two sets from one distribution: the RMS over random halves.

    Args:
        x: (2n, F), both sets; of more than `MAX_SPLIT` points a subset is used, since the value falls as 1/n.

    Returns:
        for sets of n; 0 for fewer than two points in each.
    """
    num = len(x) // 2
    kept = x[torch.randperm(len(x), generator=generator)[:MAX_SPLIT]].double()
    half = len(kept) // 2
    if half < 2:
        return 0.0
    squared = kept.square().sum(dim=1)
    distances = (squared[:, None] + squared - 2 * (kept @ kept.T)).fill_diagonal_(0.0).clamp_(min=0.0).sqrt_()
    found = []
    for _ in range(SPLITS):
        order = torch.randperm(2 * half, generator=generator)
        first, second = (torch.zeros(len(kept), dtype=torch.float64).index_fill_(0, at, 1) for at in order.chunk(2))
        within = float(first @ distances @ first + second @ distances @ second) / (half * (half - 1))
        found.append(2 * float(first @ distances @ second) / half**2 - within)
    return math.sqrt(sum(value**2 for value in found) / SPLITS) * half / num


def _distance_sums(x: Tensor, y: Tensor) -> Tensor:
    """The sum of the Euclidean distances of every x to all y, float64 (n,); a point to itself counts exactly 0."""
    total = []
    for start, part in zip(range(0, len(x), CHUNK), x.split(CHUNK)):
        squared = part.square().sum(dim=1)[:, None] + y.square().sum(dim=1) - 2 * (part @ y.T)
        if x is y:
            squared.diagonal(start).zero_()
        total.append(squared.clamp_(min=0.0).sqrt().sum(dim=1))
    return torch.cat(total)


def class_nelbos(denoiser: Denoiser, x: Tensor, num_draws: int, generator: torch.Generator | None = None) -> Tensor:
    """The negative ELBO of every image under every class, with masks that all classes share (theory, section 9).

    The masks of the draws of one image are stratified in their number; sharing them leaves the classes'
    differences with little noise.

    Args:
        denoiser: exact or learned.
        x: int64 (n, D).
        num_draws: masks per image.
        generator: draws the masks.

    Returns:
        float64 (n, K), in nats.
    """
    num_classes = denoiser.num_classes
    num_dims = denoiser.num_dims
    out = torch.empty(len(x), num_classes, dtype=torch.float64)
    size = max(1, MAX_ANSWERS // (num_draws * num_classes * denoiser.num_tokens))
    for target, part in zip(out.split(size), x.split(size)):
        counts = draw_counts(len(part), num_draws, num_dims, generator).flatten()
        clean = part.repeat_interleave(num_draws, dim=0)
        tokens = mask_uniform(clean, counts, denoiser.num_tokens, generator)
        for k in range(num_classes):
            own = conditionals(denoiser, tokens, k).gather(2, clean[..., None])[..., 0]
            cost = -torch.where(tokens == denoiser.num_tokens, own, 0.0).sum(dim=1) * (num_dims / counts)
            target[:, k] = cost.reshape(-1, num_draws).mean(dim=1)
    return out


def draw_counts(num: int, num_draws: int, num_dims: int, generator: torch.Generator | None = None) -> Tensor:
    """Numbers of masked coordinates, uniform on 1..D, stratified over the draws of each image: int64 (num, draws)."""
    uniform = torch.rand(num, num_draws, generator=generator, dtype=torch.float64)
    strata = torch.arange(num_draws) + uniform
    return 1 + (strata / num_draws * num_dims).long().clamp_(max=num_dims - 1)


def independent_nelbos(x: Tensor, train: Tensor, num_tokens: int) -> Tensor:
    """Minus the log-probability of every image under independent pixels, fitted to training images.

    The probabilities are those of Laplace's rule of succession, (count + 1) / (m + N): every value remains possible.

    Args:
        x: integer (n, D). train: integer (m, D); may be empty. num_tokens: N.

    Returns:
        float64 (n,), in nats.
    """
    counts = torch.stack([(train == value).sum(dim=0) for value in range(num_tokens)], dim=1).double()
    log_p = ((counts + 1) / (len(train) + num_tokens)).log()
    return -log_p.gather(1, x.long().T).sum(dim=0)
