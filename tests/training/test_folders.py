"""Folders of PNGs by class, and how grey values become tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import ImageData
from mdlm_cfg.training.data.examples import split
from mdlm_cfg.training.data.folders import load_class_folders
from mdlm_cfg.training.data.levels import on_grey_scale, quantize

RNG = np.random.default_rng(0)


def write_png(path: Path, pixels: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)


def write_classes(folder: Path, counts: dict[str, int], size: tuple[int, int] = (4, 6)) -> dict[str, np.ndarray]:
    """Random images by class, each with its first pixel telling its number."""
    made = {}
    for name, count in counts.items():
        made[name] = RNG.integers(0, 256, (count, *size), dtype=np.uint8)
        for number, pixels in enumerate(made[name]):
            write_png(folder / name / f"{number:03d}.png", pixels)
    return made


def rows(images: torch.Tensor | np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(np.asarray(image).flatten().tolist()) for image in images}


def test_every_image_comes_back_once_under_its_class(tmp_path: Path) -> None:
    made = write_classes(tmp_path, {"10": 20, "9": 30, "2": 5})
    (tmp_path / ".hidden").mkdir()
    found = load_class_folders(tmp_path)
    assert found.class_names == ("2", "9", "10")
    for k, name in enumerate(found.class_names):
        train, test = found.train[found.train_labels == k], found.test[found.test_labels == k]
        assert len(test) == max(1, round(len(made[name]) / 10))
        assert rows(train) | rows(test) == rows(made[name]) and not rows(train) & rows(test)
    again = load_class_folders(tmp_path)
    assert torch.equal(found.test, again.test) and torch.equal(found.train, again.train)
    assert len(set(found.train_labels[:20].tolist())) == 3, "the first images are of all classes"


def test_a_test_folder_is_the_test_set(tmp_path: Path) -> None:
    train = write_classes(tmp_path / "train", {"cat": 4, "dog": 3})
    test = write_classes(tmp_path / "test", {"dog": 2})
    found = load_class_folders(tmp_path)
    assert found.class_names == ("cat", "dog") and found.test_labels.tolist() == [1, 1]
    assert rows(found.test) == rows(test["dog"]) and rows(found.train[found.train_labels == 0]) == rows(train["cat"])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_grey_pictures_are_grey_whatever_their_mode(tmp_path: Path, mode: str) -> None:
    pixels = np.array([[0, 255], [255, 0]], dtype=np.uint8)
    for number in range(3):
        write_png(tmp_path / "a" / f"{number}.png", pixels, mode)
        write_png(tmp_path / "b" / f"{number}.PNG", 255 - pixels, mode)
    found = load_class_folders(tmp_path)
    assert found.test[found.test_labels == 0][0].tolist() == pixels.tolist()
    assert found.test[found.test_labels == 1][0].tolist() == (255 - pixels).tolist()


def test_what_is_wrong_is_said_in_a_sentence(tmp_path: Path) -> None:
    def refused(folder: str, complaint: str) -> None:
        with pytest.raises(UserError, match=complaint) as error:
            ImageData(str(tmp_path / folder)).setup()
        assert "\n" not in str(error.value)

    write_classes(tmp_path / "sizes", {"a": 3, "b": 3})
    write_png(tmp_path / "sizes" / "b" / "9.png", np.zeros((5, 6), np.uint8))
    refused("sizes", r"9\.png is 5 x 6 pixels and .*000\.png 4 x 6")
    write_classes(tmp_path / "few", {"a": 3, "b": 2})
    refused("few", "class 'b' has 2 training examples, and needs at least 3")
    write_classes(tmp_path / "apart" / "train", {"a": 3, "b": 1})
    write_classes(tmp_path / "apart" / "test", {"a": 1})
    refused("apart", "class 'b' has 1 training example, and needs at least 2")
    write_classes(tmp_path / "apart" / "test", {"c": 1})
    refused("apart", "holds class 'c'")
    write_classes(tmp_path / "broken", {"a": 3, "b": 3})
    (tmp_path / "broken" / "a" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    refused("broken", r"001\.png is not a readable image")
    write_classes(tmp_path / "clear", {"a": 3, "b": 3})
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(tmp_path / "clear" / "a" / "000.png")
    refused("clear", "transparent in places")
    write_classes(tmp_path / "deep", {"a": 3, "b": 3})
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(tmp_path / "deep" / "a" / "000.png")
    refused("deep", "more than 8 bits")
    write_classes(tmp_path / "gone", {"a": 3, "b": 3})
    for path in (tmp_path / "gone" / "a").iterdir():
        path.rename(path.with_suffix(".bmp"))
    refused("gone", r"gone/a holds no images: .* it holds 000\.bmp, 001\.bmp")
    (tmp_path / "empty").mkdir()
    refused("empty", "lacks train-images.* it is empty")


def test_levels_are_equal_bins_and_two_are_the_threshold() -> None:
    grey = torch.arange(256, dtype=torch.uint8)
    for levels in (2, 3, 4, 16, 100, 256):
        tokens = quantize(grey, levels)
        assert tokens.tolist() == [int(v) * levels // 256 for v in grey.tolist()]
        assert tokens[0] == 0 and tokens[-1] == levels - 1
    assert torch.equal(quantize(grey, 2), (grey > 127).to(torch.uint8))


@pytest.mark.parametrize("levels", range(2, 257))
def test_tokens_stay_what_they_are(levels: int) -> None:
    tokens = torch.arange(levels, dtype=torch.int32).to(torch.uint8).reshape(1, 1, -1)
    train, test, were_tokens = on_grey_scale("x", tokens, tokens, levels)
    assert were_tokens and torch.equal(quantize(train, levels), tokens) and torch.equal(train, test)
    if levels == 2:
        assert train.flatten().tolist() == [0, 255]


def test_images_on_no_known_scale_are_refused() -> None:
    def refused(train: int, test: int, levels: int, complaint: str) -> None:
        x, y = (torch.full((1, 1, 1), value, dtype=torch.uint8) for value in (train, test))
        with pytest.raises(UserError, match=complaint):
            on_grey_scale("x", x, y, levels)

    refused(15, 15, 2, "is 15, all but black .* or give levels=16")
    refused(0, 0, 2, "is 0, all but black")
    refused(1, 255, 2, "values 0 to 1 and the test images up to 255")


def test_a_class_of_images_with_levels_has_so_many_tokens(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 30, "b": 30})
    data = ImageData(str(tmp_path), levels=4, batch_size=9)
    data.setup()
    assert data.num_tokens == 4 and data.class_names == ("a", "b") and data.grid_shape == (4, 6)
    seen = torch.cat([x for x, _ in data._epoch(0, 0, 1)])
    assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, data.train_x.tolist()))
    assert set(seen.unique().tolist()) == {0, 1, 2, 3}
    assert torch.equal(data.train_x.reshape(-1, 4, 6), quantize(load_class_folders(tmp_path).train, 4))
    two = ImageData(str(tmp_path), levels=2)
    two.setup()
    assert two.fingerprint() != data.fingerprint() and data.describe()["binarization"] is None
    for settings, complaint in (
        ({"levels": 4, "binarization": "static"}, "makes two levels"),
        ({"levels": 1}, "from 2 to 256"),
        ({"levels": 257}, "from 2 to 256"),
        ({"levels": "4"}, "from 2 to 256"),
        ({"batch_size": 1e30}, "whole number of at least 1"),
        ({"batch_size": 10**30}, "at most 2147483647"),
        ({"num_val": True}, "whole number"),
        ({"seed": "a"}, "seed must be a whole number"),
    ):
        with pytest.raises(UserError, match=complaint):
            ImageData(str(tmp_path), **settings)


def test_the_split_keeps_a_tenth_of_every_class() -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor([3, 50, 100]))
    train, test = split("x", labels)
    assert sorted([*train.tolist(), *test.tolist()]) == list(range(153))
    assert torch.bincount(labels[test]).tolist() == [1, 5, 10]
