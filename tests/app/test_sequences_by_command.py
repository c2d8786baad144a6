"""train.py and eval.py on hidden Markov mixtures: shipped ones, the user's own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, refusal, run

SMALL = (
    *("data.batch_size=8", "data.steps_per_epoch=2", "data.num_val=8", "data.num_test=20"),
    *("data.target.num_dims=12", "w=[0,2]", "num_samples=6"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    recipe = ("experiment=dialects", "trainer.precision=32-true", "threads=1", "logger=csv", f"runs={folder}")
    assert run("train", *recipe, *TINY, *SMALL) == 0
    return folder


def report_in(folder: Path) -> dict:
    return json.loads(next(folder.rglob("report.json")).read_text())


@pytest.mark.slow
def test_a_network_is_trained_and_judged(trained: Path) -> None:
    found = report_in(trained / "hmm_dialects")
    assert found["data"]["grid_shape"] == [12] and found["data"]["num_tokens"] == 27
    assert {row["set"] for row in found["distances"]} == {"exact", "floor", "learned", "class"}
    assert [row["num_examples"] for row in found["conditionals_error"]] == [20, 20]
    assert {(row["sampler"], row["calls"]) for row in found["samplers"]} == {
        ("first_hitting", 12),
        ("event_leaping", 8),
        ("tau_leaping", 8),
    }
    assert found["test"]["test/nelbo"] > 0 and found["verdict"]
    page = next(trained.rglob("report.html")).read_text()
    assert page.index("Verdict") < page.index("Error of the network") and "Example sequences" in page


def test_it_is_judged_again_without_the_comparison(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("eval", f"runs={trained}", "study=sequences", "study.compare=false", "w=[1]", f"out={out}") == 0
    found = report_in(out)
    assert "samplers" not in found and {row["w"] for row in found["distances"]} == {1.0}
    with np.load(out / "arrays.npz") as held:
        assert held["learned_w1"].shape == (6, 12)


def own_file(path: Path, **changes: object) -> Path:
    r = np.random.default_rng(0)
    held = {
        "initial": r.dirichlet(np.ones(2), 2),
        "transition": r.dirichlet(np.ones(2), (2, 2)),
        "emission": r.dirichlet(np.ones(3), (2, 2)),
        "class_weights": [0.5, 0.5],
        "num_dims": 5,
        **changes,
    }
    np.savez(path, **held)  # type: ignore[arg-type]
    return path


def test_ones_own_mixture_is_judged_with_exact_scores(tmp_path: Path) -> None:
    path = own_file(tmp_path / "h.npz")
    out = tmp_path / "out"
    arguments = ("denoiser=exact", "data=hmm", f"data.path={path}", "w=[0,2]", "num_samples=8", "target_class=1")
    assert run("eval", *arguments, f"out={out}") == 0
    found = report_in(out)
    assert found["data"]["classes"] == [1] and found["plan"]["classes"] == [1] and "conditionals_error" not in found


def test_what_sequences_cannot_answer_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own_file(tmp_path / "h.npz", transition=np.full((2, 2, 2), 0.7))
    exact = ("denoiser=exact", f"runs={tmp_path / 'runs'}")
    for arguments, words in [
        (["data=hmm", f"data.path={path}"], "a row of transition sums to 1.4"),
        (["data=hmm", f"data.path={tmp_path / 'none.npz'}"], "there is no file"),
        (["data=hmm_motif", "paper=1d_overlap"], "is about a table of probabilities"),
        (["data=hmm_motif", "target_class=2"], "class 2 is out of range"),
        (["data=hmm_motif", "data.target.fidelity=2"], "fidelity = 2"),
        (
            ["data=toy_1d_overlap", "study=sequences"],
            "made for hidden Markov mixtures",
        ),
        (["data=hmm_motif", "study=sequences", "study.num_test=0"], "must be at least 2"),
    ]:
        assert words in refusal(capsys, "eval", *exact, *arguments)
    assert not (tmp_path / "runs").exists()
