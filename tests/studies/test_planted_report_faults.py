"""Faults planted in the studies: a figure's test that passes on a report of something else is worth nothing.

Each plant answers another question than the one that was asked, without an error. The truths that the tests compare
with were computed before the plant; with it, the test must fail.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.laws import TabulatedDenoiser
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies import common, decay, evaluation, geometry, ledger, samplers
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case

Plant = Callable[[pytest.MonkeyPatch, object], None]


def figures():
    """The tests, in a module of their own: its caches are nobody else's."""
    path = Path(__file__).parent / "test_report_figures.py"
    spec = importlib.util.spec_from_file_location("figures_to_plant_in", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FIGURES = figures()


def by_rate(guidance: Guidance) -> Guidance:
    return Guidance(guidance.constant, "rate")


def on_linear(sampler: Sampler) -> Sampler:
    return Sampler(sampler.name, sampler.steps, "linear") if isinstance(sampler.steps, int) else sampler


def one_more(sampler: Sampler) -> Sampler:
    return Sampler(sampler.name, sampler.steps + 1, sampler.schedule) if isinstance(sampler.steps, int) else sampler


def asked(place: object, name: str, change: Callable[..., tuple]) -> Plant:
    """A function that is asked something else."""

    def plant(patch, _) -> None:
        right = getattr(place, name)
        patch.setattr(place, name, lambda *given, **more: right(*change(*given), **more))

    return plant


def by_rate_alone(sampler: Sampler, denoiser: object, guidance: Guidance, *more: object) -> tuple:
    return sampler, denoiser, by_rate(guidance), *more


def class_0_at(place: int) -> Callable[..., tuple]:
    return lambda *given: (*given[:place], 0, *given[place + 1 :])


def by_rate_in_the_decay(patch, _) -> None:
    right = decay.tv_decay

    def decayed(target, z, guidances, taus):
        return dataclasses.replace(right(target, z, [by_rate(g) for g in guidances], taus), kind=guidances[0].kind)

    patch.setattr(decay, "tv_decay", decayed)


def by_rate_in_the_ledger(patch, _) -> None:
    right = ledger.ledger_laws

    def laws(target, judged, guidance, z, *more):
        return dataclasses.replace(right(target, judged, by_rate(guidance), z, *more), guidance=guidance)

    patch.setattr(ledger, "ledger_laws", laws)


def in_the_ledger(other: Callable[[Sampler], Sampler]) -> Plant:
    """A budget of another sampler under the name of the right one."""

    def plant(patch, _) -> None:
        right = ledger.ledger_of

        def entry(shared, sampler, *more):
            return dataclasses.replace(right(shared, other(sampler), *more), sampler=sampler)

        patch.setattr(ledger, "ledger_of", entry)

    return plant


def without_grid(sampler: Sampler) -> Sampler:
    return Sampler(sampler.name, len(sampler.steps) - 1) if isinstance(sampler.steps, tuple) else sampler


def calls_off_by_one(patch, _) -> None:
    right = Sampler.calls
    patch.setattr(Sampler, "calls", lambda self, num_dims: right(self, num_dims) + 1)


def exact_for_learned(patch, figures) -> None:
    patch.setattr(Case, "table", lambda self, who: TabulatedDenoiser(figures.target().denoiser()))


def exact_samples_for_learned(patch, figures) -> None:
    exact = figures.target().denoiser()
    asked(Sampler, "draw", lambda self, _, *more: (self, exact, *more))(patch, figures)


def learned_line_for_exact(patch, _) -> None:
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
FAULTS = {  # what is planted, the test that fails, and its case
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
    "class of the decay": (asked(decay, "tv_decay", class_0_at(1)), "test_decay", ("rate", TAU, 2, "exact")),
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
@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, name, case = FAULTS[fault]
    test = getattr(FIGURES, name)
    wanted = FIGURES.Case(*case)
    test(wanted)  # and the truths are computed
    FIGURES.found.cache_clear()
    plant(monkeypatch, FIGURES)
    try:
        with pytest.raises(AssertionError):
            test(wanted)
    finally:
        FIGURES.found.cache_clear()
