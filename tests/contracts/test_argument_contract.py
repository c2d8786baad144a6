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
    CFG,
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
CHAIN = {"denoiser": EXACT, "guidance": GUIDED, "target_class": 0}
SEEDED = {"generator": None}
DRAWN = {**SEEDED, "on_step": None, "start": None}
STEPS = {"sampler": "first_hitting", "steps": None, "schedule": None}
TILTED = {"target": TARGET, "w": 1.0, "target_class": 0}
DATA = {"samples": X, "log_weights": None, "generator": None, "masks": 1}
OPTIONS = ("steps", "schedule", "jump", "policy", "events", "choice_temperature", "annealed", "threshold", "factor")

# a call of every public function, with every argument
CALLS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (
        mdlm_cfg.sample,
        {**CHAIN, **DRAWN, "num_samples": 3, "sampler": "first_hitting", "policy": None},
    ),
    (mdlm_cfg.terminal_law, {**CHAIN, "policy": None}),
    (mdlm_cfg.tilted_law, TILTED),
    (mdlm_cfg.law_at, {**CHAIN, "tau": 1.0}),
    (mdlm_cfg.stepped_law, {**CHAIN, "sampler": "tau_leaping", "steps": 3, "schedule": None}),
    (mdlm_cfg.slice_denoiser, {"denoiser": EXACT, "state": torch.tensor([2, 0])}),
    (mdlm_cfg.tilted_weights, {**CHAIN, "policy": None}),
    (
        mdlm_cfg.sequential_monte_carlo,
        {
            **CHAIN,
            "num_samples": 20,
            "policy": None,
            "threshold": 0.5,
            "num_groups": 10,
            "start": None,
            "generator": None,
        },
    ),
    (
        mdlm_cfg.error_ledger,
        {**CHAIN, **STEPS, **SEEDED, "target": TARGET, "num_samples": 10},
    ),
    (mdlm_cfg.limit_law, {"target": TARGET, "target_class": 0, "kind": "rate"}),
    (
        mdlm_cfg.tv_decay,
        {"target": TARGET, "target_class": 0, "guidances": [GUIDED], "taus": [1.0], "fit_tau": 0.5, "denoiser": None},
    ),
    (mdlm_cfg.exact_likelihood, {"target": TARGET, "denoiser": EXACT, "target_class": 0, "policy": "uniform"}),
    (
        mdlm_cfg.likelihood,
        {
            "denoiser": EXACT,
            "x": X,
            "target_class": None,
            "orders": 1,
            "policy": None,
            "generator": None,
            "progress": None,
        },
    ),
    (nelbo_bound, {"denoiser": EXACT, "x": X, "classes": None, "num_draws": 2, "generator": None}),
    (
        class_posterior,
        {"denoiser": EXACT, "state": torch.tensor([2, 0]), "class_weights": torch.ones(2) / 2, "generator": None},
    ),
    (
        mdlm_cfg.path_kl,
        {
            "target": TARGET,
            "guidance": GUIDED,
            "target_class": 0,
            "policy": None,
            "w": None,
            "denoiser": None,
            "most": 3,
        },
    ),
    (mdlm_cfg.ideal_denoiser, TILTED),
    (mdlm_cfg.exact_information_profile, {"target": TARGET, "target_class": 0, "w": 0.0, "denoiser": None}),
    (mdlm_cfg.information_profile, {"denoiser": EXACT, "target_class": 0, **DATA, "guided": False}),
    (mdlm_cfg.calibrate, {"denoiser": EXACT, "target_class": 0, **DATA, "groups": None, "centre": 0.0, "spread": 1.0}),
    (MaskedSamples, {"denoiser": EXACT, "x": X, "log_weights": None, "generator": None}),
    (
        held_out_gain,
        {"samples": MaskedSamples(EXACT, X), "target_class": 0, "before": [0.0, 0.0], "after": [1.0, 1.0]},
    ),
    (
        exact_gain,
        {**TILTED, "denoiser": None, "before": [0.0, 0.0], "after": [1.0, 1.0]},
    ),
    (mdlm_cfg.calibrated_strengths, {**TILTED, "denoiser": None}),
    (
        mdlm_cfg.best_schedule,
        {
            "target": TARGET,
            "w": 1.0,
            "target_class": 0,
            "objective": "kl",
            "kind": "rate",
            "policy": None,
            "denoiser": None,
        },
    ),
    (trade_off, {"target": TARGET, "target_class": 0, "entropy_weight": 1.0}),
    (mdlm_cfg.stationary_law, {**CHAIN, "correction": MOVES}),
    (spectral_gap, {**CHAIN, "correction": MOVES}),
    (visit_law, {**CHAIN, "policy": None}),
    (freeze, CHAIN),
    (MOVES.draw, {**CHAIN, "x": X, "generator": None}),
    (mdlm_cfg.load_run, {"path": "nothing", "batch_size": 3, "trusted": ()}),
    (mdlm_cfg.parse_rule, {"text": "cfg"}),
    (mdlm_cfg.parse_strength, {"value": 2.0}),
    (mdlm_cfg.Guidance, {"w": 1.0, "kind": "rate", "temperature": 1.0, "top_p": 1.0, "rule": CFG()}),
    (mdlm_cfg.Sampler, {"name": "first_hitting", **dict.fromkeys(OPTIONS)}),
    (mdlm_cfg.Sampler, {"name": "event_leaping", "steps": 2, "schedule": None, "policy": None}),
    (mdlm_cfg.Sampler, {"name": "event_leaping", "events": 2, "correction": None}),
    (mdlm_cfg.Sampler, {"name": "sampled_confidence", "steps": 2, "choice_temperature": 1.0, "annealed": True}),
    (mdlm_cfg.Sampler, {"name": "threshold", "threshold": 0.75}),
    (mdlm_cfg.Sampler, {"name": "factor", "factor": 0.75}),
    (mdlm_cfg.Sampler, {"name": "entropy_bound", "gamma": 0.125}),
    (mdlm_cfg.Sampler, {"name": "remdm", "steps": 3, "remasking": "cap(0.2)"}),
    (mdlm_cfg.Sampler, {"name": "mine", "steps": 3, "jump": lambda log_z, u: u.expand_as(log_z)}),
    (FunctionDenoiser, {"function": even, "num_tokens": 2, "num_dims": 2, "num_classes": 2}),
    (Correction, {"size": 1, "moves": 1, "accept": False, "scan": "random", "policy": None, "parallel": False}),
    (Schedule, {"name": "linear", "horizon": None}),
    (mdlm_cfg.Interval, {"w": 1.0, "begin": 0.0, "end": 1.0, "outside": 0.0}),
    (mdlm_cfg.LinearRamp, {"start": 1.0, "end": 2.0}),
    (mdlm_cfg.interval, {"w": 1.0, "begin": 0.0, "end": 1.0}),
    (mdlm_cfg.linear_ramp, {"start": 1.0, "end": 2.0}),
    (mdlm_cfg.PerCount, {"values": [1.0, 2.0]}),
    (mdlm_cfg.FixedOrder, {"order": [0, 1]}),
    (mdlm_cfg.Blocks, {"blocks": [[0], [1]], "within": "uniform"}),
    (mdlm_cfg.Confidence, {"temperature": 0.5}),
    (mdlm_cfg.Margin, {"temperature": 0.5}),
    (mdlm_cfg.Entropy, {"temperature": 0.5}),
    (mdlm_cfg.Uniform, {}),
    (mdlm_cfg.RatePolicy, {}),
    (mdlm_cfg.CFG, {}),
    (mdlm_cfg.AdaptiveCFG, {"k": 1, "share": None}),
    (mdlm_cfg.AdaptiveCFG, {"k": None, "share": 0.5}),
    (mdlm_cfg.ByClassifier, {"classifier": TablePosterior(TARGET), "taylor": False}),
    (TablePosterior, {"target": TARGET}),
    (mdlm_cfg.Negative, {"other_class": 1}),
    (mdlm_cfg.Compose, {"weights": {0: 1.0, 1: 0.5}}),
    (mdlm_cfg.Auto, {"weak": EXACT}),
    (mdlm_cfg.Tempered, {"temperature": 2.0, "rule": None}),
    (TableMixture, {"class_pmfs": PMFS, "class_weights": torch.ones(2) / 2, "class_names": None, "value_names": None}),
    (
        HiddenMarkovMixture,
        {
            "initial": HIDDEN.initial,
            "transition": HIDDEN.transition,
            "emission": HIDDEN.emission,
            "class_weights": HIDDEN.class_weights,
            "num_dims": 2,
            "class_names": None,
        },
    ),
    (mdlm_cfg.SchedulerSampler, {"make": even, "arguments": {}}),
    (mdlm_cfg.GenerateSampler, {"generate": even, "block_length": None, "batch_size": None, "arguments": {}}),
    (
        mdlm_cfg.masked_lm_denoiser,
        {"model": nn.Linear(2, 2), "values": [1, 2], "mask_id": 0, "sentences": [[0, 3]], "null_sentence": [0, 4]},
    ),
    (SAMPLER.draw, {**CHAIN, **DRAWN, "num_samples": 3}),
    (Sampler().draw_weighted, {**CHAIN, **DRAWN, "num_samples": 3}),
    (SAMPLER.law, {**CHAIN, "chain": None}),
    (SAMPLER.partial_law, {**CHAIN, "chain": None}),
    (SAMPLER.expected_calls, {**CHAIN, "chain": None}),
    (SAMPLER.plan, {"num_dims": 2}),
    (SAMPLER.calls, {"num_dims": 2}),
    (TARGET.sample, {"num": 3, "generator": None, "target_class": None, "stratified": False}),
    (TARGET.class_pmf, {"target_class": 0}),
    (TARGET.entropy, {"target_class": 0}),
    (HIDDEN.sample, {"num": 3, "generator": None, "target_class": None}),
    (HIDDEN.log_prob, {"tokens": X, "target_class": None}),
    (HIDDEN.log_class_probs, {"tokens": X}),
    (HIDDEN.class_posterior, {"tokens": X}),
    (GUIDED.log_rates, {"denoiser": EXACT, "tokens": MASKED, "target_class": 0}),
    (GUIDED.log_rho, {"denoiser": EXACT, "tokens": MASKED, "target_class": 0}),
    (GUIDED.table, {"num_dims": 2}),
    (EXACT, {"tokens": X, "classes": None}),
    (FUNCTION, {"tokens": X, "classes": None}),
    (HIDDEN.denoiser(), {"tokens": X, "classes": None}),
    (TablePosterior(TARGET), {"tokens": X}),
    (Schedule().alpha, {"t": 0.5}),
    (Schedule().tau, {"t": 0.5}),
    (step_fractions, {"steps": 3, "schedule": None}),
    (event_counts, {"steps": 3, "num_dims": 2, "schedule": None}),
    (PROFILE.plan, {"sizes": [1, 1]}),
    (PROFILE.scheduled, {"steps": 2, "schedule": "linear"}),
    (PROFILE.best, {"steps": 2}),
    (log_still_masked, {**CHAIN, "taus": [1.0]}),
    (time_to_tv, {**CHAIN, "level": 0.125}),
    (neutral_states, {"target": TARGET, "target_class": 0, "kind": "rate"}),
    (limit_visits, {"target": TARGET, "target_class": 0, "kind": "rate"}),
    (regions, {"target": TARGET, "target_class": 0}),
    (total_variation, {"p": TARGET.pmf, "q": TARGET.pmf}),
    (kl_divergence, {"p": TARGET.pmf, "q": TARGET.pmf}),
    (histogram, {"x": X, "num_tokens": 2, "weights": None}),
    (plot.laws, {"found": {"exact": TARGET.pmf}, "value_names": None}),
    (plot.decay, {"found": mdlm_cfg.tv_decay(TARGET, 0, [GUIDED], [1.0])}),
    (plot.ledger, {"entries": mdlm_cfg.error_ledger(TARGET, EXACT, GUIDED, 0, num_samples=10)}),
    (
        plot.lines,
        {"series": {"a": ([1.0, 2.0], [1.0, 2.0])}, "x_label": "x", "y_label": "y", "log_x": False, "dashed": ()},
    ),
    (plot.images, {"samples": {0.0: np.zeros((2, 3, 4, 4))}, "class_names": None}),
]
SLOW: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (
        mdlm_cfg.benchmark,
        {
            "targets": ["toy_1d_overlap"],
            "strengths": [0.0],
            "calls": [1],
            "num_samples": 10,
            "seed": 0,
            "progress": None,
        },
    ),
    (
        mdlm_cfg.report,
        {
            "denoiser": FUNCTION,
            "target": None,
            "w": [0.0],
            "out": "report",
            "target_class": None,
            "guidance": "rate",
            "sampler": None,
            "num_samples": 5,
            "seed": 0,
            "name": None,
            "class_names": None,
            "value_names": None,
        },
    ),
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
NUMBERS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
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


def names(calls: list[tuple[Callable[..., Any], dict[str, Any]]]) -> list[str]:
    return [f"{name_of(function)}-{k}" for k, (function, _) in enumerate(calls)]


def test_every_public_function_is_called_here() -> None:
    called = {function for function, _ in (*CALLS, *SLOW)}
    public = {getattr(mdlm_cfg, name) for name in mdlm_cfg.__all__}
    public |= {f for _, f in inspect.getmembers(plot, inspect.isfunction) if f.__module__ == plot.__name__}
    abstract = {mdlm_cfg.Denoiser, mdlm_cfg.Policy, mdlm_cfg.Rule, UserError}
    missing = {f for f in public - called - abstract if not f.__name__.startswith("_")}
    assert missing == set()


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
            if name in ("on_step", "progress", "objective", "function", "jump", "make", "generate") and callable(value):
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
