"""Planted faults: each of these has been somebody's bug, and each is caught by a test that is named here.

A test that passes on a broken product is worth nothing. Every case here plants a fault in the product and runs a test
of the suite: as it is it passes, with the fault it fails.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from mdlm_cfg.chain import denoiser, guidance, kinds, rules, steps
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.schedules import linear
from mdlm_cfg.compare import decay, metrics
from mdlm_cfg.laws import TabulatedDenoiser, push, rates, terminal
from mdlm_cfg.sampling import families, sampler
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies import common, decay as decay_study, evaluation, geometry, ledger, samplers
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case
from mdlm_cfg.targets.table import Marginals, TableDenoiser

TESTS = Path(__file__).parent
Plant = Callable[[pytest.MonkeyPatch], None]
FORMULAS = (rules, rates, terminal)  # the modules that hold `geometric_mean`


def module_of(file: str) -> Any:
    """The tests of a file, in a module of their own: its caches are nobody else's."""
    spec = importlib.util.spec_from_file_location(f"planted_{Path(file).stem}", TESTS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def the_test(path: str) -> Callable[..., None]:
    """A test function by "file::name", called without pytest."""
    file, name = path.split("::")
    return getattr(module_of(file), name)


def asked(place: object, name: str, change: Callable[..., tuple]) -> Plant:
    """A function that is asked something else."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = getattr(place, name)
        patch.setattr(place, name, lambda *given, **more: right(*change(*given), **more))

    plant.__name__ = f"{name}_asked_something_else"
    return plant


def float32_gumbel(patch: pytest.MonkeyPatch) -> None:
    def draw_values(log_rates, log_z, generator, places=None):
        noise = torch.rand(log_rates.shape, generator=generator, dtype=torch.float32)
        values = (log_rates.float() - (-noise.log()).log()).argmax(dim=-1)
        return values if places is None else values.gather(1, places)

    patch.setattr(steps, "draw_values", draw_values)


def lost_support(patch: pytest.MonkeyPatch) -> None:
    def with_epsilon(log_cond, log_uncond, w):
        cond, uncond = (log_p.clamp(min=-20.0) for log_p in (log_cond, log_uncond))
        return cond + w * (cond - uncond)

    def weights(self, w, *_):
        uncond = self.cond if self.uncond is None else self.uncond
        return with_epsilon(self.cond.log(), uncond.log(), w).exp()

    patch.setattr(Marginals, "weights", weights)
    for room in FORMULAS:
        patch.setattr(room, "geometric_mean", with_epsilon)


def sign_of_w(patch: pytest.MonkeyPatch) -> None:
    right = rules.geometric_mean
    weights = Marginals.weights
    patch.setattr(Marginals, "weights", lambda self, w, *in_place: weights(self, -w, *in_place))
    for room in FORMULAS:
        patch.setattr(room, "geometric_mean", lambda log_cond, log_uncond, w: right(log_cond, log_uncond, -w))


def gamma_for_w(patch: pytest.MonkeyPatch) -> None:
    for room in FORMULAS:
        asked(room, "geometric_mean", lambda log_cond, log_uncond, w: (log_cond, log_uncond, w - 1))(patch)


def schedule_off_by_one(patch: pytest.MonkeyPatch) -> None:
    right = families.step_fractions
    patch.setattr(families, "step_fractions", lambda count, schedule=None: right(count + 1, schedule)[1:])


schedule_ignored = asked(families, "step_fractions", lambda count, schedule=None: (count, linear()))
events_schedule_ignored = asked(families, "event_counts", lambda count, num_dims, schedule=None: (count, num_dims))
frozen_w = asked(guidance.Guidance, "strength", lambda self, num_unmasked, num_dims: (self, 0, num_dims))
ramp_ends_early = asked(guidance.Guidance, "strength", lambda self, done, num_dims: (self, done, num_dims + 1))


def argmax_finish(patch: pytest.MonkeyPatch) -> None:
    right = steps.TimeStep.draw

    def draw(self, x, log_rates, generator):
        if self.u < 1:
            return right(self, x, log_rates, generator)
        return torch.where((log_rates > -torch.inf).any(dim=-1), log_rates.argmax(dim=-1), x)

    patch.setattr(steps.TimeStep, "draw", draw)


def kind_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guidance, "kind_of", lambda kind: kinds.KINDS["rate"])


def class_0_assumed(patch: pytest.MonkeyPatch) -> None:
    right = denoiser.conditionals
    marginals = TableDenoiser.log_marginals
    patch.setattr(rules, "conditionals", lambda d, tokens, z: right(d, tokens, None if z is None else 0))
    patch.setattr(TableDenoiser, "log_marginals", lambda self, z: marginals(self, None if z is None else 0))
    in_blocks = TableDenoiser.marginals_in_blocks
    patch.setattr(TableDenoiser, "marginals_in_blocks", lambda self, z: in_blocks(self, None if z is None else 0))


def coordinates_uniform(patch: pytest.MonkeyPatch) -> None:
    right = steps.EventStep.draw

    def draw(self, x, log_rates, generator):  # the values by their rates, the coordinates by a coin
        log_z = log_rates.logsumexp(dim=-1, keepdim=True)
        return right(self, x, log_rates - log_z.masked_fill(log_z == -torch.inf, 0.0), generator)

    patch.setattr(steps.EventStep, "draw", draw)


def euler_unclamped(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(steps.JUMPS, "euler", steps.JUMPS["tau_leaping"])


def contract_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(denoiser, "_check_rows", lambda *_: None)


def float32_unnormalised(patch: pytest.MonkeyPatch) -> None:
    right = denoiser._normalized  # of one label, and of several
    patch.setattr(denoiser, "_normalized", lambda *given: right(*given).float().double())


def masks_counted(patch: pytest.MonkeyPatch) -> None:
    def histogram(x, num_tokens):
        cells = (x * num_tokens ** torch.arange(x.shape[1] - 1, -1, -1)).sum(dim=1)
        counts = torch.bincount(cells.clamp(0, num_tokens ** x.shape[1] - 1), minlength=num_tokens ** x.shape[1])
        return (counts.double() / len(x)).reshape([num_tokens] * x.shape[1])

    patch.setattr(metrics, "histogram", histogram)


def exits_of_one_coordinate(patch: pytest.MonkeyPatch) -> None:
    right = rates.rates_from_edges

    def without(*args):  # the total exit rate of the fastest coordinate in place of the sum
        found = right(*args)
        return dataclasses.replace(found, log_exit=found.log_exit - 0.1)

    for room in (rates,):
        patch.setattr(room, "rates_from_edges", without)


def lost_mass_kept_quiet(patch: pytest.MonkeyPatch) -> None:
    for room in (push, sampler, decay):
        patch.setattr(room, "refuse_lost", lambda *_: None)


TERMINAL = "laws/test_oracle.py::test_terminal_law"
STEPPED = "laws/test_oracle.py::test_stepped_laws"
DRAWN = "contracts/test_sampler_contract.py::test_it_draws_from_its_law"
CONTRACT = "chain/test_denoiser.py::test_a_broken_contract_is_refused_by_all"
FAULTS: list[tuple[Plant, str, tuple]] = [
    (float32_gumbel, "sampling/test_samplers.py::test_draws_are_uniform_and_float64", ("first_hitting",)),
    (lost_support, TERMINAL, ("zeros-3-3", "rate", -1.0)),
    (sign_of_w, TERMINAL, ("full-2-3", "rate", 1.0)),
    (gamma_for_w, TERMINAL, ("incoherent-4-2", "normalized", 1.0)),
    (schedule_off_by_one, STEPPED, ("zeros-3-3", "rate", "tau_leaping", 3.0)),
    (schedule_ignored, STEPPED, ("zeros-3-3", "rate", "d_cfg", 3.0)),
    (events_schedule_ignored, "laws/test_oracle.py::test_event_leaping_on_every_schedule", ("rate",)),
    (argmax_finish, DRAWN, ("tau_leaping", "zeros", 1)),
    (kind_ignored, TERMINAL, ("zeros-2-4", "normalized", 7.5)),
    (class_0_assumed, "laws/test_oracle.py::test_classes_are_told_apart", (1,)),
    (class_0_assumed, TERMINAL, ("incoherent-2-3", "rate", 0.0)),
    (frozen_w, TERMINAL, ("full-2-3", "rate", guidance.LinearRamp(-0.5, 4.0))),
    (ramp_ends_early, TERMINAL, ("full-2-3", "rate", guidance.LinearRamp(-0.5, 4.0))),
    (coordinates_uniform, DRAWN, ("first_hitting", "incoherent", 1)),
    (euler_unclamped, STEPPED, ("zeros-3-3", "rate", "euler", 3.0)),
    (exits_of_one_coordinate, "laws/test_oracle.py::test_law_at_clock_times", ("incoherent-2-3", "rate", 4.0)),
    (contract_unchecked, CONTRACT, ("terminal_law", "unnormalised")),
    (contract_unchecked, CONTRACT, ("time_to_tv", "unnormalised")),
    (float32_unnormalised, STEPPED, ("incoherent-2-3", "rate", "d_cfg", 3.0)),
    (masks_counted, "chain/test_denoiser.py::test_a_histogram_of_masks_is_refused", ()),
    (lost_mass_kept_quiet, "chain/test_denoiser.py::test_a_sample_with_nowhere_to_go_is_refused", ("d_cfg",)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "path", "arguments"), FAULTS, ids=[f"{f.__name__}-{p}" for f, p, _ in FAULTS])
def test_the_fault_is_caught(plant, path, arguments, monkeypatch) -> None:
    the_test(path)(*arguments)
    plant(monkeypatch)
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        the_test(path)(*arguments)


def test_the_tests_that_catch_faults_are_there() -> None:
    assert all(callable(the_test(path)) for path in {path for _, path, _ in FAULTS})


# Faults of the studies: each answers another question than the one that was asked, without an error. The truths that
# the tests compare with are computed before the plant.


@cache
def figures() -> Any:
    return module_of("studies/test_report_figures.py")


def by_rate(guidance: Guidance) -> Guidance:
    return Guidance(guidance.constant, "rate")


def on_linear(sampler: Sampler) -> Sampler:
    return Sampler(sampler.name, sampler.steps, "linear") if isinstance(sampler.steps, int) else sampler


def one_more(sampler: Sampler) -> Sampler:
    return Sampler(sampler.name, sampler.steps + 1, sampler.schedule) if isinstance(sampler.steps, int) else sampler


def by_rate_alone(sampler: Sampler, denoiser: object, guidance: Guidance, *more: object) -> tuple:
    return sampler, denoiser, by_rate(guidance), *more


def class_0_at(place: int) -> Callable[..., tuple]:
    return lambda *given: (*given[:place], 0, *given[place + 1 :])


def by_rate_in_the_decay(patch) -> None:
    right = decay_study.tv_decay

    def decayed(target, z, guidances, taus):
        return dataclasses.replace(right(target, z, [by_rate(g) for g in guidances], taus), kind=guidances[0].kind)

    patch.setattr(decay_study, "tv_decay", decayed)


def by_rate_in_the_ledger(patch) -> None:
    right = ledger.ledger_laws

    def laws(target, judged, guidance, z, *more):
        return dataclasses.replace(right(target, judged, by_rate(guidance), z, *more), guidance=guidance)

    patch.setattr(ledger, "ledger_laws", laws)


def in_the_ledger(other: Callable[[Sampler], Sampler]) -> Plant:
    """A budget of another sampler under the name of the right one."""

    def plant(patch) -> None:
        right = ledger.ledger_of

        def entry(shared, sampler, *more):
            return dataclasses.replace(right(shared, other(sampler), *more), sampler=sampler)

        patch.setattr(ledger, "ledger_of", entry)

    return plant


def without_grid(sampler: Sampler) -> Sampler:
    return Sampler(sampler.name, len(sampler.steps) - 1) if isinstance(sampler.steps, tuple) else sampler


def calls_off_by_one(patch) -> None:
    right = Sampler.calls
    patch.setattr(Sampler, "calls", lambda self, num_dims: right(self, num_dims) + 1)


def exact_for_learned(patch) -> None:
    patch.setattr(Case, "table", lambda self, who: TabulatedDenoiser(figures().target().denoiser()))


def exact_samples_for_learned(patch) -> None:
    exact = figures().target().denoiser()
    asked(Sampler, "draw", lambda self, _, *more: (self, exact, *more))(patch)


def learned_line_for_exact(patch) -> None:
    right = ledger.ledger_of

    def entry(shared, *more):
        made = right(shared, *more)
        line = "discretisation error"
        other = "discretisation error, exact conditionals"
        return dataclasses.replace(made, tv=made.tv | {line: made.tv[other]})

    patch.setattr(ledger, "ledger_of", entry)


TAU = ("tau_leaping", "cosine")
EVENT = ("event_leaping", "linear")
GRID = ("euler", "grid")
kind_in_laws = asked(common, "terminal_law", lambda d, g, z, *more: (d, by_rate(g), z, *more))
kind_in_the_limit = asked(geometry, "limit_law", lambda target, z, kind: (target, z, "rate"))
linear_law = asked(Sampler, "law", lambda self, *more: (on_linear(self), *more))
linear_draw = asked(Sampler, "draw", lambda self, *more: (on_linear(self), *more))
more_steps = asked(Sampler, "law", lambda self, *more: (one_more(self), *more))
another_seed = asked(Plan, "generator", lambda self, what, g, z, *more: (self, what, by_rate(g), 0, *more))
REPORT_FAULTS = {  # what is planted, the test that fails, and its case
    "kind in laws": (kind_in_laws, "test_distances", ("normalized", TAU, 0, "exact")),
    "kind at equal cost": (asked(Sampler, "law", by_rate_alone), "test_samplers", ("normalized", TAU, 0, "exact")),
    "kind in the decay": (by_rate_in_the_decay, "test_decay", ("normalized", TAU, 0, "exact")),
    "kind in the limit": (kind_in_the_limit, "test_geometry", ("normalized", TAU, 2, "exact")),
    "kind in the ledger": (by_rate_in_the_ledger, "test_ledger", ("normalized", TAU, 2, "learned")),
    "schedule in the ledger": (in_the_ledger(on_linear), "test_ledger", ("rate", TAU, 0, "exact")),
    "schedule at equal cost": (linear_law, "test_samplers", ("rate", TAU, 2, "exact")),
    "schedule of samples": (linear_draw, "test_distances", ("rate", TAU, 2, "exact")),
    "grid in the ledger": (in_the_ledger(without_grid), "test_ledger", ("rate", GRID, 2, "learned")),
    "steps": (more_steps, "test_samplers", ("rate", TAU, 0, "exact")),
    "steps in the ledger": (more_steps, "test_ledger", ("rate", TAU, 0, "exact")),
    "calls": (calls_off_by_one, "test_samplers", ("rate", EVENT, 0, "exact")),
    "class of laws": (asked(common, "terminal_law", class_0_at(2)), "test_distances", ("rate", TAU, 2, "exact")),
    "class of the tilt": (asked(evaluation, "tilted_law", class_0_at(2)), "test_distances", ("rate", TAU, 2, "exact")),
    "class of ends": (asked(samplers, "terminal_law", class_0_at(2)), "test_samplers", ("rate", TAU, 2, "exact")),
    "class of the decay": (asked(decay_study, "tv_decay", class_0_at(1)), "test_decay", ("rate", TAU, 2, "exact")),
    "class of the limit": (asked(geometry, "limit_law", class_0_at(1)), "test_geometry", ("rate", TAU, 2, "exact")),
    "class of regions": (asked(geometry, "regions", class_0_at(1)), "test_geometry", ("rate", TAU, 2, "exact")),
    "class of the ledger": (asked(ledger, "ledger_laws", class_0_at(3)), "test_ledger", ("rate", TAU, 2, "learned")),
    "exact for learned": (exact_for_learned, "test_distances", ("rate", TAU, 0, "learned")),
    "exact in the ledger": (exact_for_learned, "test_ledger", ("rate", TAU, 0, "learned")),
    "exact at equal cost": (exact_for_learned, "test_samplers", ("rate", TAU, 0, "learned")),
    "exact samples": (exact_samples_for_learned, "test_distances", ("rate", TAU, 0, "learned")),
    "another line": (learned_line_for_exact, "test_ledger", ("rate", TAU, 2, "learned")),
    "another seed": (another_seed, "test_distances", ("normalized", TAU, 2, "exact")),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", REPORT_FAULTS)
def test_the_fault_in_a_report_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, name, case = REPORT_FAULTS[fault]
    test = getattr(figures(), name)
    wanted = figures().Case(*case)
    test(wanted)  # and the truths are computed
    figures().found.cache_clear()
    plant(monkeypatch)
    try:
        with pytest.raises(AssertionError):
            test(wanted)
    finally:
        figures().found.cache_clear()
