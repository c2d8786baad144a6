"""Samples of targets follow them, and fitted mixtures are kept."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from harness import ready, toy_data
from helpers import chi_square_p_value

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.sequences import motif_in_noise
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.data import BernoulliData, TargetData, TinyMnistData


def test_tables_are_sampled_by_their_law() -> None:
    data = ready(toy_data(batch_size=50_000, steps_per_epoch=2))
    x, classes = next(iter(data.train_dataloader()))
    assert abs(float(classes.double().mean()) - float(data.target.class_weights[1])) < 4 * 0.5 / 50_000**0.5
    assert all(chi_square_p_value(x[classes == k], data.target.class_pmfs[k]) > 1e-4 for k in (0, 1))


def test_a_stratified_batch_has_every_state_as_often_as_its_probability_says() -> None:
    data = ready(toy_data(batch_size=5000, steps_per_epoch=2, stratified=True))
    expected = 5000 * (data.target.class_weights[:, None] * data.target.class_pmfs.flatten(1)).flatten()
    batches = [torch.bincount(c * 256 + x[:, 0] * 16 + x[:, 1], minlength=512) for x, c in data.train_dataloader()]
    assert all(float((counts - expected).abs().max()) <= 2 for counts in batches)
    independent = ready(toy_data(batch_size=5000, steps_per_epoch=1))
    x, c = next(iter(independent.train_dataloader()))
    assert float((torch.bincount(c * 256 + x[:, 0] * 16 + x[:, 1], minlength=512) - expected).abs().max()) > 2
    with pytest.raises(UserError, match=r"data\.stratified"):
        TargetData(motif_in_noise(num_dims=5), "motif", stratified=True)


def test_tiny_mnist_is_counted_from_the_images(root: str) -> None:
    data = ready(TinyMnistData(1, 4, threshold=150, root=root))
    pmfs = data.target.class_pmfs
    assert pmfs[0, 0, 0, 0, 0] == pmfs[1, 1, 0, 0, 0] == pmfs[2, 1, 1, 0, 0] == 1
    torch.testing.assert_close(data.target.class_weights, torch.full((3,), 1 / 3).double())


def test_tables_that_nothing_can_be_learned_from_are_refused() -> None:
    weightless = TableMixture(torch.full((2, 3), 1 / 3), torch.tensor([1.0, 0.0]))
    assert TargetData(weightless, "t").name == "t"  # its other classes can be learned, and judged
    large = TableMixture(torch.full((1, *[2] * 20), 2.0**-20), torch.ones(1))
    with pytest.raises(UserError, match=r"\(2\+1\)\^20 = 3\.49e\+09"):
        TargetData(large, "t")
    with pytest.raises(UserError, match="num_test = None"):
        toy_data(num_test=None)


def test_settings_of_targets_are_refused() -> None:
    for settings, complaint in (
        ({"batch_size": 0}, "batch_size = 0"),
        ({"steps_per_epoch": 0}, "steps_per_epoch = 0"),
        ({"grid_shape": [3]}, r"grid_shape.*\(3,\).*\b2\b"),
    ):
        with pytest.raises(UserError, match=complaint):
            toy_data(**settings)


def test_targets_of_files_are_named_by_the_file(tmp_path: Path) -> None:
    assert [TargetData(toy_2d_overlap(), name).name for name in ("toy", "mine.npz", f"{tmp_path}/my.v2.npz")] == [
        "toy",
        "mine",
        "my.v2",
    ]


def test_fit_is_kept_and_a_damaged_one_is_named(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(BernoulliData(2, 5, root=root))
    (path,) = (Path(root) / "bernoulli").iterdir()
    monkeypatch.setattr("mdlm_cfg.training.data.bernoulli_data.fit_em", None)
    assert ready(BernoulliData(2, 5, root=root, seed=7)).describe() == first.describe()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        ready(BernoulliData(2, 5, root=root))


def test_a_fit_that_cannot_be_kept_is_used_and_said(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    data = ready(BernoulliData(2, 3, root=root))
    said = [line for line in capsys.readouterr().err.splitlines() if root in line]  # beside the progress of the fit
    assert len(said) == 1
    assert [path for path in (Path(root) / "bernoulli").rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    assert torch.equal(data.target.probabilities, ready(BernoulliData(2, 3, root=root)).target.probabilities)
