"""IDX files are read whole or refused."""

from __future__ import annotations

import gzip
import struct
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from idx_files import idx_bytes, write_idx, write_images

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import ImageData, idx
from mdlm_cfg.training.data.examples import Examples


def parts(found: Examples) -> tuple[torch.Tensor, ...]:
    return found.train, found.train_labels, found.test, found.test_labels


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reads_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    arrays = write_images(tmp_path, suffix=suffix)
    for read, written in zip(parts(idx.load_idx_dataset(tmp_path)), arrays, strict=True):
        np.testing.assert_array_equal(read, written)


def test_reads_other_types(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0, 3.25]])
    content = bytes([0, 0, 0x0E, 2]) + struct.pack(">2I", 1, 3) + values.astype(">f8").tobytes()
    (tmp_path / "x").write_bytes(content)
    np.testing.assert_array_equal(idx.read_idx(tmp_path / "x"), values)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "-idx "),
        (b"<html>404</html>", " IDX .*3c68746d"),
        (bytes([0, 0, 8, 3, 0, 0]), r"\b6 bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 5, 1, 2]), r"\(5,\).*\b13\b"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 1, 2]), r"\(1,\).*\b9\b"),
        (gzip.compress(bytes([0, 0, 8, 1, 0, 0, 3, 232]) + bytes(1000), mtime=0)[:-12], " gzip "),
        (gzip.compress(bytes(1000), mtime=0), " IDX .*00000000"),
        (b"\x1f\x8b\x08" + bytes(20), " gzip "),
        (bytes([0, 0, 8, 2]) + b"\xff" * 8, r"\(4294967295, 4294967295\)"),
    ],
)
def test_corrupt_files_are_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "broken-idx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as error:
        idx.read_idx(path)
    assert "broken-idx" in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere.*No such file"):
        idx.read_idx(tmp_path / "nowhere")


def test_files_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    write_idx(tmp_path / idx.TRAIN_LABELS, np.zeros(7))
    with pytest.raises(ValueError, match=r"\b40\b.*\(7,\)"):
        idx.load_idx_dataset(tmp_path)
    write_images(tmp_path)
    write_idx(tmp_path / idx.TEST_IMAGES, np.zeros((20, 4, 8)))
    with pytest.raises(ValueError, match=r"\(8, 8\).*\(4, 8\)"):
        idx.load_idx_dataset(tmp_path)
    write_idx(tmp_path / idx.TRAIN_IMAGES, np.zeros(40))
    with pytest.raises(ValueError, match=r"\(40,\)"):
        idx.load_idx_dataset(tmp_path)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("-idx", ".idx"),
        lambda name: name.replace("-idx", ".idx") + ".gz",
        str.upper,
        lambda name: name.upper() + ".GZ",
        lambda name: f"emnist-letters-{name.replace('t10k', 'test')}.gz",
    ],
)
def test_other_names_of_the_files_are_found(tmp_path: Path, rename: Callable[[str], str]) -> None:
    arrays = write_images(tmp_path, suffix=".gz" if rename("x").lower().endswith(".gz") else "")
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / rename(path.name.removesuffix(".gz")))
    for read, written in zip(parts(idx.load_idx_dataset(tmp_path)), arrays, strict=True):
        np.testing.assert_array_equal(read, written)


def test_a_missing_file_is_named_with_what_is_there_and_two_that_fit_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    (tmp_path / idx.TEST_LABELS).rename(tmp_path / "labels.bin")
    with pytest.raises(UserError, match=rf"{idx.TEST_LABELS}.*labels\.bin, {idx.TEST_IMAGES}"):
        idx.load_idx_dataset(tmp_path)
    with pytest.raises(UserError, match=rf"/nowhere .*{', '.join(idx.FILES)}"):
        idx.load_idx_dataset(tmp_path / "nowhere")
    for prefix in ("emnist-letters", "emnist-digits"):
        (tmp_path / f"{prefix}-test-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(UserError, match=r"emnist-digits.*emnist-letters"):
        idx.load_idx_dataset(tmp_path)


@pytest.mark.parametrize(
    ("train", "test", "complaint"),
    [
        (range(1, 27), [1], r"1 to 26.* 0 to 25.*data\.relabel=true"),
        ([0, 1, 3], [0], r"0, 1, 3.* 0 to 2.*data\.relabel=true"),
        ([0, 1], [0, 2], r": .*\b2\b.*\b0, 1\b"),
    ],
)
def test_labels_that_do_not_count_classes_are_refused(
    tmp_path: Path, train: Sequence[int], test: Sequence[int], complaint: str
) -> None:
    for names, labels in ((idx.FILES[:2], train), (idx.FILES[2:], test)):
        labels = np.array([*labels] * 2)
        write_idx(tmp_path / names[0], np.arange(len(labels) * 4).reshape(-1, 2, 2) * 4)
        write_idx(tmp_path / names[1], labels)
    with pytest.raises(ValueError, match=complaint):
        idx.load_idx_dataset(tmp_path)
    if len(test) == 1:
        found = idx.load_idx_dataset(tmp_path, relabel=True)
        assert [found.class_names[k] for k in found.train_labels] == [str(k) for k in train] * 2
        assert [found.class_names[k] for k in found.test_labels] == [str(k) for k in test] * 2


def test_a_set_without_images_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path)
    for name, shape in zip(idx.FILES, ((0, 2, 2), (0,), (0, 2, 2), (0,))):
        (tmp_path / name).write_bytes(idx_bytes(shape, b""))
    with pytest.raises(ValueError, match=r": train .*\(0, 2, 2\)"):
        idx.load_idx_dataset(tmp_path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.sampled_from(["", "head", "gzip"]), st.integers(0, 60))
def test_any_bytes_give_an_array_or_one_sentence(content: bytes, kind: str, cut: int) -> None:
    if kind == "head":
        content = bytes([0, 0, 8, 1, 0, 0, 0, len(content)]) + content
    if kind == "gzip":
        content = gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, len(content)]) + content)
    whole = kind != "" and cut >= len(content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content[:cut])
        try:
            read = idx.read_idx(path)
        except UserError as error:
            assert not whole and "\n" not in str(error) and str(path) in str(error)
        else:
            assert isinstance(read, np.ndarray)


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """Four files that may be a data set: of one, and one of them replaced or changed."""
    height = draw(st.integers(1, 3))
    width = draw(st.integers(1, 3))
    top = draw(st.sampled_from([1, 2, 255]))
    files = {}
    for images, labels in (idx.FILES[:2], idx.FILES[2:]):
        num = draw(st.integers(1, 6))
        pixels = draw(st.binary(min_size=num * height * width, max_size=num * height * width))
        files[images] = idx_bytes((num, height, width), bytes(value % (top + 1) for value in pixels))
        files[labels] = idx_bytes((num,), bytes(draw(st.integers(0, 1)) for _ in range(num)))
    name = draw(st.sampled_from(idx.FILES))
    change = draw(st.sampled_from(["none", "byte", "cut", "shape", "type", "gone", "gzip", "longer"]))
    at = draw(st.integers(0, len(files[name]) - 1))
    if change == "byte":
        files[name] = files[name][:at] + bytes([draw(st.integers(0, 255))]) + files[name][at + 1 :]
    elif change == "cut":
        files[name] = files[name][:at]
    elif change == "shape":
        files[name] = idx_bytes(tuple(draw(st.lists(st.integers(0, 5), max_size=4))), files[name][-at:])
    elif change == "type":
        files[name] = files[name][:2] + bytes([draw(st.integers(7, 15))]) + files[name][3:]
    elif change == "gone":
        del files[name]
    elif change == "gzip":
        files[f"{name}.gz"] = gzip.compress(files.pop(name))
    elif change == "longer":
        files[name] += bytes(at)
    return files


@settings(max_examples=50, deadline=None)
@given(folders())
def test_any_folder_is_a_data_set_or_one_sentence(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        try:
            data = ImageData(folder, batch_size=2, num_val=1)
            data.prepare_data()
            data.setup("fit")
        except UserError as error:
            assert "\n" not in str(error) and "Error" not in str(error)
            return
        classes = int(data.train_labels.max()) + 1
        assert data.num_classes == classes >= 1 and set(data.train_labels.tolist()) == set(range(classes))
        assert int(data.train_x.min()) >= 0 and int(data.train_x.max()) <= 255
        height, width = data.grid_shape
        assert data.train_x.shape == (len(data.train_labels), height * width)
