"""The user's own tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
    path, good = tmp_path / "t.npz", np.full((2, 2, 2), 0.25)
    with pytest.raises(ValueError, match=r"there is no file .*t\.npz"):
        load_table(path)
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        load_table(path)
    path.write_text("hello")
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        load_table(path)
    with open(path, "wb") as file:
        np.save(file, good)
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        load_table(path)
    for arrays, complaint in (
        ({"class_pmfs": good}, "lacks class_weights"),
        ({"class_pmfs": good, "class_weights": np.array(["a", "b"])}, "must hold numbers"),
        ({"class_pmfs": good, "class_weights": np.array([None, 1])}, r"not a readable \.npz"),
        ({"class_pmfs": good * 2, "class_weights": [0.5, 0.5]}, "t.npz: .*sums to 2"),
        ({"class_pmfs": -good, "class_weights": [0.5, 0.5]}, "t.npz: .*not negative"),
        ({"class_pmfs": good[:, :1], "class_weights": [0.5, 0.5]}, "t.npz: .*shape"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=complaint):
            load_table(path)
