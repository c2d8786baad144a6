"""What all data modules share: batches by seed, epoch and rank, resuming, descriptions."""

from __future__ import annotations

import json

import numpy as np
import torch
from harness import batches, ready, toy_data

from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.sequences import motif_in_noise
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.data import BernoulliData, DiffusionData, ImageData, TargetData, TinyMnistData


def make_all(root: str) -> list[DiffusionData]:
    return [
        toy_data(),
        TinyMnistData(2, 3, root=root, batch_size=64, steps_per_epoch=5),
        BernoulliData(3, 5, root=root, steps_per_epoch=5, num_test=500),
        ImageData(root=root, batch_size=16, num_val=20),
        TargetData(motif_in_noise(num_dims=12), "motif", steps_per_epoch=5, num_test=40),
    ]


def test_every_module_keeps_the_common_interface(root: str) -> None:
    for data, grid, kind in zip(
        make_all(root),
        [(2,), (2, 3), (8, 8), (8, 8), (12,)],
        [TableMixture, TableMixture, BernoulliMixture, type(None), HiddenMarkovMixture],
        strict=True,
    ):
        ready(data)
        assert data.grid_shape == grid and isinstance(data.target, kind)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            seen = list(loader)
            assert len(seen) == len(loader) > 0
            for x, classes in seen:
                assert x.dtype == classes.dtype == torch.int64
                assert x.shape == (len(classes), int(np.prod(grid)))
                assert x.min() >= 0 and x.max() < data.num_tokens
                assert classes.min() >= 0 and classes.max() < data.num_classes
        description = data.describe()
        assert json.loads(json.dumps(description)) == description
        assert description["name"] == data.name and description["grid_shape"] == list(grid)


def test_training_batches_follow_seed_epoch_and_rank_alone(root: str) -> None:
    for data, again in zip(make_all(root), make_all(root), strict=True):
        ready(data), ready(again)
        first = torch.cat(batches(data, 3, 1, 2))
        assert torch.equal(first, torch.cat(batches(again, 3, 1, 2)))
        assert not torch.equal(first, torch.cat(batches(data, 4, 1, 2)))
        assert not torch.equal(first, torch.cat(batches(data, 3, 0, 2)))
    assert not torch.equal(batches(ready(toy_data(seed=1)), 0)[0], batches(ready(toy_data()), 0)[0])


def test_without_a_trainer_every_pass_is_a_new_epoch() -> None:
    loader = ready(toy_data()).train_dataloader()
    one, two = (torch.cat([x for x, _ in loader]) for _ in range(2))
    assert torch.equal(one, torch.cat(batches(ready(toy_data()), 0)))
    assert torch.equal(two, torch.cat(batches(ready(toy_data()), 1)))


def test_held_out_samples_do_not_depend_on_the_seed() -> None:
    one = ready(toy_data(seed=0))
    two = ready(toy_data(seed=1))
    assert torch.equal(next(iter(one.test_dataloader()))[0], next(iter(two.test_dataloader()))[0])
    assert not torch.equal(one._val[0][:100], one._test[0][:100])


def test_fingerprints_tell_data_apart(root: str) -> None:
    modules = [
        *make_all(root),
        TinyMnistData(2, 3, threshold=200, root=root),
        BernoulliData(3, 6, root=root),
        *(ImageData(root=root, binarization=how) for how in ("static", "threshold")),
    ]
    prints = [ready(data).describe()["fingerprint"] for data in modules]
    assert len(set(prints)) == len(prints)
    assert prints[:5] == [ready(data).describe()["fingerprint"] for data in make_all(root)]
