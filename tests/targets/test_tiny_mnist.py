"""Area averages against a fine grid, and counted pmfs against counting by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.tiny_mnist import (
    area_average,
    count_states,
    informative_threshold,
    mutual_information,
    tiny_mnist_pmfs,
)


def images_of(num: int, size: int = 28, seed: int = 0) -> torch.Tensor:
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, size, size), generator=gen, dtype=torch.uint8)


SIZES = [(3, 3), (3, 4), (4, 4), (5, 28), (1, 1), (28, 28)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_area_averages_are_fractions_rounded_once(height: int, width: int) -> None:
    images = images_of(3)
    fine = images.long().repeat_interleave(height, 1).repeat_interleave(width, 2)  # 28h x 28w
    sums = fine.reshape(3, height, 28, width, 28).sum(dim=(2, 4)).flatten().tolist()
    assert area_average(images, height, width).flatten().tolist() == [float(Fraction(total, 28 * 28)) for total in sums]


@pytest.mark.parametrize(("height", "width"), [(3, 3), (3, 4), (4, 4), (2, 5)])
@pytest.mark.parametrize("threshold", [3, 5, 13, 25, 127])
def test_a_cell_is_one_above_the_threshold_alone(height: int, width: int, threshold: int) -> None:
    images = torch.full((2, 28, 28), threshold, dtype=torch.uint8)
    for row in (1, 12, 25):  # with the next one in the same cells, so that all means stay
        drawn = images_of(1, seed=row)[0, 0] % 3
        images[:, row] += drawn
        images[:, row + 1] -= drawn
    images[1, 0, 0] += 1
    pmfs, _ = tiny_mnist_pmfs(images, torch.tensor([0, 1]), height, width, threshold)
    assert pmfs.flatten(1)[0, 0] == 1 and pmfs[1, 1].sum() == 1
    assert pmfs.flatten(1)[1, 2 ** (height * width - 1)] == 1


def test_pmfs_are_frequencies_in_reading_order() -> None:
    dark = torch.zeros(4, 4)
    left = torch.zeros(4, 4)
    top = torch.zeros(4, 4)
    left[:, :2] = 200
    top[:2] = 200
    images = torch.stack([dark, left, left, top, top]).to(torch.uint8)
    pmfs, weights = tiny_mnist_pmfs(images, torch.tensor([0, 0, 0, 1, 1]), 2, 2, threshold=100)
    assert pmfs.shape == (2, 2, 2, 2, 2)
    assert pmfs[0, 0, 0, 0, 0] == pytest.approx(1 / 3) and pmfs[0, 1, 0, 1, 0] == pytest.approx(2 / 3)
    assert pmfs[1, 1, 1, 0, 0] == 1 and pmfs.sum() == pytest.approx(2)
    torch.testing.assert_close(weights, torch.tensor([0.6, 0.4]).double())
    TableMixture(pmfs, weights)


def test_mutual_information_of_known_cases() -> None:
    certain = torch.tensor([[1000, 0], [0, 1000]])
    assert mutual_information(certain) == pytest.approx(math.log(2) + 1 / 4000)
    gen = torch.Generator().manual_seed(0)
    plain = []
    corrected = []
    for _ in range(200):  # independent: the plug-in estimate is biased by 7 * 3 / 2n, the corrected one is not
        states = torch.randint(8, (500,), generator=gen)
        labels = torch.randint(4, (500,), generator=gen)
        counts = torch.bincount(labels * 8 + states, minlength=32).reshape(4, 8)
        p = counts.double() / 500
        ratio = p / (p.sum(0, keepdim=True) * p.sum(1, keepdim=True))
        plain.append(float(torch.special.xlogy(p, ratio).sum()))
        corrected.append(mutual_information(counts))
    assert abs(sum(corrected) / 200) < 0.002 < 0.015 < sum(plain) / 200


def test_threshold_is_where_the_classes_part() -> None:
    gen = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 2
    levels = torch.where(labels == 0, 30, 90) + torch.randint(-9, 10, (2000,), generator=gen)
    cells = levels.reshape(-1, 1, 1).double()
    assert 38 <= informative_threshold(cells, labels) <= 81
    counts = count_states(cells, labels, informative_threshold(cells, labels))
    assert counts.tolist() == [[1000, 0], [0, 1000]]


def test_default_threshold_is_the_informative_one() -> None:
    images = images_of(200, size=8)
    labels = torch.arange(200) % 3
    best = informative_threshold(area_average(images, 2, 2), labels)
    assert torch.equal(
        tiny_mnist_pmfs(images, labels, 2, 2)[0], tiny_mnist_pmfs(images, labels, 2, 2, threshold=best)[0]
    )


def test_bad_settings_are_refused() -> None:
    images = images_of(4)
    labels = torch.tensor([0, 1, 0, 1])
    for args, complaint in (
        ((images, labels, 5, 5), r" 2\^25 .* 20 "),
        ((images, labels, 0, 3), r" 0 x 3 .*\(28, 28\).* 1 x 1 "),
        ((images, labels[:3], 3, 3), r"labels .* 4 .*\(3,\)"),
        ((images, labels * 2, 3, 3), r"classes \[1\] "),
        ((images, labels, 3, 3, 300), "threshold = 300"),
        ((images[0], labels[:0], 3, 3), r"labels .* 28 .*\(0,\)"),
    ):
        with pytest.raises(ValueError, match=complaint):
            tiny_mnist_pmfs(*args)
    with pytest.raises(ValueError, match=r"images .*\(n, height, width\).*\(28, 28\)"):
        area_average(images[0], 3, 3)
