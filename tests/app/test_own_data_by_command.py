"""train.py and eval.py on data of the user's own and on hidden Markov mixtures: a report comes out."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, report_in, run
from datasets import Dataset

SMALL = ("data.batch_size=16", "num_samples=4", "w=[0,2]", "trainer.precision=32-true", "threads=1", "logger=csv")
RNG = np.random.default_rng(0)
LABELS = np.arange(60) % 2


def trained(folder: Path, *arguments: str) -> dict:
    """What report.json holds after training with nothing but the data chosen."""
    assert run("train", *arguments, f"runs={folder / 'runs'}", *TINY, *SMALL) == 0
    return report_in(folder / "runs")


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
    judged = report_in(out)
    assert judged["num_draws"] == 2 and judged["data"]["classes"] == [1]


@pytest.mark.slow
def test_a_saved_data_set_of_grey_images_is_trained_on_and_judged(tmp_path: Path) -> None:
    images = np.where(LABELS[:, None, None] == 1, 200, 80) + RNG.integers(0, 50, (60, 4, 4))
    Dataset.from_dict({"image": images.tolist(), "label": LABELS.tolist()}).save_to_disk(str(tmp_path / "d"))
    settings = ("data.levels=3", f"+data.root={tmp_path}", "steps=4", "classifier=true")  # which is kept there
    found = trained(tmp_path, "data=datasets", f"data.path={tmp_path / 'd'}", *settings)
    assert found["data"]["num_tokens"] == 3 and found["classifiers"][0]["test_accuracy"] > 0.9
    with np.load(next(tmp_path.rglob("samples.npz"))) as held:
        assert held["w2"].shape == (2, 4, 4, 4) and int(held["w2"].max()) <= 2


SEQUENCES = (
    *("data.batch_size=8", "data.steps_per_epoch=2", "data.num_val=8", "data.num_test=20"),
    *("data.target.num_dims=12", "w=[0,2]", "num_samples=6"),
)


@pytest.fixture(scope="module")
def dialects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    recipe = ("experiment=dialects", "trainer.precision=32-true", "threads=1", "logger=csv", f"runs={folder}")
    assert run("train", *recipe, *TINY, *SEQUENCES) == 0
    return folder


@pytest.mark.slow
def test_a_network_is_trained_and_judged(dialects: Path) -> None:
    found = report_in(dialects / "hmm_dialects")
    assert found["data"]["grid_shape"] == [12] and found["data"]["num_tokens"] == 27
    assert {row["set"] for row in found["distances"]} == {"exact", "noise floor", "learned", "class"}
    assert [row["num_examples"] for row in found["conditionals_error"]] == [20, 20]
    assert {(row["sampler"], row["calls"]) for row in found["samplers"]} == {
        ("first_hitting", 12),
        ("event_leaping", 8),
        ("tau_leaping", 8),
    }
    assert found["test"]["test/nelbo"] > 0 and found["verdict"]
    page = next(dialects.rglob("report.html")).read_text()
    assert page.index('class="verdict"') < page.index("<pre>") < page.index('class="group"')


def test_it_is_judged_again_without_the_comparison(dialects: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("eval", f"runs={dialects}", "study=sequences", "study.compare=false", "w=[1]", f"out={out}") == 0
    found = report_in(out)
    assert "samplers" not in found and {row["w"] for row in found["distances"]} == {1.0}
    with np.load(out / "arrays.npz") as held:
        assert held["learned_w1"].shape == (6, 12)


def test_ones_own_mixture_is_judged_with_exact_scores(tmp_path: Path) -> None:
    path = tmp_path / "h.npz"
    r = np.random.default_rng(0)
    chain = {"initial": r.dirichlet(np.ones(2), 2), "transition": r.dirichlet(np.ones(2), (2, 2))}
    emission = r.dirichlet(np.ones(3), (2, 2))
    np.savez(path, **chain, emission=emission, class_weights=[0.5, 0.5], num_dims=5)
    out = tmp_path / "out"
    arguments = ("denoiser=exact", "data=hmm", f"data.path={path}", "w=[0,2]", "num_samples=8", "target_class=1")
    assert run("eval", *arguments, f"out={out}") == 0
    found = report_in(out)
    assert found["data"]["classes"] == [1] and found["plan"]["classes"] == [1] and "conditionals_error" not in found
