"""The verification finds planted faults, says so, and passes where nothing is wrong."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from mdlm_cfg import Guidance, UserError
from mdlm_cfg.sampling.sampler import SAMPLERS, Sampler
from mdlm_cfg.support.atomic import part_name
from mdlm_cfg.verify import interval_checks, law_checks, page, resume_checks, run, sample_checks, training_checks
from mdlm_cfg.verify.checks import Check, chi_square_p, coverage, difference, p_value, uniformity
from mdlm_cfg.verify.command import main
from mdlm_cfg.verify.run import GROUPS, pieces_of, todays_seed, verify
from mdlm_cfg.verify.samplers import registered_samplers
from mdlm_cfg.verify.worlds import SORTS, world_of

SEED = 20250131


def failed(checks: list[Check]) -> set[str]:
    return {check.subject for check in [*checks, *uniformity(checks)] if not check.passed}


def one_percent_off(function: Any) -> Any:
    """A law with 1% of its mass moved to another state."""

    def wrong(*args: Any, **settings: Any) -> Any:
        law = function(*args, **settings)
        return 0.99 * law + 0.01 * law.flatten().roll(1).reshape(law.shape)

    return wrong


@pytest.mark.parametrize("number", range(len(SORTS)))
def test_laws_pass_on_every_sort_of_target(number: int) -> None:
    checks = law_checks.law_checks(world_of(SEED, number), SEED)
    assert failed(checks) == set() and len(checks) > 60


LAWS = {
    "terminal_law": {"terminal law, rate", "terminal law, normalized", "terminal law, policies", "law of a slice"},
    "tilted_law": {"tilted law"},
    "law_at": {"law in time, rate", "law in time, normalized"},
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_that_is_off_by_one_percent_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law_checks, name, one_percent_off(getattr(law_checks, name)))
    assert failed(law_checks.law_checks(world_of(SEED, 6), SEED)) == LAWS[name]


def test_a_sampler_whose_law_is_off_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sampler, "law", one_percent_off(Sampler.law))
    found = failed(law_checks.law_checks(world_of(SEED, 6), SEED))
    assert {f"law of {name}, rate" for name in ("first_hitting", "tau_leaping", "euler", "d_cfg")} <= found


@pytest.mark.parametrize(
    ("name", "wrong", "subject"),
    [
        ("calibrated_strengths", lambda *args: [w * 1.01 for w in (0.5, 0.7, 1.0)], "calibrated strengths: slope"),
        ("path_kl", lambda *args: type("Total", (), {"total": 0.5}), "KL of paths"),
    ],
)
def test_numbers_that_are_off_are_found(name, wrong, subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(law_checks, name, wrong)
    assert failed(law_checks.law_checks(world_of(SEED, 6), SEED)) == {subject}


@pytest.mark.slow
def test_samples_of_another_strength_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(SEED, 1)
    assert failed(sample_checks.sample_checks(world, SEED)) == set()
    draw = Sampler.draw

    def stronger(self: Sampler, denoiser: Any, guidance: Guidance, *rest: Any, **more: Any) -> Any:
        table = [strength + 0.4 for strength in guidance.table(denoiser.num_dims)]
        w: Any = table if guidance.is_schedule else table[0]
        return draw(self, denoiser, Guidance(w, guidance.kind), *rest, **more)

    monkeypatch.setattr(Sampler, "draw", stronger)
    found = failed(sample_checks.sample_checks(world, SEED))
    assert {"samples of tau_leaping", "samples of event_leaping", "samples under policies"} <= found


def test_every_registered_sampler_is_verified() -> None:
    made = dict(registered_samplers(3))
    assert set(made) == set(SAMPLERS) and all(made.values())


def test_a_sampler_that_no_setting_fits_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_checks, "registered_samplers", lambda num_dims: [("new", [])])
    assert failed(list(sample_checks.sampler_checks(world_of(SEED, 0), SEED))) == {"samples of new"}


def test_intervals_pass_and_too_narrow_ones_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [check for make in interval_checks.INTERVAL_CHECKS.values() for check in make(SEED, 30)]
    assert failed(checks) == set() and len(checks) == 8
    monkeypatch.setattr(interval_checks, "NORMAL", 0.6)
    assert failed(interval_checks.fit_checks(SEED, 30)) == {check.subject for check in checks[5:7]}


def test_estimators_pass_and_a_biased_one_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [check for make in training_checks.TRAINING_CHECKS.values() for check in make(SEED, 100)]
    assert failed(checks) == set()
    estimate = training_checks.paired_nelbo
    monkeypatch.setattr(training_checks, "paired_nelbo", lambda *args: [1.05 * part for part in estimate(*args)])
    found = failed(training_checks.estimator_checks(SEED, 100))
    assert "paired_nelbo: value" in found and not any(name.startswith("pooled") for name in found)


def test_a_derivative_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    estimate = training_checks.pooled_nelbo

    def detached(*args: Any) -> Any:
        return [[0.5 * part + 0.5 * part.detach() for part in pair] for pair in estimate(*args)]

    monkeypatch.setattr(training_checks, "pooled_nelbo", detached)
    assert failed(training_checks.estimator_checks(SEED, 100)) == {"pooled_nelbo: derivative"}


def clear(value: Any) -> None:
    """Sets every number of nested containers of tensors to 0."""
    if isinstance(value, torch.Tensor):
        value.zero_()
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        clear(part)


@pytest.mark.slow
def test_resuming_passes_and_a_lost_moment_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert failed(resume_checks.resume_checks(1)) == set()

    def without_moments(source: Path, place: Path) -> None:
        content = torch.load(source, weights_only=True)
        clear(content["optimizer_states"])
        torch.save(content, place)

    monkeypatch.setattr(resume_checks.shutil, "copy", without_moments)
    assert failed(resume_checks.resume_checks(1)) == {"weights, averages and moments"}


def run_main(*arguments: str) -> int:
    try:
        main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_the_command_passes_leaves_a_page_and_fails_on_a_planted_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "TARGETS", {})
    monkeypatch.setattr(law_checks, "LAW_CHECKS", (law_checks.terminal_checks,))
    settings = f"seed={SEED}", "minutes=0.001", "groups=laws,training"
    assert run_main(f"out={tmp_path / 'right'}", *settings) == 0
    assert f"seed {SEED}" in capsys.readouterr().out
    found = json.loads((tmp_path / "right" / "verification.json").read_text())
    assert found["passed"] and found["seed"] == SEED and found["number_of_failures"] == 0
    page = (tmp_path / "right" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2 and str(SEED) in page

    dead = tmp_path / "right" / part_name("verification.json", 2**30)  # of a process that was killed
    dead.mkdir()
    (dead / "laws.png").touch()
    assert run_main(f"out={tmp_path / 'right'}", *settings) == 0 and not dead.exists()
    (tmp_path / "right" / "mine").touch()
    assert run_main(f"out={tmp_path / 'right'}", *settings) == 2

    monkeypatch.setattr(law_checks, "terminal_law", one_percent_off(law_checks.terminal_law))
    assert run_main(f"out={tmp_path / 'wrong'}", *settings) == 1
    assert "terminal law, rate" in capsys.readouterr().out
    found = json.loads((tmp_path / "wrong" / "verification.json").read_text())
    assert not found["passed"] and found["number_of_failures"] > 0
    assert "terminal law, rate" in (tmp_path / "wrong" / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed=1",),
        ("out=new", "seed=x"),
        ("out=new", "seed=-1"),
        ("out=new", "minutes=0"),
        ("out=new", "minutes=nan"),
        ("out=new", "minutes=many"),
        ("out=new", "groups=lwas"),
        ("out=new", "targets=3"),
        ("out=new", "out=newer"),
        ("out=",),
        ("new",),
        ("out=full",),
        ("out=full/file",),
    ],
)
def test_mistakes_in_the_command(arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert run_main(*arguments) == 2
    assert not (tmp_path / "new").exists() and (tmp_path / "full" / "file").read_text() == "mine"


@pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError, UserError])
def test_a_verification_that_ends_early_leaves_what_was_there(
    ending: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object) -> None:
        raise ending

    monkeypatch.setattr(run, "verify", end)
    (tmp_path / "empty").mkdir()
    for folder in ("new/one", "empty"):
        assert run_main(f"out={tmp_path / folder}") != 0
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def test_the_same_session_again() -> None:
    one, two = (verify(SEED, 0.001, ("training",)) for _ in range(2))
    assert one.checks == two.checks != verify(SEED + 1, 0.001, ("training",)).checks
    assert todays_seed() > 20_240_000
    assert {piece.group for piece in pieces_of(SEED, 1.0)} == set(GROUPS)
    with pytest.raises(UserError):
        verify(SEED, 1.0, ("nothing",))


def test_statistics() -> None:
    rng = np.random.default_rng(0)
    law = 0.5 * rng.dirichlet(np.ones(12)) + 0.5 / 12
    counts = rng.multinomial(5000, law)
    assert chi_square_p(counts, law) == pytest.approx(stats.chisquare(counts, law * 5000).pvalue, abs=1e-10)
    assert chi_square_p(np.array([5, 1]), np.array([1.0, 0.0])) == 0.0
    values = rng.random(40)
    for some, even in ((values, True), (values**3, False), ([0.5] * 40, False)):
        (found,) = uniformity([p_value("samples", "x", "y", float(value)) for value in some])
        assert (found.value > 1e-4) == even
    found = coverage("intervals", "x", 380, 400, (0.9, 0.95))
    assert stats.binom.cdf(found.low * 400 - 1, 400, 0.9) < 1e-7 <= stats.binom.cdf(found.low * 400, 400, 0.9)
    assert stats.binom.sf(found.high * 400, 400, 0.95) <= 1e-7 < stats.binom.sf(found.high * 400 - 1, 400, 0.95)
    assert not difference("laws", "x", "y", [1.0, math.nan], [1.0, 2.0]).passed
    assert not difference("laws", "x", "y", [1.0], [1.0, 2.0]).passed
    assert difference("laws", "x", "y", [math.inf, 1e9 + 1e-4], [math.inf, 1e9]).passed


def test_the_picture_shows_the_p_values_that_are_tested(tmp_path: Path) -> None:
    """A law of one state leaves nothing to chance: its p-value is 1, and would take the points out of their band."""
    uniform = [(k + 0.5) / 20 for k in range(20)]
    checks = [p_value("samples", "x", str(p), p) for p in [*uniform, *[1.0] * 20]]
    page.draw_quantiles(checks, tmp_path / "samples.png")
    shown = np.genfromtxt(tmp_path / "samples.csv", delimiter=",", names=True, usecols=(1, 2))
    assert shown["p_value"].tolist() == pytest.approx(uniform) == shown["expected"].tolist()


def test_a_known_key_without_a_value_is_not_suggested_in_its_own_place(capsys: pytest.CaptureFixture[str]) -> None:
    counts = []
    for item in ("groups=", "group=laws"):
        with pytest.raises(SystemExit) as ended:
            main(["out=nowhere", item])
        assert ended.value.code == 2
        counts.append(len(re.findall(r"\bgroups\b", capsys.readouterr().err)))
    assert counts == [2, 2]  # what was given or is suggested, and the list of keys
