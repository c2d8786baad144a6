"""Images become tokens, from IDX files and from arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import batches, everything, pairs, ready
from idx_files import write_dataset

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.training.data import BernoulliData, ImageData, TinyMnistData


def test_every_image_is_seen_once_an_epoch_by_one_rank(root: str) -> None:
    data = ready(ImageData(root=root, batch_size=15, binarization="threshold"))
    everything = sorted(map(tuple, (data.train_x // 255).tolist()))
    assert sorted(map(tuple, torch.cat(batches(data, 0)).tolist())) == everything
    halves = torch.cat([torch.cat(batches(data, 0, rank, 2)) for rank in (0, 1)])
    assert sorted(map(tuple, halves.tolist())) == everything


def test_binarizations_do_what_they_say(root: str) -> None:
    def epoch(how: str, number: int) -> torch.Tensor:
        """An epoch's images, in the order of the files."""
        data = ready(ImageData(root=root, batch_size=90, binarization=how))
        (x,) = batches(data, number)
        order = torch.randperm(90, generator=generator_for("order", 0, number))
        return x[order.argsort()]

    grey = ready(ImageData(root=root)).train_x
    assert torch.equal(epoch("threshold", 0), (grey > 127).long())
    assert torch.equal(epoch("static", 0), epoch("static", 1))
    assert not torch.equal(epoch("dynamic", 0), epoch("dynamic", 1))
    mean = torch.stack([epoch("dynamic", n) for n in range(50)]).double().mean()
    assert mean == pytest.approx(float(grey.double().mean()) / 255, abs=0.003)
    tests = {how: ready(ImageData(root=root, binarization=how)).test_x for how in ("dynamic", "static")}
    assert torch.equal(tests["dynamic"], tests["static"])


def test_limits_on_test_images(root: str) -> None:
    data = ready(ImageData(root=root, num_test=7, eval_batch_size=5))
    assert [len(x) for x, _ in data.test_dataloader()] == [5, 2]


def test_folder_of_idx_files_is_a_data_set(root: str) -> None:
    data = ready(ImageData(dataset=f"{root}/MNIST/raw"))
    assert data.name == "raw" and data.num_classes == 3 and len(data.train_x) == 90
    with pytest.raises(ValueError, match=r"'nonsense'.*fashion_mnist"):
        ready(ImageData(dataset="nonsense", root=root))


def test_bad_settings_are_refused(root: str) -> None:
    for make, complaint in (
        (lambda: ImageData(binarization="maybe"), "'maybe'.*dynamic, threshold, static, larochelle"),
        (lambda: ImageData("fashion_mnist", binarization="larochelle"), "binarization=larochelle.*fashion_mnist"),
        (lambda: BernoulliData(binarization="dynamic"), "'dynamic'.*static.*threshold"),
        (lambda: ready(ImageData(root=root, binarization="larochelle")), r"mnist_train\.amat.*binarization=static"),
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


RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 4, 6), dtype=np.uint8)
GREY[:, 0, 0] = 255
LABELS = [k % 3 for k in range(30)]


def test_images_in_a_file_come_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "i.npz", images=GREY, labels=LABELS, class_names=["a", "b", "c"])
    data = ready(ImageData(str(tmp_path / "i.npz"), levels=256))
    assert everything(data) == pairs(GREY, LABELS) and data.name == "i" and data.class_names == ("a", "b", "c")
    np.savez(tmp_path / "j.npz", images=GREY // 64, labels=LABELS, test_images=GREY[:3] // 64, test_labels=[0, 1, 2])
    tokens = ready(ImageData(str(tmp_path / "j.npz"), levels=4))
    assert pairs(tokens.train_x, tokens.train_labels) == pairs(GREY // 64, LABELS)
    assert tokens.test_x.tolist() == (GREY[:3] // 64).reshape(3, -1).tolist()


@pytest.mark.parametrize(
    ("held", "complaint"),
    [
        ({"labels": LABELS}, r"images\b.*\blabels$"),
        ({"images": GREY, "labels": LABELS[:9]}, r"images.*\(30, 4, 6\).*\(9,\)"),
        ({"images": GREY / 255, "labels": LABELS}, r"images.*float64.*\(30, 4, 6\)"),
        ({"images": GREY.astype(int) - 1, "labels": LABELS}, r"images\D*-1\b.* 0 to 255\b"),
        ({"images": GREY[..., None], "labels": LABELS}, r"images.*\(27, 4, 6, 1\)"),
        ({"images": GREY.astype(int) * 2, "labels": LABELS}, r"images\D*0 to 510\b.* 0 to 255\b"),
        ({"images": GREY, "labels": LABELS, "class_names": ["a"]}, r"class_names.*\b3\b.*\b1\b.*\b1\b"),
        ({"images": GREY, "labels": LABELS, "test_labels": [0]}, "test_images.*test_labels"),
    ],
)
def test_bad_images_in_a_file_are_refused(tmp_path: Path, held: dict[str, Any], complaint: str) -> None:
    np.savez(tmp_path / "i.npz", **held)
    with pytest.raises(UserError, match=complaint) as error:
        ready(ImageData(str(tmp_path / "i.npz")))
    assert "\n" not in str(error.value)
