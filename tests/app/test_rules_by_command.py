"""Rules of guidance on the command line: the report is that of the rule, and what does not fit is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from commands import TOY, refusal, run
from helpers import data_of, random_target

from mdlm_cfg import Guidance, Sampler, TableMixture, UserError, terminal_law, tilted_law
from mdlm_cfg.app.settings import check_rules
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.chain.product_rules import Auto, Compose, Negative, Tempered
from mdlm_cfg.chain.rules import Rule
from mdlm_cfg.nets import NetClassifier
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.targets.posterior import TablePosterior
from mdlm_cfg.targets.toys import toy_1d_overlap
from mdlm_cfg.training.runs import load_run

TARGET = random_target(3, 2, 3, seed=8)


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    path = tmp_path / "table.npz"
    np.savez(path, class_pmfs=TARGET.class_pmfs.numpy(), class_weights=TARGET.class_weights.numpy())
    return ["denoiser=exact", "data=table", f"data.path={path}", "target_class=1", "num_samples=20", "study=laws"]


@pytest.mark.parametrize(
    ("text", "rule"), [("negative(2)", Negative(2)), ("compose(0:0.5,1:1.5)", Compose([(0, 0.5), (1, 1.5)]))]
)
def test_a_report_is_of_the_rule(data: list[str], text: str, rule: Rule, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("eval", *data, f"guidance={text}", "w=[2]", f"out={out}") == 0
    guidance = Guidance(2.0, rule=rule)
    laws = np.load(out / "laws.npz")
    (exact,) = [laws[name] for name in laws.files if name.startswith("exact")]
    (tilted,) = [laws[name] for name in laws.files if name.startswith("tilted")]
    assert np.abs(exact - terminal_law(TARGET.denoiser(), guidance, 1).numpy()).max() < 1e-12
    assert np.abs(tilted - tilted_law(TARGET, guidance, 1).numpy()).max() < 1e-12


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
    laws = np.load(out / "laws.npz")
    (exact,) = [laws[name] for name in laws.files if name.startswith("exact")]
    expected = terminal_law(TARGET.denoiser(), Guidance(2.0, rule=rule), 1)
    assert np.abs(exact - expected.numpy()).max() < 1e-12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run with a class head, on the toy in one dimension; it keeps the checkpoint after two steps."""
    runs = tmp_path_factory.mktemp("runs")
    options = ("objective=classifier", "net.class_head=true", "keep_steps=[2,6]", "logger=csv", "evaluate=false")
    assert run("train", *TOY, *options, f"runs={runs}", "name=small") == 0
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


BAD = {
    "class twice": ("guidance=compose(0:1,0:2)",),
    "no weight": ("guidance=compose(0)",),
    "a weight that is no number": ("guidance=compose(0:x)",),
    "an infinite weight": ("guidance=compose(0:inf)",),
    "a weight out of range": ("guidance=compose(0:1e9)",),
    "a class that does not exist": ("guidance=negative(9)",),
    "no class": ("guidance=negative()",),
    "half a class": ("guidance=negative(1.5)",),
    "the class itself": ("guidance=negative(1)",),
    "k below 0": ("guidance=a_cfg(k=-1)",),
    "a share above 1": ("guidance=a_cfg(share=2)",),
    "temperature 0": ("guidance=tempered(0)",),
    "a temperature out of range": ("guidance=tempered(1e-9)",),
    "a rule that is no product": ("guidance=tempered(1; a_cfg(k=1))",),
    "an unknown rule": ("guidance=negativ(2)",),
    "an unknown expansion": ("guidance=classifier(hessian)",),
    "no weak denoiser": ("guidance=auto",),
    "two weak denoisers": ("guidance=auto", "weak.smoothing=0.2", "weak.ckpt_path=somewhere"),
    "no smoothing": ("guidance=auto", "weak.smoothing=0"),
    "too much smoothing": ("guidance=auto", "weak.smoothing=1.5"),
    "smoothing that is no number": ("guidance=auto", "weak.smoothing=much"),
    "a weak network that is not there": ("guidance=auto", "weak.ckpt_path=nowhere"),
    "an empty path": ("guidance=auto", "weak.ckpt_path="),
    "a path that is a list": ("guidance=auto", "weak.ckpt_path=[1]"),
    "an unknown setting": ("guidance=auto", "+weak.sharpness=2"),
    "a weak network without its rule": ("weak.ckpt_path=somewhere",),
    "smoothing without its rule": ("guidance=negative(2)", "weak.smoothing=0.2"),
    "a classifier that is not there": ("guidance=classifier", "predictor.ckpt_path=nowhere"),
    "a classifier without its rule": ("predictor.ckpt_path=somewhere",),
}


@pytest.mark.parametrize("name", BAD)
def test_rules_that_do_not_fit_are_refused(
    data: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refusal(capsys, "eval", *data, *BAD[name], f"out={tmp_path / 'no'}")
    assert not (tmp_path / "no").exists()


def test_guides_of_another_space_and_without_a_class_head_are_refused(
    trained: Path, data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked in (
        ("guidance=auto", f"weak.ckpt_path={trained}"),
        ("guidance=classifier", f"predictor.ckpt_path={trained}"),
    ):
        assert refusal(capsys, "eval", *data, *asked, f"out={tmp_path / 'no'}")
    options = ("logger=csv", "evaluate=false", f"runs={tmp_path / 'runs'}", "name=plain")
    assert run("train", *TOY, *options) == 0
    plain = next((tmp_path / "runs" / "plain").iterdir())
    toy = ("denoiser=exact", "data=toy_1d_overlap", "guidance=classifier", f"predictor.ckpt_path={plain}")
    assert refusal(capsys, "eval", *toy, f"out={tmp_path / 'no'}")
    assert not (tmp_path / "no").exists()
    assert refusal(capsys, "train", *TOY, "objective=classifier", *options)
    assert refusal(capsys, "train", *TOY, "keep_steps=[0]", *options)


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
    options = ("guidance=tempered(0.8)", "logger=csv", "evaluate=false", f"runs={tmp_path}")
    assert run("train", *TOY, *options) == 0


@pytest.mark.parametrize("text", ["negative(2)", "classifier", "tempered(0.7)"])
def test_the_default_report_takes_rules(data: list[str], text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    whole = [item for item in data if item != "study=laws"]
    assert run("eval", *whole, f"guidance={text}", "w=[0,2]", f"out={out}") == 0
    report = json.loads((out / "report.json").read_text())
    assert {"distances", "ledger", "samplers", "geometry"} <= report.keys()
