"""Rules of guidance, calibrated strengths and fitted steps on the command line: the report is that of the functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import EXACT, QUICK, refusal, report_in, run, table_file
from helpers import data_of, random_target

from mdlm_cfg import (
    Guidance,
    Sampler,
    TableMixture,
    UserError,
    calibrated_strengths,
    exact_information_profile,
    terminal_law,
    tilted_law,
)
from mdlm_cfg.app.study_choice import check_rules
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.chain.product_rules import Auto, Compose, Negative, Tempered
from mdlm_cfg.chain.rules import Rule
from mdlm_cfg.compare.metrics import total_variation as tv
from mdlm_cfg.nets import NetClassifier
from mdlm_cfg.studies.fitting import Fit
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.targets.posterior import TablePosterior
from mdlm_cfg.targets.toys import toy_1d_overlap
from mdlm_cfg.training.checkpoints import newest_run
from mdlm_cfg.training.runs import load_run

TARGET = random_target(3, 2, 3, seed=8)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    return [*EXACT, *table_file(tmp_path, TARGET), "target_class=1", "study=laws"]


@pytest.mark.parametrize(
    ("text", "rule"), [("negative(2)", Negative(2)), ("compose(0:0.5,1:1.5)", Compose([(0, 0.5), (1, 1.5)]))]
)
def test_a_report_is_of_the_rule(data: list[str], text: str, rule: Rule, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("eval", *data, f"guidance={text}", "w=[2]", f"out={out}") == 0
    guidance = Guidance(2.0, rule=rule)
    assert np.abs(laws_of(out, "exact") - terminal_law(TARGET.denoiser(), guidance, 1).numpy()).max() < 1e-12
    assert np.abs(laws_of(out, "tilted") - tilted_law(TARGET, guidance, 1).numpy()).max() < 1e-12


SMOOTHED = TableMixture(0.6 * TARGET.class_pmfs + 0.4 / 3**2, TARGET.class_weights)


@pytest.mark.parametrize(
    ("more", "rule"),
    [
        (("guidance=auto", "weak.smoothing=0.4"), Auto(SMOOTHED.denoiser())),
        (("guidance=tempered(0.8; auto)", "weak.smoothing=0.4"), Tempered(0.8, Auto(SMOOTHED.denoiser()))),
        (("guidance=classifier",), ByClassifier(TablePosterior(TARGET))),
        (("guidance=classifier(taylor)",), ByClassifier(TablePosterior(TARGET), taylor=True)),
    ],
)
def test_exact_guides_come_from_the_table(data: list[str], more: Sequence[str], rule: Rule, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("eval", *data, *more, "w=[2]", f"out={out}") == 0
    expected = terminal_law(TARGET.denoiser(), Guidance(2.0, rule=rule), 1)
    assert np.abs(laws_of(out, "exact") - expected.numpy()).max() < 1e-12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with a class head, on the toy in one dimension; it keeps the checkpoint after two steps."""
    runs = tmp_path_factory.mktemp("runs")
    options = ("objective=classifier", "net.class_head=true", "keep_steps=[2,6]")
    assert run("train", *QUICK, *options, f"runs={runs}", "name=small") == 0
    return next((runs / "small").iterdir())


def laws_of(out: Path, who: str) -> np.ndarray:
    laws = np.load(out / "laws.npz")
    return next(laws[name] for name in laws.files if name.startswith(who))


def test_an_earlier_checkpoint_is_a_weak_network(trained: Path, tmp_path: Path) -> None:
    early = trained / "checkpoints" / "step_2.ckpt"
    assert (load_run(early).step, load_run(early.with_name("step_6.ckpt")).step) == (2, 6)
    asked = ("guidance=auto", f"weak.ckpt_path={early}", "w=[2]")
    assert run("eval", f"ckpt_path={trained}", *asked, "num_samples=20", "study=laws", f"out={tmp_path / 'o'}") == 0
    guidance = Guidance(2.0, rule=Auto(load_run(early).denoiser))
    expected = terminal_law(load_run(trained).denoiser, guidance, 0)
    assert np.abs(laws_of(tmp_path / "o", "learned") - expected.numpy()).max() < 1e-6
    assert run("sample", f"ckpt_path={trained}", *asked, "n=4", f"out={tmp_path / 's'}") == 0
    key = Guidance(2.0, rule=Auto(load_run(early).denoiser)).identifier
    assert np.load(tmp_path / "s" / "samples.npz")[key].shape == (2, 4, *load_run(trained).data["grid_shape"])


@pytest.mark.parametrize("text", ["classifier", "classifier(taylor)"])
def test_a_trained_classifier_guides_its_network_or_the_exact_one(trained: Path, text: str, tmp_path: Path) -> None:
    loaded = load_run(trained)
    rule = ByClassifier(NetClassifier(loaded.net), taylor="taylor" in text)
    asked = (f"guidance={text}", "w=[2]", "num_samples=20", "study=laws")
    assert run("eval", f"ckpt_path={trained}", *asked, f"out={tmp_path / 'own'}") == 0
    expected = terminal_law(loaded.denoiser, Guidance(2.0, rule=rule), 0)
    assert np.abs(laws_of(tmp_path / "own", "learned") - expected.numpy()).max() < 1e-6
    exact = ("denoiser=exact", "data=toy_1d_overlap", f"predictor.ckpt_path={trained}")
    assert run("eval", *exact, *asked, f"out={tmp_path / 'exact'}") == 0
    expected = terminal_law(toy_1d_overlap().denoiser(), Guidance(2.0, rule=rule), 0)
    assert np.abs(laws_of(tmp_path / "exact", "exact") - expected.numpy()).max() < 1e-6


def test_guides_of_another_space_and_without_a_class_head_are_refused(
    trained: Path, runs: Path, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in (
        ("guidance=auto", f"weak.ckpt_path={trained}"),
        ("guidance=classifier", f"predictor.ckpt_path={trained}"),
    ):
        assert refusal(capsys, "eval", *data, *asked, f"out={tmp_path / 'no'}")
    plain = newest_run(runs)
    assert refusal(
        capsys, "eval", *EXACT, "guidance=classifier", f"predictor.ckpt_path={plain}", f"out={tmp_path / 'no'}"
    )
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("seed", range(6))
def test_rates_that_leave_a_table_no_law_are_refused_before_any_work(seed: int) -> None:
    """What is looked at beforehand is what a distribution would refuse, no more and no less."""
    composed = [Compose(weights) for weights in ({0: 1.5}, {0: -0.5, 2: 1.0}, {0: 0.25, 1: 0.25}, {0: 0.3, 1: 0.2})]
    rules: list[Rule] = [Negative(2), AdaptiveCFG(k=1), *composed]
    for zeros, rule in product((0.3, 0.7), rules):
        target = random_target(2, 3, 3, seed=seed, zeros=zeros)
        guidance = Guidance(1.0, rule=rule)
        case = Case.of(data_of(target), None, Plan((guidance,), Sampler(), classes=(1,)))
        found = [is_refused(partial(check_rules, case))]
        found += [is_refused(partial(terminal_law, target.denoiser(), guidance, 1))]
        assert found[0] == found[1], rule


def test_classes_without_a_state_in_common_are_not_composed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pmfs = np.array([[[0.5, 0.0], [0.0, 0.5]], [[0.0, 0.5], [0.5, 0.0]]])  # every value of each coordinate is shared
    np.savez(tmp_path / "xor.npz", class_pmfs=pmfs, class_weights=[0.5, 0.5])
    asked = ("denoiser=exact", "data=table", f"data.path={tmp_path / 'xor.npz'}", "guidance=compose(0:1,1:0.5)")
    assert refusal(capsys, "eval", *asked, f"out={tmp_path / 'no'}")
    assert not (tmp_path / "no").exists()


def is_refused(need: Callable[[], object]) -> bool:
    """Whether something is refused."""
    try:
        need()
    except UserError:
        return True
    return False


def test_a_network_is_trained_under_a_rule(tmp_path: Path) -> None:
    assert run("train", *QUICK, "guidance=tempered(0.8)", f"runs={tmp_path}") == 0


@pytest.mark.parametrize("text", ["negative(2)", "classifier", "tempered(0.7)"])
def test_the_default_report_takes_rules(data: list[str], text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = [item for item in data if item != "study=laws"]
    assert run("eval", *whole, f"guidance={text}", "w=[0,2]", f"out={out}") == 0
    assert {"distances", "ledger", "samplers", "geometry"} <= report_in(out).keys()


OF_BITS = random_target(2, 4, 2, seed=8)
Z = 1


@pytest.fixture
def bits(tmp_path: Path) -> list[str]:
    return [*EXACT, *table_file(tmp_path, OF_BITS)]


def test_calibrated_strengths_on_the_command_line(bits: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    own = ("study=laws", f"target_class={Z}", f"out={out}", "guidance=normalized")
    assert run("eval", *bits, *own, "w=[2,calibrated(2),calibrated]") == 0
    strengths = calibrated_strengths(OF_BITS, 2.0, Z)
    plan = report_in(out)["plan"]["guidances"]
    assert plan[1]["w"] == "calibrated(2)" and plan[1]["strengths"] == pytest.approx(strengths, abs=1e-12)
    assert plan[2]["strengths"] == [0.0] * 4
    rows = {row["w"]: row for row in report_in(out)["distances"]}
    law = terminal_law(OF_BITS.denoiser(), Guidance(strengths, "normalized"), Z)
    assert rows["calibrated(2)"]["tv_class_exact"] == pytest.approx(tv(OF_BITS.class_pmf(Z), law), abs=1e-12)


@pytest.mark.parametrize(("schedule", "w"), [("profile", 0.0), ("profile(2)", 2.0)])
def test_the_steps_of_a_profile_on_the_command_line(bits: list[str], schedule: str, w: float, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = ("sampler=event_leaping", "steps=2", f"schedule={schedule}", f"target_class={Z}")
    assert run("eval", *bits, *steps, "study=laws", "w=[0,2]", f"out={out}") == 0
    sizes = exact_information_profile(OF_BITS, Z, w).best(2).sizes
    assert report_in(out)["plan"]["events"] == list(sizes) and report_in(out)["plan"]["steps"] is None


def test_examples_have_no_tilted_distribution_to_be_fitted_to() -> None:
    examples = data_of(OF_BITS)
    examples.target = None
    examples.test_examples = lambda: OF_BITS.sample(2000, torch.Generator().manual_seed(0))
    fit = Fit(examples, OF_BITS.denoiser(), Z)
    assert len(fit.strengths(Calibrated()).values) == 4 and sum(fit.sizes(0.0, 2)) == 4
    with pytest.raises(UserError):
        fit.strengths(Calibrated(2.0))
    with pytest.raises(UserError):
        fit.sizes(2.0, 2)
    with pytest.raises(UserError):
        Guidance(Calibrated(2.0)).table(4)


def test_a_trained_network_is_fitted_to(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    own = [item for item in QUICK if not item.startswith(("data=", "w="))]
    assert run("train", *own, *table_file(tmp_path, OF_BITS), f"runs={runs}") == 0
    ckpt = newest_run(runs).parent.parent
    steps = ("sampler=event_leaping", "steps=2", "schedule=profile")
    out = tmp_path / "out"
    asked = (f"ckpt_path={ckpt}", f"target_class={Z}", *steps, "w=[0,calibrated(2)]", "n=50", f"out={out}")
    assert run("sample", *asked) == 0
    denoiser = load_run(ckpt).denoiser
    strengths = calibrated_strengths(OF_BITS, 2.0, Z, denoiser)
    sizes = exact_information_profile(OF_BITS, Z, 0.0, denoiser).best(2).sizes
    again = tmp_path / "again"
    given = (f"w=[[{','.join(map(repr, strengths))}]]", f"events=[{','.join(map(str, sizes))}]", f"out={again}")
    numbers = (f"ckpt_path={ckpt}", f"target_class={Z}", "sampler=event_leaping", "n=50", *given)
    assert run("sample", *numbers) == 0
    with np.load(out / "samples.npz") as a, np.load(again / "samples.npz") as b:
        (name,) = [name for name in b.files if name != "classes"]
        assert torch.equal(torch.tensor(a["wcalibrated(2)"]), torch.tensor(b[name]))
