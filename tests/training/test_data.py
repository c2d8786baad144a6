"""Data modules on synthetic files: shapes, laws, seeds, and what a checkpoint records."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from idx_files import write_dataset
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.data import (
    BernoulliData,
    BinaryImageData,
    DiffusionData,
    ImageData,
    TableData,
    TinyMnistData,
)
from mdlm_cfg.training.data.idx import FILES


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A folder of synthetic digits, 8 x 8: class k has k bright columns, and everything else is noise."""
    rng = np.random.default_rng(0)
    arrays: list[np.ndarray] = []
    for num in (90, 30):
        labels = np.arange(num, dtype=np.uint8) % 3
        images = rng.integers(0, 120, (num, 8, 8), dtype=np.uint8)
        for image, k in zip(images, labels, strict=True):
            image[:, : 2 * k] = 255
        arrays += [images, labels]
    write_dataset(tmp_path / "MNIST" / "raw", arrays)
    return str(tmp_path)


def table(**settings: object) -> TableData:
    return TableData(toy_2d_overlap(), "toy", **{"batch_size": 64, "steps_per_epoch": 5, **settings})


def ready(data: DiffusionData) -> DiffusionData:
    data.prepare_data()
    data.setup()
    return data


def batches(data: DiffusionData, epoch: int, rank: int = 0, world_size: int = 1) -> list[torch.Tensor]:
    return [x for x, _ in data._epoch(epoch, rank, world_size)]


def make_all(root: str) -> list[DiffusionData]:
    return [
        table(),
        TinyMnistData(2, 3, root=root, batch_size=64, steps_per_epoch=5),
        BernoulliData(3, 5, root=root, steps_per_epoch=5, num_test=500),
        BinaryImageData(root=root, batch_size=16, num_val=20),
    ]


def test_every_module_keeps_the_common_interface(root: str) -> None:
    for data, grid, kind in zip(
        make_all(root),
        [(2,), (2, 3), (8, 8), (8, 8)],
        [TableMixture, TableMixture, BernoulliMixture, type(None)],
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
    assert not torch.equal(batches(ready(table(seed=1)), 0)[0], batches(ready(table()), 0)[0])


def test_without_a_trainer_every_pass_is_a_new_epoch() -> None:
    loader = ready(table()).train_dataloader()
    one, two = (torch.cat([x for x, _ in loader]) for _ in range(2))
    assert torch.equal(one, torch.cat(batches(ready(table()), 0)))
    assert torch.equal(two, torch.cat(batches(ready(table()), 1)))


def test_held_out_samples_do_not_depend_on_the_seed() -> None:
    one, two = ready(table(seed=0)), ready(table(seed=1))
    assert torch.equal(next(iter(one.test_dataloader()))[0], next(iter(two.test_dataloader()))[0])
    assert not torch.equal(one._val[0][:100], one._test[0][:100])


class Recorder(LightningModule):
    """Remembers a hash of every training batch, by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[int, list[int]] = {}

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        self.seen.setdefault(self.current_epoch, []).append(hash(batch[0].numpy().tobytes()))
        return self.weight.sum()

    def validation_step(self, batch: object, _: int) -> None:
        """Validation takes place, and must not disturb the training batches."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


def fit(data: DiffusionData, folder: Path, epochs: int, resume: str | None = None) -> Recorder:
    module = Recorder()
    checkpoint = ModelCheckpoint(folder, filename="last", enable_version_counter=False)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, callbacks=[checkpoint], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume)
    return module


@pytest.mark.parametrize("which", [0, 3])
def test_resuming_at_an_epoch_repeats_an_uninterrupted_run(root: str, tmp_path: Path, which: int) -> None:
    whole = fit(make_all(root)[which], tmp_path / "whole", 4).seen
    fit(make_all(root)[which], tmp_path / "half", 2)
    resumed = fit(make_all(root)[which], tmp_path / "half", 4, str(tmp_path / "half" / "last.ckpt")).seen
    assert [len(whole[epoch]) for epoch in range(4)] == [5] * 4
    assert len({h for hashes in whole.values() for h in hashes}) == 20
    assert resumed == {epoch: whole[epoch] for epoch in (2, 3)}


def test_tables_are_sampled_by_their_law() -> None:
    data = ready(table(batch_size=50_000, steps_per_epoch=2))
    x, classes = next(iter(data.train_dataloader()))
    expected = 50_000 * (data.target.class_weights[:, None] * data.target.class_pmfs.flatten(1)).flatten()
    observed = torch.bincount(classes * 256 + x[:, 0] * 16 + x[:, 1], minlength=512).double()
    assert observed[expected == 0].sum() == 0
    keep = expected > 0
    chi2, dof = float(((observed - expected)[keep] ** 2 / expected[keep]).sum()), int(keep.sum()) - 1
    assert chi2 < dof + 4 * (2 * dof) ** 0.5


def test_fingerprints_tell_data_apart(root: str) -> None:
    modules = [
        *make_all(root),
        TinyMnistData(2, 3, threshold=200, root=root),
        BernoulliData(3, 6, root=root),
        *(BinaryImageData(root=root, binarization=how) for how in ("static", "threshold")),
    ]
    prints = [ready(data).describe()["fingerprint"] for data in modules]
    assert len(set(prints)) == len(prints)
    assert prints[:4] == [ready(data).describe()["fingerprint"] for data in make_all(root)]


def test_every_image_is_seen_once_an_epoch_by_one_rank(root: str) -> None:
    data = ready(BinaryImageData(root=root, batch_size=15, binarization="threshold"))
    everything = sorted(map(tuple, (data.train_images // 255).tolist()))
    assert sorted(map(tuple, torch.cat(batches(data, 0)).tolist())) == everything
    halves = torch.cat([torch.cat(batches(data, 0, rank, 2)) for rank in (0, 1)])
    assert sorted(map(tuple, halves.tolist())) == everything


def test_binarizations_do_what_they_say(root: str) -> None:
    def epoch(how: str, number: int) -> torch.Tensor:
        """An epoch's images, in the order of the files."""
        data = ready(BinaryImageData(root=root, batch_size=90, binarization=how))
        (x,) = batches(data, number)
        order = torch.randperm(90, generator=generator_for("order", 0, number))
        return x[order.argsort()]

    grey = ready(BinaryImageData(root=root)).train_images
    assert torch.equal(epoch("threshold", 0), (grey > 127).long())
    assert torch.equal(epoch("static", 0), epoch("static", 1))
    assert not torch.equal(epoch("dynamic", 0), epoch("dynamic", 1))
    mean = torch.stack([epoch("dynamic", n) for n in range(50)]).double().mean()
    assert mean == pytest.approx(float(grey.double().mean()) / 255, abs=0.003)
    tests = {how: ready(BinaryImageData(root=root, binarization=how)).test_x for how in ("dynamic", "static")}
    assert torch.equal(tests["dynamic"], tests["static"])


def test_limits_on_test_images(root: str) -> None:
    data = ready(BinaryImageData(root=root, num_test=7, eval_batch_size=5))
    assert [len(x) for x, _ in data.test_dataloader()] == [5, 2]


def test_folder_of_idx_files_is_a_data_set(root: str) -> None:
    data = ready(BinaryImageData(dataset=f"{root}/MNIST/raw"))
    assert data.name == "raw" and data.num_classes == 3 and len(data.train_images) == 90
    with pytest.raises(ValueError, match="'nonsense' is neither mnist nor fashion_mnist nor a folder"):
        ready(BinaryImageData(dataset="nonsense", root=root))


def test_corrupt_file_ends_setup_with_its_name(root: str) -> None:
    path = Path(root) / "MNIST" / "raw" / FILES[0]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=FILES[0]):
        ready(BinaryImageData(root=root))


def test_tiny_mnist_is_counted_from_the_images(root: str) -> None:
    data = ready(TinyMnistData(1, 4, threshold=150, root=root))
    pmfs = data.target.class_pmfs
    assert pmfs[0, 0, 0, 0, 0] == pmfs[1, 1, 0, 0, 0] == pmfs[2, 1, 1, 0, 0] == 1
    torch.testing.assert_close(data.target.class_weights, torch.full((3,), 1 / 3).double())


def test_fit_is_kept_and_a_damaged_one_is_named(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ready(BernoulliData(2, 5, root=root))
    (path,) = (Path(root) / "bernoulli").iterdir()
    monkeypatch.setattr("mdlm_cfg.training.data.bernoulli_data.fit_em", None)
    assert ready(BernoulliData(2, 5, root=root, seed=7)).describe() == first.describe()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"{path.name} is damaged: delete it"):
        ready(BernoulliData(2, 5, root=root))


def test_bad_settings_are_refused(root: str) -> None:
    for make, complaint in (
        (lambda: table(batch_size=0), "batch_size must be at least 1, not 0"),
        (lambda: table(steps_per_epoch=0), "steps_per_epoch must be at least 1"),
        (lambda: table(grid_shape=[3]), r"grid_shape \(3,\) must have 2 cells"),
        (lambda: BinaryImageData(binarization="maybe"), "'maybe' is unknown; choose one of dynamic"),
        (lambda: BinaryImageData("fashion_mnist", binarization="larochelle"), "is of MNIST"),
        (lambda: BernoulliData(binarization="dynamic"), "choose static or threshold"),
        (lambda: ready(BinaryImageData(root=root, binarization="larochelle")), "lacks binarized_mnist_train"),
    ):
        with pytest.raises(ValueError, match=complaint):
            make()


def dataset(folder: Path, images: list[np.ndarray], labels: list[np.ndarray]) -> str:
    write_dataset(folder, [images[0], labels[0], images[1], labels[1]])
    return str(folder)


def test_images_of_zeros_and_ones_are_those_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [np.arange(60) % 3, np.arange(30) % 3]
    images = [rng.integers(0, 2, (len(part), 4, 4)) for part in labels]
    ones = dataset(tmp_path / "ones", images, labels)
    whites = dataset(tmp_path / "whites", [255 * part for part in images], labels)
    for how in ("dynamic", "static", "threshold"):
        data, same = (ready(ImageData(folder, binarization=how, batch_size=60)) for folder in (ones, whites))
        assert torch.equal(data.test_x.reshape(-1, 4, 4), torch.from_numpy(images[1]).to(torch.uint8))
        (x,) = batches(data, 0)
        assert torch.equal(x, batches(same, 0)[0]) and sorted(map(tuple, x.tolist())) == sorted(
            map(tuple, images[0].reshape(-1, 16).tolist())
        )
    tiny = [ready(TinyMnistData(2, 2, dataset=folder)).target for folder in (ones, whites)]
    assert torch.equal(tiny[0].class_pmfs, tiny[1].class_pmfs)
    fits = [ready(BernoulliData(2, 3, dataset=folder, root=str(tmp_path))).target for folder in (ones, whites)]
    assert torch.equal(fits[0].probabilities, fits[1].probabilities)


def test_labels_are_counted_anew_on_request(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [np.arange(60) % 3 * 5 + 1, np.arange(30) % 3 * 5 + 1]
    folder = dataset(tmp_path, [rng.integers(0, 256, (len(part), 4, 4)) for part in labels], labels)
    with pytest.raises(UserError, match=r"labels are 1, 6, 11, .*data\.relabel=true"):
        ready(ImageData(folder))
    data = ready(ImageData(folder, relabel=True))
    assert data.num_classes == 3 and data.class_names == ("1", "6", "11")
    assert [int(data.class_names[k]) for k in data.train_labels] == labels[0].tolist()
    labels[0][0] = 99
    folder = dataset(tmp_path, [rng.integers(0, 256, (len(part), 4, 4)) for part in labels], labels)
    with pytest.raises(UserError, match="class '99' has 1 training example, and needs at least 2"):
        ready(ImageData(folder, relabel=True))


def test_tables_that_nothing_can_be_learned_from_are_refused() -> None:
    weightless = TableMixture(torch.full((2, 3), 1 / 3), torch.tensor([1.0, 0.0]))
    assert TableData(weightless, "t").name == "t"  # its other classes can be learned, and judged
    large = TableMixture(torch.full((1, *[2] * 20), 2.0**-20), torch.ones(1))
    with pytest.raises(UserError, match=r"\(2\+1\)\^20 = 3\.49e\+09 partial states"):
        TableData(large, "t")
    with pytest.raises(UserError, match="num_test must be a whole number"):
        table(num_test=None)


def test_a_fit_that_cannot_be_kept_is_used_and_said(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    data = BernoulliData(2, 3, root=root)
    data.prepare_data()
    data.setup("fit")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path for path in (Path(root) / "bernoulli").rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    kept = BernoulliData(2, 3, root=root)
    kept.prepare_data()
    kept.setup("fit")
    assert torch.equal(data.target.probabilities, kept.target.probabilities)
