"""Whatever a public function is given, it answers or refuses in one sentence: never Python's or torch's own error."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torch import Tensor, nn

import mdlm_cfg
from mdlm_cfg import (
    Correction,
    FunctionDenoiser,
    Guidance,
    HiddenMarkovMixture,
    Sampler,
    Schedule,
    TableMixture,
    TablePosterior,
    UserError,
    plot,
)
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.chain.schedules import event_counts, step_fractions
from mdlm_cfg.compare.best_schedule import trade_off
from mdlm_cfg.compare.calibration import exact_gain, held_out_gain
from mdlm_cfg.compare.decay import log_still_masked, neutral_states, time_to_tv
from mdlm_cfg.compare.geometry import limit_visits, regions
from mdlm_cfg.compare.levels import MaskedSamples
from mdlm_cfg.compare.likelihood import class_posterior, nelbo_bound
from mdlm_cfg.compare.metrics import histogram, kl_divergence, total_variation
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.stationary import spectral_gap
from mdlm_cfg.laws.stepped import freeze
from mdlm_cfg.studies.plan import Plan

PMFS = torch.tensor([[[0.4, 0.4], [0.2, 0.0]], [[0.0, 0.2], [0.4, 0.4]]])
TARGET = TableMixture(PMFS, torch.tensor([0.5, 0.5]))
EXACT = TARGET.denoiser()
GUIDED = Guidance(2.0)
HIDDEN = HiddenMarkovMixture(
    torch.ones(2, 1), torch.ones(2, 1, 1), torch.full((2, 1, 2), 0.5), torch.tensor([0.5, 0.5]), num_dims=2
)
SAMPLER = Sampler("event_leaping", steps=2)
MOVES = Correction(1, 2)
X = torch.tensor([[0, 1], [1, 0], [0, 0], [0, 1]])
MASKED = torch.full((1, 2), 2)
PROFILE = mdlm_cfg.exact_information_profile(TARGET, 0)


def even(tokens: Tensor, classes: Tensor | None) -> Tensor:
    return torch.full((*tokens.shape, 2), 0.5).log()


FUNCTION = FunctionDenoiser(even, 2, 2, 2)
# a value for what a function cannot do without, by its name; everything else has the default that its signature gives
VALUES: dict[str, Any] = {
    "after": [1.0, 1.0],
    "before": [0.0, 0.0],
    "begin": 0.0,
    "blocks": [[0], [1]],
    "class_pmfs": PMFS,
    "class_weights": torch.ones(2) / 2,
    "classes": None,
    "classifier": TablePosterior(TARGET),
    "correction": MOVES,
    "denoiser": EXACT,
    "emission": torch.full((2, 1, 2), 0.5),
    "end": 2.0,
    "entropy_weight": 1.0,
    "function": even,
    "generate": even,
    "guidance": GUIDED,
    "guidances": [GUIDED],
    "initial": torch.ones(2, 1),
    "level": 0.125,
    "make": even,
    "mask_id": 0,
    "model": nn.Linear(2, 2),
    "null_sentence": [0, 4],
    "num": 3,
    "num_classes": 2,
    "num_dims": 2,
    "num_samples": 10,
    "num_tokens": 2,
    "order": [0, 1],
    "other_class": 1,
    "p": TARGET.pmf,
    "path": "nothing",
    "q": TARGET.pmf,
    "samples": X,
    "sentences": [[0, 3]],
    "sizes": [1, 1],
    "start": 1.0,
    "state": torch.tensor([2, 0]),
    "steps": 3,
    "t": 0.5,
    "target": TARGET,
    "target_class": 0,
    "tau": 1.0,
    "taus": [1.0],
    "temperature": 0.5,
    "text": "cfg",
    "tokens": X,
    "transition": torch.ones(2, 1, 1),
    "value": 2.0,
    "values": [1, 2],
    "w": 1.0,
    "weak": EXACT,
    "weights": {0: 1.0, 1: 0.5},
    "within": "uniform",
    "x": X,
    "x_label": "x",
    "y_label": "y",
}
# where another value than the default is needed, or tells more
GIVEN: dict[Callable[..., Any], list[dict[str, Any]]] = {
    mdlm_cfg.sequential_monte_carlo: [{"num_samples": 20, "threshold": 0.5}],
    mdlm_cfg.error_ledger: [{"num_samples": 10}],
    mdlm_cfg.tv_decay: [{"fit_tau": 0.5}],
    mdlm_cfg.stepped_law: [{"sampler": "tau_leaping"}],
    mdlm_cfg.path_kl: [{"most": 3}],
    mdlm_cfg.calibrate: [{"centre": 0.0, "spread": 1.0}],
    mdlm_cfg.load_run: [{"batch_size": 3}],
    mdlm_cfg.Interval: [{"end": 1.0}],
    mdlm_cfg.AdaptiveCFG: [{"k": 1}, {"share": 0.5}],
    mdlm_cfg.SchedulerSampler: [{"arguments": {}}],
    mdlm_cfg.GenerateSampler: [{"arguments": {}}],
    Sampler: [
        {},
        {"name": "event_leaping", "steps": 2},
        {"name": "event_leaping", "events": 2},
        {"name": "sampled_confidence", "steps": 2, "choice_temperature": 1.0, "annealed": True},
        {"name": "threshold", "threshold": 0.75},
        {"name": "factor", "factor": 0.75},
        {"name": "entropy_bound", "gamma": 0.125},
        {"name": "remdm", "steps": 3, "remasking": "cap(0.2)"},
        {"name": "mine", "steps": 3, "jump": lambda log_z, u: u.expand_as(log_z)},
    ],
    held_out_gain: [{"samples": MaskedSamples(EXACT, X)}],
    plot.laws: [{"found": {"exact": TARGET.pmf}}],
    plot.decay: [{"found": mdlm_cfg.tv_decay(TARGET, 0, [GUIDED], [1.0])}],
    plot.ledger: [{"entries": mdlm_cfg.error_ledger(TARGET, EXACT, GUIDED, 0, num_samples=10)}],
    plot.lines: [{"series": {"a": ([1.0, 2.0], [1.0, 2.0])}}],
    plot.images: [{"samples": {0.0: np.zeros((2, 3, 4, 4))}}],
    GUIDED.log_rates: [{"tokens": MASKED}],
    GUIDED.log_rho: [{"tokens": MASKED}],
}
ABSTRACT = {mdlm_cfg.Denoiser, mdlm_cfg.Policy, mdlm_cfg.Rule, UserError}
PUBLIC = [getattr(mdlm_cfg, name) for name in mdlm_cfg.__all__]
PUBLIC += [f for name, f in vars(plot).items() if getattr(f, "__module__", "") == plot.__name__ and name[0] != "_"]
OTHERS = (
    *(
        nelbo_bound,
        class_posterior,
        MaskedSamples,
        held_out_gain,
        exact_gain,
        trade_off,
        spectral_gap,
        visit_law,
        freeze,
    ),
    *(freeze, step_fractions, event_counts, log_still_masked, time_to_tv, neutral_states, limit_visits, regions),
    *(total_variation, kl_divergence, histogram),
    *(SAMPLER.draw, Sampler().draw_weighted, SAMPLER.law, SAMPLER.partial_law, SAMPLER.expected_calls, SAMPLER.plan),
    *(SAMPLER.calls, MOVES.draw, TARGET.sample, TARGET.class_pmf, TARGET.entropy, GUIDED.log_rates, GUIDED.log_rho),
    *(GUIDED.table, HIDDEN.sample, HIDDEN.log_prob, HIDDEN.log_class_probs, HIDDEN.class_posterior),
    *(EXACT, FUNCTION, HIDDEN.denoiser(), TablePosterior(TARGET), Schedule().alpha, Schedule().tau),
    *(PROFILE.plan, PROFILE.scheduled, PROFILE.best),
)
Call = tuple[Callable[..., Any], dict[str, Any]]


def call(function: Callable[..., Any], given: dict[str, Any]) -> Call:
    """A call of a function with every argument that its signature names."""
    arguments = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not parameter.VAR_POSITIONAL:
            is_needed = parameter.default is parameter.empty
            arguments[name] = given[name] if name in given else VALUES[name] if is_needed else parameter.default
    assert given.keys() <= arguments.keys()
    return function, arguments


SLOW = [
    call(mdlm_cfg.benchmark, {"targets": ["toy_1d_overlap"], "strengths": [0.0], "calls": [1], "num_samples": 10}),
    call(mdlm_cfg.report, {"denoiser": FUNCTION, "w": [0.0], "out": "report", "num_samples": 5}),
]
CALLS = [
    call(function, given)
    for function in (*PUBLIC, *OTHERS)
    if function not in ABSTRACT | {function for function, _ in SLOW}
    for given in GIVEN.get(function, [{}])
]
WRONG: list[Any] = [
    None,
    True,
    3,
    -1,
    1.5,
    math.nan,
    10**400,
    1e300,
    "nothing",
    b"x",
    object(),
    [],
    [[1], [1, 2]],
    {"a": 1},
    ["a"],
    torch.rand(2, 2),
    torch.zeros(4, 2, dtype=torch.uint8),
    torch.zeros(4, 2, dtype=torch.bool),
    torch.zeros(0, 2, dtype=torch.int64),
    torch.tensor(1),
    torch.zeros(2, dtype=torch.complex64),
    np.zeros((4, 2), dtype=np.int16),
    np.float32(1),
    torch.Generator(),
    GUIDED,
    SAMPLER,
    TARGET,
    EXACT,
    MOVES,
    1j,
    slice(2),
]
# calls whose numbers stand in lists, or are left away above
NUMBERS: list[Call] = [
    (lambda i: mdlm_cfg.Blocks([[i], [0]]), {"i": 1}),
    (lambda k, c: mdlm_cfg.Compose([(k, c)]), {"k": 1, "c": 1.0}),
    (lambda i: mdlm_cfg.FixedOrder([i, 0]), {"i": 1}),
    (lambda w: mdlm_cfg.PerCount([w, 1.0]), {"w": 1.0}),
    (lambda w: mdlm_cfg.parse_strength([w, 1.0]), {"w": 1.0}),
    (lambda end: Sampler("euler", steps=[0, end, math.inf]), {"end": 1.0}),
    (lambda each: Sampler("event_leaping", events=[each, 1]), {"each": 1}),
    (partial(Schedule, "exponential"), {"horizon": 4.0}),
    (Calibrated, {"w": 1.0}),
    (partial(mdlm_cfg.GenerateSampler, even), {"block_length": 1, "batch_size": 1}),
    (lambda tau: mdlm_cfg.law_at(EXACT, GUIDED, 0, [0.5, tau]), {"tau": 1.0}),
    (lambda tau: mdlm_cfg.tv_decay(TARGET, 0, [GUIDED], [tau]), {"tau": 0.5}),
    (partial(mdlm_cfg.sample, EXACT, GUIDED, 0, 2, "euler"), {"steps": 1}),
    (partial(mdlm_cfg.error_ledger, TARGET, EXACT, GUIDED, 0, "euler", num_samples=10), {"steps": 1}),
    (partial(mdlm_cfg.path_kl, TARGET, GUIDED, 0), {"w": 1.0}),
    (partial(mdlm_cfg.calibrate, EXACT, 0, X.repeat(10, 1)), {"groups": 1}),
    (partial(mdlm_cfg.likelihood, EXACT, X), {"target_class": 0}),
    (lambda w: mdlm_cfg.best_schedule(TARGET, 1.0, 0, more_starts=[[w, 1.0]]), {"w": 1.0}),
    (lambda z, **more: Plan((GUIDED,), SAMPLER, classes=(z,), **more), {"z": 0, "num_samples": 10, "seed": 0}),
    (
        lambda w, calls: mdlm_cfg.benchmark(targets=["toy_1d_overlap"], strengths=[w], calls=[calls]),
        {"w": 1.0, "calls": 1},
    ),
]
TEXT_TOO = {(mdlm_cfg.parse_strength, "value")}  # what takes a number takes its text
# an object of one of these kinds is no other object
KINDS = ("denoiser", "guidance", "target", "generator", "correction", "sampler", "schedule", "kind", "policy", "rule")
FUNCTIONS = ("on_step", "progress", "objective", "function", "jump", "make", "generate")


def name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__name__)


def names(calls: list[Call]) -> list[str]:
    return [f"{name_of(function)}-{k}" for k, (function, _) in enumerate(calls)]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [*CALLS, *(pytest.param(*call, marks=pytest.mark.slow) for call in SLOW)],
    ids=[*names(CALLS), *names(SLOW)],
)
@pytest.mark.filterwarnings("ignore")
def test_whatever_one_argument_is_the_answer_is_a_value_or_a_sentence(
    function: Callable[..., Any], arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in arguments:
        for value in WRONG:
            if name in FUNCTIONS and callable(value):
                continue  # a function of another kind fails in itself
            try:
                function(**{**arguments, name: value})
            except UserError as error:
                assert "\n" not in str(error), name
            finally:
                pyplot.close("all")


@pytest.mark.parametrize(("function", "arguments"), [*CALLS, *SLOW], ids=[*names(CALLS), *names(SLOW)])
def test_an_object_of_another_kind_is_refused_by_name(
    function: Callable[..., Any], arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in set(arguments) & set(KINDS):
        for value in (object(), 3, 2.5, True, Guidance, TARGET if name != "target" else EXACT):
            with pytest.raises(UserError, match=name):
                function(**{**arguments, name: value})
    assert list(tmp_path.iterdir()) == []


ALL = [*CALLS, *SLOW, *NUMBERS]


def numbers(arguments: dict[str, Any]) -> list[str]:
    return [name for name, value in arguments.items() if type(value) in (int, float)]


@pytest.mark.parametrize(("function", "arguments"), ALL, ids=names(ALL))
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_number_is_refused_and_numbers_of_numpy_are_numbers(
    function: Callable[..., Any], arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    as_numpy = dict(arguments)
    for name in numbers(arguments):
        is_whole = isinstance(arguments[name], int)
        as_numpy[name] = (np.int64 if is_whole else np.float32)(arguments[name])
        text = [] if (function, name) in TEXT_TOO else ["1"]
        for bad in (True, np.bool_(True), "a", *text, math.nan, 1j, {}, *([0.5, -1] if is_whole else [])):
            with pytest.raises(UserError):
                function(**{**arguments, name: bad})
    assert list(tmp_path.iterdir()) == []
    assert answer(function, as_numpy) == answer(function, arguments)


def answer(function: Callable[..., Any], arguments: dict[str, Any]) -> str:
    torch.manual_seed(0)
    try:
        return repr(function(**arguments)).split(" at 0x")[0]
    except UserError as error:  # where the rest is not there, such as a checkpoint
        return str(error)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_tokens_may_be_integers_of_any_width(dtype: torch.dtype) -> None:
    found = {}
    for kind in (torch.int64, dtype):
        x = X.to(kind)
        seeded = [torch.Generator().manual_seed(0) for _ in range(4)]
        found[kind] = [
            mdlm_cfg.likelihood(EXACT, x, torch.zeros(4, dtype=kind), generator=seeded[0]).log_probs,
            nelbo_bound(EXACT, x, torch.zeros(4, dtype=kind), generator=seeded[1]).value,
            mdlm_cfg.sample(EXACT, GUIDED, 0, 4, start=torch.tensor([2, 0], dtype=kind), generator=seeded[2]),
            mdlm_cfg.slice_denoiser(EXACT, torch.tensor([2, 0], dtype=kind)).state,
            mdlm_cfg.calibrate(EXACT, 0, x[:1].repeat(40, 1), generator=seeded[3]).strengths,
            HIDDEN.log_prob(x, torch.zeros(4, dtype=kind)),
            GUIDED.log_rates(EXACT, MASKED.to(kind), 0),
            histogram(x, 2),
        ]
    for a, b in zip(found[torch.int64], found[dtype], strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
