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


def kind_ignored_in_laws(patch, _) -> None:
    right = common.terminal_law
    patch.setattr(common, "terminal_law", lambda d, g, z, *more: right(d, by_rate(g), z, *more))


def kind_ignored_at_equal_cost(patch, _) -> None:
    right = Sampler.law
    patch.setattr(Sampler, "law", lambda self, d, g, z, *more: right(self, d, by_rate(g), z))


def kind_ignored_in_the_decay(patch, _) -> None:
    right = decay.tv_decay

    def decayed(target, z, guidances, taus):
        return dataclasses.replace(right(target, z, [by_rate(g) for g in guidances], taus), kind=guidances[0].kind)

    patch.setattr(decay, "tv_decay", decayed)


def kind_ignored_in_the_limit(patch, _) -> None:
    right = geometry.limit_law
    patch.setattr(geometry, "limit_law", lambda target, z, kind: right(target, z, "rate"))


def kind_ignored_in_the_ledger(patch, _) -> None:
    right = ledger.ledger_laws

    def laws(target, judged, guidance, z, *more):
        return dataclasses.replace(right(target, judged, by_rate(guidance), z, *more), guidance=guidance)

    patch.setattr(ledger, "ledger_laws", laws)


def schedule_ignored_in_the_ledger(patch, _) -> None:
    right = ledger.ledger_of

    def entry(shared, sampler, *more):
        return dataclasses.replace(right(shared, on_linear(sampler), *more), sampler=sampler)

    patch.setattr(ledger, "ledger_of", entry)


def schedule_ignored_at_equal_cost(patch, _) -> None:
    right = Sampler.law
    patch.setattr(Sampler, "law", lambda self, *given: right(on_linear(self), *given))


def schedule_ignored_by_the_samples(patch, _) -> None:
    right = Sampler.draw
    patch.setattr(Sampler, "draw", lambda self, *a, **k: right(on_linear(self), *a, **k))


def grid_ignored_in_the_ledger(patch, _) -> None:
    right = ledger.ledger_of

    def entry(shared, sampler, *more):
        run = Sampler(sampler.name, len(sampler.steps) - 1) if isinstance(sampler.steps, tuple) else sampler
        return dataclasses.replace(right(shared, run, *more), sampler=sampler)

    patch.setattr(ledger, "ledger_of", entry)


def steps_off_by_one(patch, _) -> None:
    right = Sampler.law
    patch.setattr(Sampler, "law", lambda self, *given: right(one_more(self), *given))


def calls_off_by_one(patch, _) -> None:
    right = Sampler.calls
    patch.setattr(Sampler, "calls", lambda self, num_dims: right(self, num_dims) + 1)


def class_0_in(name: str) -> Plant:
    def plant(patch, _) -> None:
        room, function = {
            "laws": (common, "terminal_law"),
            "tilted": (evaluation, "tilted_law"),
            "limit": (geometry, "limit_law"),
            "regions": (geometry, "regions"),
            "decay": (decay, "tv_decay"),
            "ledger": (ledger, "ledger_laws"),
            "ends": (samplers, "terminal_law"),
        }[name]
        right = getattr(room, function)

        def with_class_0(*arguments):
            at = {"limit": 1, "regions": 1, "decay": 1, "ledger": 3}.get(name, 2)
            return right(*arguments[:at], 0, *arguments[at + 1 :])

        patch.setattr(room, function, with_class_0)

    plant.__name__ = f"class_0_in_{name}"
    return plant


def exact_for_learned(patch, figures) -> None:
    patch.setattr(Case, "table", lambda self, who: TabulatedDenoiser(figures.target().denoiser()))


def exact_samples_for_learned(patch, figures) -> None:
    right = Sampler.draw
    exact = figures.target().denoiser()
    patch.setattr(Sampler, "draw", lambda self, d, *a, **k: right(self, exact, *a, **k))


def learned_line_for_exact(patch, _) -> None:
    right = ledger.ledger_of

    def entry(shared, *more):
        made = right(shared, *more)
        line = "discretisation error"
        other = "discretisation error, exact conditionals"
        return dataclasses.replace(made, tv=made.tv | {line: made.tv[other]})

    patch.setattr(ledger, "ledger_of", entry)


def another_seed(patch, _) -> None:
    right = Plan.generator
    patch.setattr(Plan, "generator", lambda self, what, g, z, *m, **k: right(self, what, by_rate(g), 0, *m, **k))


TAU = ("tau_leaping", "cosine")
EVENT = ("event_leaping", "linear")
GRID = ("euler", "grid")
FAULTS = [
    (kind_ignored_in_laws, "test_distances", ("normalized", TAU, 0, "exact")),
    (kind_ignored_at_equal_cost, "test_samplers", ("normalized", TAU, 0, "exact")),
    (kind_ignored_in_the_decay, "test_decay", ("normalized", TAU, 0, "exact")),
    (kind_ignored_in_the_limit, "test_geometry", ("normalized", TAU, 2, "exact")),
    (kind_ignored_in_the_ledger, "test_ledger", ("normalized", TAU, 2, "learned")),
    (schedule_ignored_in_the_ledger, "test_ledger", ("rate", TAU, 0, "exact")),
    (schedule_ignored_in_the_ledger, "test_ledger", ("normalized", ("d_cfg", "exponential"), 2, "learned")),
    (schedule_ignored_at_equal_cost, "test_samplers", ("rate", TAU, 2, "exact")),
    (schedule_ignored_by_the_samples, "test_distances", ("rate", TAU, 2, "exact")),
    (grid_ignored_in_the_ledger, "test_ledger", ("rate", GRID, 2, "learned")),
    (steps_off_by_one, "test_samplers", ("rate", TAU, 0, "exact")),
    (steps_off_by_one, "test_ledger", ("rate", TAU, 0, "exact")),
    (calls_off_by_one, "test_samplers", ("rate", EVENT, 0, "exact")),
    (class_0_in("laws"), "test_distances", ("rate", TAU, 2, "exact")),
    (class_0_in("tilted"), "test_distances", ("rate", TAU, 2, "exact")),
    (class_0_in("ends"), "test_samplers", ("rate", TAU, 2, "exact")),
    (class_0_in("decay"), "test_decay", ("rate", TAU, 2, "exact")),
    (class_0_in("limit"), "test_geometry", ("rate", TAU, 2, "exact")),
    (class_0_in("regions"), "test_geometry", ("rate", TAU, 2, "exact")),
    (class_0_in("ledger"), "test_ledger", ("rate", TAU, 2, "learned")),
    (exact_for_learned, "test_distances", ("rate", TAU, 0, "learned")),
    (exact_for_learned, "test_ledger", ("rate", TAU, 0, "learned")),
    (exact_for_learned, "test_samplers", ("rate", TAU, 0, "learned")),
    (exact_samples_for_learned, "test_distances", ("rate", TAU, 0, "learned")),
    (learned_line_for_exact, "test_ledger", ("rate", TAU, 2, "learned")),
    (another_seed, "test_distances", ("normalized", TAU, 2, "exact")),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "name", "case"), FAULTS, ids=[f"{f.__name__}-{n}" for f, n, _ in FAULTS])
def test_the_fault_is_seen(plant: Plant, name: str, case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    test = getattr(FIGURES, name)
    asked = FIGURES.Case(*case)
    test(asked)  # and the truths are computed
    FIGURES.found.cache_clear()
    plant(monkeypatch, FIGURES)
    try:
        with pytest.raises(AssertionError):
            test(asked)
    finally:
        FIGURES.found.cache_clear()
