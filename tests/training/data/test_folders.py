"""Images in a folder for each class."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from folders_of_images import write_classes, write_png
from PIL import Image

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import ImageData
from mdlm_cfg.training.data.folders import load_class_folders
from mdlm_cfg.training.data.levels import quantize


def rows(images: torch.Tensor | np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(np.asarray(image).flatten().tolist()) for image in images}


def test_every_image_comes_back_once_under_its_class(tmp_path: Path) -> None:
    made = write_classes(tmp_path, {"10": 20, "9": 30, "2": 5})
    (tmp_path / ".hidden").mkdir()
    found = load_class_folders(tmp_path)
    assert found.class_names == ("2", "9", "10")
    for k, name in enumerate(found.class_names):
        train = found.train[found.train_labels == k]
        test = found.test[found.test_labels == k]
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
    refused("sizes", r"9\.png .*\(5, 6\).*000\.png .*\(4, 6\)")
    write_classes(tmp_path / "few", {"a": 3, "b": 2})
    refused("few", r"'b'.*\b2\b.*\b3\b")
    write_classes(tmp_path / "apart" / "train", {"a": 3, "b": 1})
    write_classes(tmp_path / "apart" / "test", {"a": 1})
    refused("apart", r"'b'.*\b1\b.*\b2\b")
    write_classes(tmp_path / "apart" / "test", {"c": 1})
    refused("apart", "apart/test .*'c'.*apart/train")
    write_classes(tmp_path / "broken", {"a": 3, "b": 3})
    (tmp_path / "broken" / "a" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    refused("broken", r"broken/a/001\.png")
    write_classes(tmp_path / "clear", {"a": 3, "b": 3})
    Image.new("RGBA", (6, 4), (0, 0, 0, 0)).save(tmp_path / "clear" / "a" / "000.png")
    refused("clear", r"clear/a/000\.png")
    write_classes(tmp_path / "deep", {"a": 3, "b": 3})
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(tmp_path / "deep" / "a" / "000.png")
    refused("deep", r"deep/a/000\.png .*\b8\b")
    write_classes(tmp_path / "gone", {"a": 3, "b": 3})
    for path in (tmp_path / "gone" / "a").iterdir():
        path.rename(path.with_suffix(".bmp"))
    refused("gone", r"gone/a .*000\.bmp, 001\.bmp")
    (tmp_path / "empty").mkdir()
    refused("empty", "/empty .*train-images-idx3-ubyte")


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
        ({"levels": 4, "binarization": "static"}, "binarization=static.*levels=4"),
        ({"levels": 1}, "levels = 1 .* 2 to 256"),
        ({"levels": 257}, "levels = 257 .* 2 to 256"),
        ({"levels": "4"}, "levels = '4' .* 2 to 256"),
        ({"batch_size": 1e30}, "batch_size"),
        ({"batch_size": 10**30}, "batch_size"),
        ({"num_val": True}, "num_val"),
        ({"seed": "a"}, "seed"),
    ):
        with pytest.raises(UserError, match=complaint):
            ImageData(str(tmp_path), **settings)


def png_of_16_bits(pixels: np.ndarray) -> bytes:
    """A colour PNG of 16 bits per channel, uint16 (height, width, 3), written by hand."""
    height, width = pixels.shape[:2]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_colours_of_16_bits_are_refused_and_not_cut_to_8(tmp_path: Path) -> None:
    write_classes(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a" / "000.png").write_bytes(png_of_16_bits(np.full((4, 6, 3), 1000)))
    with pytest.raises(UserError, match=r"a/000\.png .*\b8\b"):
        load_class_folders(tmp_path)


def test_png_jpeg_and_gif_are_read_and_what_is_left_out_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_classes(tmp_path, {"a": 3, "b": 5})
    for number, suffix in ((0, ".gif"), (1, ".GIF"), (2, ".jpg"), (3, ".JPEG")):
        Image.fromarray(made["b"][number]).save(tmp_path / "b" / f"{number:03d}{suffix}", quality=100)
        (tmp_path / "b" / f"{number:03d}.png").unlink()
    write_classes(tmp_path / "b", {"deeper": 2})
    (tmp_path / "a" / "notes.txt").write_text("")
    for system in (".DS_Store", "._000.png", "Thumbs.db"):
        (tmp_path / "a" / system).write_bytes(b"no image")
    write_classes(tmp_path / "__MACOSX", {"a": 1})
    found = load_class_folders(tmp_path)
    assert found.class_names == ("a", "b")
    images = torch.cat([found.train, found.test]).double()
    for name, each in made.items():
        label = found.class_names.index(name)
        own = images[torch.cat([found.train_labels, found.test_labels]) == label]
        assert len(own) == len(each)
        distances = (own[:, None] - torch.from_numpy(each).double()).abs().amax(dim=(2, 3))
        assert sorted(distances.argmin(dim=1).tolist()) == list(range(len(each))), "every image is there once"
        assert float(distances.amin(dim=1).max()) <= 8, "JPEG rounds"
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "'a/notes.txt', 'b/deeper/'" in line)
    assert "DS_Store" not in line and "._000" not in line


@pytest.mark.parametrize(("suffix", "kind"), [(".gif", "GIF"), (".png", "GIF"), (".png", "PNG")])
def test_animated_images_are_refused(tmp_path: Path, suffix: str, kind: str) -> None:
    made = write_classes(tmp_path, {"a": 3, "b": 3})
    first, *others = (Image.fromarray(pixels) for pixels in made["a"])
    first.save(tmp_path / "a" / f"moving{suffix}", format=kind, save_all=True, append_images=others)
    with pytest.raises(UserError, match=rf"a/moving\{suffix} .*\b3\b"):
        load_class_folders(tmp_path)


def test_photographs_are_turned_as_they_say(tmp_path: Path) -> None:
    pixels = np.repeat(np.repeat(np.array([[0, 255, 0], [0, 0, 0]], np.uint8), 8, axis=0), 8, axis=1)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be shown a quarter turn clockwise
    for name in "ab":
        for number in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.jpg", exif=turned, quality=100)
    seen = load_class_folders(tmp_path).train[0].numpy()
    assert seen.shape == (24, 16) and np.abs(seen.astype(int) - np.rot90(pixels, -1)).max() < 16
