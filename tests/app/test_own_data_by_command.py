"""train.py and eval.py on examples of the user's own: one option says which, and a report comes out."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, refusal, run
from datasets import Dataset

SMALL = ("data.batch_size=16", "num_samples=4", "w=[0,2]", "trainer.precision=32-true", "threads=1", "logger=csv")
RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 2


def trained(folder: Path, *arguments: str) -> dict:
    """What report.json holds after training with nothing but the data chosen."""
    assert run("train", *arguments, f"runs={folder / 'runs'}", *TINY, *SMALL) == 0
    return json.loads(next((folder / "runs").rglob("report.json")).read_text())


def test_text_is_trained_on_and_judged(tmp_path: Path) -> None:
    lines = [f"{'ud'[k]}\t{''.join(RNG.choice(list('abcd'), 6 + k))}" for k in LABELS]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    found = trained(tmp_path, "data=text", f"data.path={tmp_path / 'words.txt'}")
    folder = next(tmp_path.rglob("report.html")).parent.parent
    assert "experiment" not in folder.name and "experiment" not in found["run"]["command"]  # nobody asked for one
    assert found["data"]["num_tokens"] == 5 and found["data"]["classes"] == [0, 1]
    assert [row["w"] for row in found["distances"]] == [0.0, 2.0, "data"]
    assert [(row["w"], row["target_class"]) for row in found["by_class"]] == list(product((0.0, 2.0, "data"), (0, 1)))
    assert "·" in next(tmp_path.rglob("report.html")).read_text()
    out = tmp_path / "out"
    again = ("study=corpus", "study.num_draws=2", "w=[1]", "target_class=1", f"out={out}")
    assert run("eval", f"runs={tmp_path / 'runs'}", *again) == 0
    with np.load(out / "arrays.npz") as held:
        assert held["w1"].shape == (1, 4, 7) and set(held) == {"w1", "aligned_class1_w1"}
    judged = json.loads((out / "report.json").read_text())
    assert judged["nelbo_classification"] == {"num_draws": 2} and judged["data"]["classes"] == [1]


@pytest.mark.slow
def test_a_saved_data_set_of_grey_images_is_trained_on_and_judged(tmp_path: Path) -> None:
    images = np.where(LABELS[:, None, None] == 1, 200, 80) + RNG.integers(0, 50, (60, 4, 4))
    Dataset.from_dict({"image": images.tolist(), "label": LABELS.tolist()}).save_to_disk(str(tmp_path / "d"))
    settings = ("data.levels=3", f"+data.root={tmp_path}", "steps=4")  # its classifier is kept there
    found = trained(tmp_path, "data=datasets", f"data.path={tmp_path / 'd'}", *settings)
    assert found["data"]["num_tokens"] == 3 and found["classifier_accuracy"] > 0.9
    with np.load(next(tmp_path.rglob("samples.npz"))) as held:
        assert held["w2"].shape == (2, 4, 4, 4) and int(held["w2"].max()) <= 2


def test_what_is_no_data_set_is_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = f"runs={tmp_path / 'runs'}"
    for arguments, words in [
        (["data=datasets", f"data.path={tmp_path / 'none'}"], "there is no folder"),
        (["data=images", f"data.path={tmp_path / 'none.npz'}"], "there is no file"),
        (["data=toy_1d_overlap", "study=corpus"], "study=corpus is made for data that are examples"),
    ]:
        assert words in refusal(capsys, "train", *arguments, runs)
    assert not (tmp_path / "runs").exists()
