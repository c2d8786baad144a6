"""The user's own tables."""

from __future__ import annotations

import re
import tempfile
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.files import load_table


def test_table_comes_back(tmp_path: Path) -> None:
    pmfs = np.random.default_rng(0).dirichlet(np.ones(9), size=2).reshape(2, 3, 3)
    np.savez(tmp_path / "t.npz", class_pmfs=pmfs, class_weights=[0.25, 0.75])
    target = load_table(tmp_path / "t.npz")
    np.testing.assert_allclose(target.class_pmfs.numpy(), pmfs, atol=1e-15)
    np.testing.assert_allclose(target.class_weights.numpy(), [0.25, 0.75])


def test_integers_and_float32_are_numbers_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", class_pmfs=np.eye(2, dtype=np.float32), class_weights=np.array([1, 0]))
    assert load_table(str(tmp_path / "t.npz")).num_dims == 1


def test_bad_files_get_one_clear_sentence(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    good = np.full((2, 2, 2), 0.25)
    with pytest.raises(ValueError, match=r"t\.npz: .*class_pmfs .*class_weights"):
        load_table(path)
    np.save(tmp_path / "t.npy", good)
    for content in (b"PK\x03\x04 not really", b"hello", (tmp_path / "t.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"t\.npz .*numpy\.savez\(FILE, class_pmfs="):
            load_table(path)
    for arrays, complaint in (
        ({"class_pmfs": good}, "class_weights; .* class_pmfs$"),
        ({"class_pmfs": good, "class_weights": np.array(["a", "b"])}, "class_weights .*<U1$"),
        ({"class_pmfs": good, "class_weights": np.array([None, 1])}, r"class_weights\.npy .*numpy\.savez\(FILE, "),
        ({"class_pmfs": good * 2, "class_weights": [0.5, 0.5]}, r"t\.npz: class_pmfs\[0\] .* 2 "),
        ({"class_pmfs": -good, "class_weights": [0.5, 0.5]}, r"t\.npz: class_pmfs .* -0\.25: "),
        ({"class_pmfs": good[:, :1], "class_weights": [0.5, 0.5]}, r"t\.npz: class_pmfs .*\(2, 1, 2\).* N >= 2"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=complaint):
            load_table(path)


def test_a_file_of_nothing_is_refused_before_a_library_fails_on_it(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    for content in (None, {"class_pmfs": np.empty((0, 2, 2)), "class_weights": []}):
        path.write_bytes(b"") if content is None else np.savez(path, **content)
        with pytest.raises(UserError, match=r"t\.npz") as error:
            load_table(path)
        assert error.value.__cause__ is None and "shape (0, 2, 2)" not in str(error.value)


def test_names_of_classes_and_values_come_along(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    good = {"class_pmfs": np.full((2, 3), 1 / 3), "class_weights": [0.5, 0.5]}
    np.savez(path, **good, class_names=["yes", "no"], value_names=["a", "b", "ü"], other=np.array([None]))
    target = load_table(path)
    assert target.class_names == ("yes", "no") and target.value_names == ("a", "b", "ü")
    np.savez(path, **good)
    assert load_table(path).class_names is None and load_table(path).value_names is None
    assert load_table(path).fingerprint() == target.fingerprint(), "names are no part of the distribution"
    for names, complaint in (
        ({"class_names": ["yes"]}, "class_names .* 2 .* 1, .* 1 "),
        ({"value_names": ["a", "a", "b"]}, "value_names .* 3 .* 3, .* 2 "),
        ({"value_names": [1, 2, 3]}, r"value_names .*int64 .*\(3,\)"),
        ({"class_names": [["a", "b"]]}, r"class_names .*<U1 .*\(1, 2\)"),
    ):
        np.savez(path, **good, **names)
        with pytest.raises(UserError, match=rf"t\.npz: {complaint}"):
            load_table(path)


def test_other_things_than_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))} .*class_pmfs .*class_weights"):
        load_table(tmp_path)
    path = tmp_path / "t.npz"
    np.savez(path, class_pmfs=np.full((2, 1, 1), 1.0), class_weights=[0.5, 0.5])
    with pytest.raises(UserError, match=r"\(2, 1, 1\).* N >= 2"):
        load_table(path)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(zipfile, "ZipFile", denied)
    with pytest.raises(UserError, match=r"t\.npz .*Permission denied"):
        load_table(path)


def test_a_header_that_promises_much_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, class_pmfs=np.full((2, 3), 1 / 3), class_weights=[0.5, 0.5])
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    lies = entries["class_pmfs.npy"].replace(b"(2, 3)", b"(2, 99999999)")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("class_pmfs.npy", lies)
        archive.writestr("class_weights.npy", entries["class_weights.npy"])
    tracemalloc.start()
    with pytest.raises(UserError, match=r" 1599999984 .* 4294967296\)") as error:
        load_table(path)
    assert "\n" not in str(error.value) and tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("gone", [1, 30, 200])
def test_a_file_without_its_beginning_is_damaged_and_not_a_fault_of_the_disk(gone: int, tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, class_pmfs=np.full((2, 2, 2), 0.25), class_weights=np.full(2, 0.5))
    path.write_bytes(path.read_bytes()[gone:])
    with pytest.raises(UserError, match=r"numpy\.savez"):
        load_table(path)


@st.composite
def contents(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Arrays that may be a mixture: right ones, right ones with something wrong, and others."""
    k = draw(st.integers(0, 3))
    n = draw(st.integers(0, 4))
    d = draw(st.integers(0, 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    pmfs = rng.random((k, *[n] * d)) * (rng.random((k, *[n] * d)) < draw(st.sampled_from([0.3, 1.0])))
    weights = rng.random(k)
    if draw(st.booleans()):
        pmfs = pmfs / np.maximum(pmfs.reshape(k, n**d).sum(1), 1e-300).reshape(k, *[1] * d)
        weights = weights / max(weights.sum(), 1e-300)
    bad = draw(st.sampled_from([None, None, np.nan, np.inf, -0.5, 1e308]))
    if bad is not None and pmfs.size:
        pmfs.flat[draw(st.integers(0, pmfs.size - 1))] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that a type cannot hold
        pmfs = pmfs.astype(draw(st.sampled_from(["f8", ">f8", "f4", "f2", "c16", "i8", "U5", "?", "O"])))
    names = draw(st.sampled_from([("class_pmfs", "class_weights"), ("class_pmfs",), ("pmfs", "class_weights")]))
    more = draw(st.sampled_from([{}, {"value_names": np.array(list("abcd"[:n]))}, {"class_names": np.zeros(k)}]))
    return dict(zip(names, (pmfs, weights))) | more


FILES = given(contents(), st.booleans(), st.integers(0, 400))


@settings(max_examples=300, deadline=None)
@FILES
def test_any_file_is_a_mixture_or_one_sentence(arrays: dict[str, np.ndarray], whole: bool, cut: int) -> None:
    check_file(arrays, whole, cut)


def check_file(arrays: dict[str, np.ndarray], whole: bool, cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.npz"
        np.savez(path, **arrays)
        if not whole:
            path.write_bytes(path.read_bytes()[:cut])
        try:
            target = load_table(path)
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            return
    pmfs = arrays["class_pmfs"].astype(np.float64)
    assert target.num_tokens >= 2 and target.class_pmfs.shape == pmfs.shape
    np.testing.assert_allclose(target.class_pmfs.numpy(), pmfs, atol=1e-6)
    np.testing.assert_allclose(target.class_pmfs.flatten(1).sum(1).numpy(), 1, atol=1e-12)
    assert bool((target.class_pmfs >= 0).all())
