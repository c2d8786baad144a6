"""Data of hidden Markov mixtures: fresh sequences of the stated law, the same wherever the same is asked for."""

from __future__ import annotations

import json

import pytest
import torch

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.sequences import motif_in_noise
from mdlm_cfg.training.data import HiddenMarkovData


def ready(**options: object) -> HiddenMarkovData:
    data = HiddenMarkovData(motif_in_noise(num_dims=12), "motif", steps_per_epoch=3, **options)  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def test_it_keeps_the_common_interface() -> None:
    data = ready(batch_size=16, num_val=20, num_test=30, eval_batch_size=8)
    assert data.grid_shape == (12,) and data.value_names == tuple("ACGT") and data.class_names is not None
    for loader, count in ((data.train_dataloader(), 48), (data.val_dataloader(), 20), (data.test_dataloader(), 30)):
        seen = list(loader)
        assert len(seen) == len(loader) and sum(len(x) for x, _ in seen) == count
        for x, classes in seen:
            assert x.dtype == classes.dtype == torch.int64 and x.shape == (len(classes), 12)
            assert int(x.min()) >= 0 and int(x.max()) < 4 and set(classes.tolist()) <= {0, 1}
    description = data.describe()
    assert json.loads(json.dumps(description)) == description and description["grid_shape"] == [12]
    assert data.fingerprint() == motif_in_noise(num_dims=12).fingerprint() != motif_in_noise(13).fingerprint()


def test_batches_follow_seed_epoch_and_rank_and_tests_do_not() -> None:
    data, again, other = ready(num_test=40), ready(num_test=40), ready(num_test=40, seed=1)

    def batches(one: HiddenMarkovData, epoch: int, rank: int) -> torch.Tensor:
        return torch.cat([x for x, _ in one._epoch(epoch, rank, 2)])

    first = batches(data, 3, 1)
    assert torch.equal(first, batches(again, 3, 1))
    for different in (batches(data, 4, 1), batches(data, 3, 0), batches(other, 3, 1)):
        assert not torch.equal(first, different)
    assert torch.equal(data._test[0], other._test[0]) and torch.equal(data._val[0], other._val[0])
    assert not torch.equal(data._test[0][:20], data._val[0][:20])


def test_training_sequences_follow_the_mixture() -> None:
    data = ready(batch_size=5000)
    x, classes = next(iter(data.train_dataloader()))
    assert abs(float((classes == 1).double().mean()) - 0.5) < 0.03
    nelbo = -float(motif_in_noise(num_dims=12).log_prob(x, classes).mean())
    fresh = motif_in_noise(num_dims=12)
    y, labels = fresh.sample(5000, torch.Generator().manual_seed(9))
    assert nelbo == pytest.approx(-float(fresh.log_prob(y, labels).mean()), abs=0.1)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        HiddenMarkovData(motif_in_noise(), "motif", batch_size=0)
    with pytest.raises(UserError, match="steps_per_epoch must be at least 1"):
        HiddenMarkovData(motif_in_noise(), "motif", steps_per_epoch=0)
