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
from mdlm_cfg.studies.table import decay, distances, equal_cost, geometry, ledgers, study

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import kind_of
from mdlm_cfg.laws import TabulatedDenoiser
from mdlm_cfg.sampling.sampler import Sampler

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
    right = distances.terminal_law
    patch.setattr(distances, "terminal_law", lambda d, g, z, *more: right(d, by_rate(g), z, *more))


def kind_ignored_at_equal_cost(patch, _) -> None:
    right = equal_cost._rows

    def rows(name, denoiser, z, guidance, samplers):
        return [
            dataclasses.replace(r, guidance=guidance) for r in right(name, denoiser, z, by_rate(guidance), samplers)
        ]

    patch.setattr(equal_cost, "_rows", rows)


def kind_ignored_in_the_decay(patch, _) -> None:
    right = study.decay_of
    patch.setattr(study, "decay_of", lambda target, z, kind: right(target, z, kind_of("rate")))


def kind_misstated_in_the_decay(patch, _) -> None:
    right = decay.Decay.statement.fget
    patch.setattr(
        decay.Decay, "statement", property(lambda self: right(dataclasses.replace(self, kind=kind_of("rate"))))
    )


def kind_ignored_in_the_limit(patch, _) -> None:
    right = geometry.limit_law
    patch.setattr(geometry, "limit_law", lambda target, z, kind: right(target, z, "rate"))


def kind_ignored_in_the_ledger(patch, _) -> None:
    right = ledgers.ledger_laws

    def laws(target, judged, guidance, z, *more):
        return dataclasses.replace(right(target, judged, by_rate(guidance), z, *more), guidance=guidance)

    patch.setattr(ledgers, "ledger_laws", laws)


def schedule_ignored_in_the_ledger(patch, _) -> None:
    right = ledgers.ledger_of

    def ledger(shared, sampler, *more):
        return dataclasses.replace(right(shared, on_linear(sampler), *more), sampler=sampler)

    patch.setattr(ledgers, "ledger_of", ledger)


def schedule_ignored_at_equal_cost(patch, _) -> None:
    right = Sampler.law
    patch.setattr(Sampler, "law", lambda self, *given: right(on_linear(self), *given))


def schedule_ignored_by_the_samples(patch, _) -> None:
    right = Sampler.draw
    patch.setattr(Sampler, "draw", lambda self, *a, **k: right(on_linear(self), *a, **k))


def grid_ignored_in_the_ledger(patch, _) -> None:
    right = ledgers.ledger_of

    def ledger(shared, sampler, *more):
        run = Sampler(sampler.name, len(sampler.steps) - 1) if isinstance(sampler.steps, tuple) else sampler
        return dataclasses.replace(right(shared, run, *more), sampler=sampler)

    patch.setattr(ledgers, "ledger_of", ledger)


def steps_off_by_one(patch, _) -> None:
    right = Sampler.law
    patch.setattr(Sampler, "law", lambda self, *given: right(one_more(self), *given))


def calls_off_by_one(patch, _) -> None:
    right = Sampler.calls
    patch.setattr(Sampler, "calls", lambda self, num_dims: right(self, num_dims) + 1)


def class_0_in(name: str) -> Plant:
    def plant(patch, _) -> None:
        room, function = {
            "laws": (distances, "terminal_law"), "tilted": (distances, "tilted_law"), "limit": (geometry, "limit_law"),
            "regions": (geometry, "regions"), "decay": (study, "decay_of"), "ledger": (ledgers, "ledger_laws"),
            "rows": (equal_cost, "_rows"),
        }[name]  # fmt: skip
        right = getattr(room, function)

        def with_class_0(*arguments):
            at = {"limit": 1, "regions": 1, "decay": 1, "ledger": 3}.get(name, 2)
            return right(*arguments[:at], 0, *arguments[at + 1 :])

        patch.setattr(room, function, with_class_0)

    plant.__name__ = f"class_0_in_{name}"
    return plant


def exact_for_learned(patch, figures) -> None:
    patch.setattr(study, "table_of", lambda *_: TabulatedDenoiser(figures.target().denoiser()))


def exact_samples_for_learned(patch, figures) -> None:
    right = Sampler.draw
    exact = figures.target().denoiser()
    patch.setattr(Sampler, "draw", lambda self, d, *a, **k: right(self, exact, *a, **k))


def learned_line_for_exact(patch, _) -> None:
    right = ledgers.ledger_of

    def ledger(shared, *more):
        entry = right(shared, *more)
        line, other = "discretisation error", "discretisation error, exact scores"
        return dataclasses.replace(entry, tv=entry.tv | {line: entry.tv[other]})

    patch.setattr(ledgers, "ledger_of", ledger)


def another_seed(patch, _) -> None:
    right = distances.Plan.generator
    patch.setattr(distances.Plan, "generator", lambda self, what, g, z, *more: right(self, what, by_rate(g), 0, *more))


TAU, EVENT, GRID = ("tau_leaping", "cosine"), ("event_leaping", "linear"), ("euler", "grid")
FAULTS = [
    (kind_ignored_in_laws, "test_distances", ("normalized", TAU, 0, "exact")),
    (kind_ignored_at_equal_cost, "test_samplers", ("normalized", TAU, 0, "exact")),
    (kind_ignored_in_the_decay, "test_decay", ("normalized", TAU, 0, "exact")),
    (kind_misstated_in_the_decay, "test_decay", ("normalized", TAU, 2, "exact")),
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
    (class_0_in("rows"), "test_samplers", ("rate", TAU, 2, "exact")),
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
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("plant", "name", "case"), FAULTS, ids=[f"{f.__name__}-{n}" for f, n, _ in FAULTS])
def test_the_fault_is_seen(plant: Plant, name: str, case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    test, asked = getattr(FIGURES, name), FIGURES.Case(*case)
    test(asked)  # and the truths are computed
    FIGURES.found.cache_clear()
    plant(monkeypatch, FIGURES)
    try:
        with pytest.raises(AssertionError):
            test(asked)
    finally:
        FIGURES.found.cache_clear()
