"""Arrays of tokens in a .npz."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import everything, pairs, ready

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.training.data import token_file


def arrays(**changes: object) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    held = {"tokens": rng.integers(0, 5, (40, 2, 3)), "labels": np.arange(40, dtype=np.uint8) % 4} | changes
    return {name: np.asarray(array) for name, array in held.items() if array is not None}


def test_tokens_come_back(tmp_path: Path) -> None:
    held = arrays(class_names=list("abcd"), value_names=list("uvwxyz"))
    np.savez(tmp_path / "t.npz", **held)
    data = ready(token_file(str(tmp_path / "t.npz")))
    assert data.num_tokens == 6 and data.class_names == tuple("abcd") and data.grid_shape == (2, 3)
    assert everything(data) == pairs(held["tokens"], held["labels"]) and len(data.test_x) == 4
    np.savez(tmp_path / "u.npz", **arrays(test_tokens=held["tokens"][:3], test_labels=[0, 1, 2]))
    own = ready(token_file(tmp_path / "u.npz"))
    assert own.num_tokens == 5 and len(own.train_x) == 40
    assert own.test_x.tolist() == held["tokens"][:3].reshape(3, 6).tolist() and own.fingerprint() != data.fingerprint()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"labels": None}, r"labels\b.*\btokens$"),
        ({"labels": np.arange(40) % 4 + 1}, r"1 to 4.* 0 to 3.*data\.relabel=true"),
        ({"labels": np.arange(39) % 4}, r"\(40, 2, 3\).*\(39,\)"),
        ({"labels": np.full(40, -1)}, "-1 to -1.* 0 to 262143"),
        ({"labels": np.arange(40)}, r": .*\b0\b.*\b1\b.*\b3\b"),
        ({"tokens": np.zeros((40, 3))}, r"tokens.*float64.*\(40, 3\)"),
        ({"tokens": np.full((40, 3), 2**40)}, rf"tokens.*\b{2**40}\b.* 0 to 262143"),
        ({"tokens": np.zeros((40, 0), int)}, r"tokens.*\(40, 0\)"),
        ({"tokens": np.zeros((40, 3), int)}, r": .*\b0\D*$"),
        ({"tokens": np.zeros(40, int)}, r"\(40,\).*\(40,\)"),
        ({"tokens": np.array([None] * 40)}, r"tokens\.npy"),
        ({"value_names": ["a", "b"]}, r"\b2 value_names.*\b4\b"),
        ({"class_names": ["a", "b"]}, r"class_names.*\b4\b.*\b2\b.*\b2\b"),
        ({"class_names": ["a", "b", "c", "c"]}, r"class_names.*\b4\b.*\b4\b.*\b3\b"),
        ({"class_names": [1, 2, 3, 4]}, r"class_names.*int64.*\(4,\)"),
        ({"test_tokens": np.zeros((2, 2, 3), int)}, "test_tokens.*test_labels"),
        ({"test_tokens": np.zeros((2, 2, 4), int), "test_labels": [0, 1]}, r"\(2, 3\).*\(2, 4\)"),
        ({"test_tokens": np.zeros((2, 2, 3), int), "test_labels": [0, 7]}, r": .*\b7\b.* 0 to 3"),
    ],
)
def test_bad_arrays_are_refused(tmp_path: Path, changes: dict[str, object], complaint: str) -> None:
    np.savez(tmp_path / "t.npz", **arrays(**changes))
    with pytest.raises(UserError, match=complaint) as error:
        ready(token_file(tmp_path / "t.npz"))
    assert "\n" not in str(error.value)
