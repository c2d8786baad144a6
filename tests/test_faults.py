"""Planted faults: each of these has been somebody's bug, and each is caught by a test that is named here.

A test that passes on a broken product is worth nothing. Every case here plants a fault in the product and runs a test
of the suite: as it is it passes, with the fault it fails.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mdlm_cfg.chain import denoiser, guidance, kinds, rules, steps
from mdlm_cfg.chain.schedules import linear
from mdlm_cfg.compare import decay, metrics
from mdlm_cfg.laws import push, rates, terminal
from mdlm_cfg.sampling import families, sampler
from mdlm_cfg.targets.table import Marginals, TableDenoiser

TESTS = Path(__file__).parent
Plant = Callable[[pytest.MonkeyPatch], None]
FORMULAS = (rules, rates, terminal)  # the modules that hold `geometric_mean`


def the_test(path: str) -> Callable[..., None]:
    """A test function by "file::name", called without pytest."""
    file, name = path.split("::")
    spec = importlib.util.spec_from_file_location(f"planted_{Path(file).stem}", TESTS / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


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


def asked(place: object, name: str, change: Callable[..., tuple]) -> Plant:
    """A function that is asked something else."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        right = getattr(place, name)
        patch.setattr(place, name, lambda *given: right(*change(*given)))

    plant.__name__ = f"{name}_asked_something_else"
    return plant


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
