"""A number argument of any public call: text, truth values and NaN are refused, and numpy's numbers are Python's."""

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
from helpers import random_target

import mdlm_cfg as m
from mdlm_cfg.chain.guidance_schedules import Calibrated
from mdlm_cfg.sampling.families import READ
from mdlm_cfg.studies.plan import Plan

TARGET = random_target(3, 2)
DENOISER = TARGET.denoiser()
G = m.Guidance(1.0)
X = TARGET.sample(40, torch.Generator().manual_seed(0), 0)[0]
ROWS = (torch.ones(2, 2) / 2, torch.ones(2, 2, 2) / 2, torch.ones(2, 2, 3) / 3, torch.ones(2) / 2)


def plan(z: int = 0, **more: int) -> Plan:
    return Plan((G,), m.Sampler(), classes=(z,), **more)


def benchmarked(strength: float, calls: int, **more: int) -> Any:
    own = m.Sampler("euler", steps=2)
    return m.benchmark(own, targets=["toy_1d_overlap"], strengths=[strength], calls=[calls], **more)


def reported(w: float, **more: int) -> Any:
    return m.report(DENOISER, TARGET, [w], **more)


CALLS: dict[str, list[tuple[Callable[..., Any], dict[str, float]]]] = {
    "AdaptiveCFG": [(m.AdaptiveCFG, {"k": 1}), (m.AdaptiveCFG, {"share": 0.5})],
    "Blocks": [(lambda i: m.Blocks([[i], [0]]), {"i": 1})],
    "Compose": [(lambda k, c: m.Compose([(k, c)]), {"k": 1, "c": 1.0})],
    "Confidence": [(m.Confidence, {"temperature": 0.5})],
    "Correction": [(m.Correction, {"size": 1, "moves": 1})],
    "Entropy": [(m.Entropy, {"temperature": 0.5})],
    "FixedOrder": [(lambda i: m.FixedOrder([i, 0]), {"i": 1})],
    "FunctionDenoiser": [(partial(m.FunctionDenoiser, DENOISER), {"num_tokens": 3, "num_dims": 2, "num_classes": 2})],
    "GenerateSampler": [(partial(m.GenerateSampler, print), {"block_length": 1, "batch_size": 1})],
    "Guidance": [(m.Guidance, {"w": 1.0, "temperature": 1.0, "top_p": 1.0})],
    "HiddenMarkovMixture": [(partial(m.HiddenMarkovMixture, *ROWS), {"num_dims": 3})],
    "Interval": [(m.Interval, {"w": 1.0, "begin": 0.0, "end": 1.0, "outside": 0.0})],
    "LinearRamp": [(m.LinearRamp, {"start": 0.0, "end": 1.0})],
    "Margin": [(m.Margin, {"temperature": 0.5})],
    "Negative": [(m.Negative, {"other_class": 1})],
    "PerCount": [(lambda w: m.PerCount([w, 1.0]), {"w": 1.0})],
    "Sampler": [
        (partial(m.Sampler, "euler"), {"steps": 2}),
        (lambda end: m.Sampler("euler", steps=[0, end, math.inf]), {"end": 1.0}),
        (partial(m.Sampler, "event_leaping"), {"events": 1}),
        (lambda each: m.Sampler("event_leaping", events=[each, 1]), {"each": 1}),
        (partial(m.Sampler, "threshold"), {"threshold": 0.5}),
        (partial(m.Sampler, "factor"), {"factor": 0.5}),
        (partial(m.Sampler, "entropy_bound"), {"gamma": 0.5}),
        (partial(m.Sampler, "sampled_confidence", steps=1), {"choice_temperature": 0.5}),
    ],
    "SchedulerSampler": [],  # it takes a function of a number
    "Schedule": [(partial(m.Schedule, "exponential"), {"horizon": 4.0}), (m.Schedule, {"horizon": 1.0})],
    "Tempered": [(m.Tempered, {"temperature": 1.0})],
    "benchmark": [(benchmarked, {"strength": 1.0, "calls": 1, "num_samples": 10, "seed": 0})],
    "best_schedule": [
        (partial(m.best_schedule, TARGET), {"w": 1.0, "target_class": 0}),
        (lambda w: m.best_schedule(TARGET, 1.0, 0, more_starts=[[w, 1.0]]), {"w": 1.0}),
    ],
    "calibrate": [
        (
            partial(m.calibrate, DENOISER, samples=X),
            {"target_class": 0, "masks": 1, "groups": 1, "centre": 0.0, "spread": 1.0},
        )
    ],
    "calibrated_strengths": [(partial(m.calibrated_strengths, TARGET), {"w": 1.0, "target_class": 0})],
    "error_ledger": [
        (partial(m.error_ledger, TARGET, DENOISER, G), {"target_class": 0, "num_samples": 10}),
        (partial(m.error_ledger, TARGET, DENOISER, G, 0, "euler", num_samples=10), {"steps": 1}),
    ],
    "exact_information_profile": [(partial(m.exact_information_profile, TARGET), {"target_class": 0, "w": 1.0})],
    "exact_likelihood": [(partial(m.exact_likelihood, TARGET, DENOISER), {"target_class": 0})],
    "ideal_denoiser": [(partial(m.ideal_denoiser, TARGET), {"w": 1.0, "target_class": 0})],
    "information_profile": [(partial(m.information_profile, DENOISER, samples=X), {"target_class": 0, "masks": 1})],
    "interval": [(m.interval, {"w": 1.0, "begin": 0.0, "end": 1.0, "outside": 0.0})],
    "law_at": [
        (partial(m.law_at, DENOISER, G), {"target_class": 0, "tau": 1.0}),
        (lambda tau: m.law_at(DENOISER, G, 0, [0.5, tau]), {"tau": 1.0}),
    ],
    "likelihood": [(partial(m.likelihood, DENOISER, X), {"target_class": 0, "orders": 1})],
    "limit_law": [(partial(m.limit_law, TARGET), {"target_class": 0})],
    "linear_ramp": [(m.linear_ramp, {"start": 0.0, "end": 1.0})],
    "load_run": [],  # its batch size is checked once there is a checkpoint (tests/nets/test_wrapper.py)
    "masked_lm_denoiser": [],  # the same
    "parse_strength": [(lambda w: m.parse_strength([w, 1.0]), {"w": 1.0})],
    "path_kl": [(partial(m.path_kl, TARGET, G), {"target_class": 0, "w": 1.0, "most": 2})],
    "report": [(reported, {"w": 1.0, "target_class": 0, "num_samples": 10, "seed": 0})],
    "sample": [
        (partial(m.sample, DENOISER, G), {"target_class": 0, "num_samples": 2}),
        (partial(m.sample, DENOISER, G, 0, 2, "euler"), {"steps": 1}),
    ],
    "sequential_monte_carlo": [
        (
            partial(m.sequential_monte_carlo, DENOISER, G),
            {"target_class": 0, "num_samples": 20, "threshold": 0.5, "num_groups": 10},
        )
    ],
    "stationary_law": [(partial(m.stationary_law, DENOISER, G, correction=m.Correction()), {"target_class": 0})],
    "stepped_law": [(partial(m.stepped_law, DENOISER, G, sampler="euler"), {"target_class": 0, "steps": 1})],
    "terminal_law": [(partial(m.terminal_law, DENOISER, G), {"target_class": 0})],
    "tilted_law": [(partial(m.tilted_law, TARGET), {"w": 1.0, "target_class": 0})],
    "tilted_weights": [(partial(m.tilted_weights, DENOISER, G), {"target_class": 0})],
    "tv_decay": [
        (
            lambda tau, **more: m.tv_decay(TARGET, guidances=[G], taus=[tau], **more),
            {"target_class": 0, "tau": 0.5, "fit_tau": 0.5},
        )
    ],
    "a plan": [(plan, {"z": 0, "num_samples": 10, "seed": 0})],
    "calibrated strengths": [(Calibrated, {"w": 1.0})],
    "a sampled table": [(lambda num: TARGET.sample(num), {"num": 2})],
}
CASES = [(name, call, values, key) for name, calls in CALLS.items() for call, values in calls for key in values]


def test_every_public_call_with_numbers_is_tried_here() -> None:
    takes = {
        name
        for name in m.__all__
        if name != "UserError"
        for one in inspect.signature(getattr(m, name)).parameters.values()
        if {"int", "float"} & set(str(one.annotation).replace("[", " ").replace("]", " ").replace(",", " ").split())
    }
    assert takes <= set(CALLS) and set(READ) >= {"threshold", "factor", "gamma", "choice_temperature", "events"}


@pytest.mark.parametrize(("name", "call", "values", "key"), CASES, ids=[f"{c[0]}-{c[3]}" for c in CASES])
def test_what_is_no_number_is_refused(
    name: str,
    call: Callable[..., Any],
    values: dict[str, float],
    key: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # of a report that should not be there
    whole = [0.5, -1] if isinstance(values[key], int) else []
    for bad in (True, np.bool_(True), "a", "1", math.nan, 1j, {}, *whole):
        if bad == "1" and key == "w" and name == "report":  # which takes text too
            continue
        with pytest.raises(m.UserError):
            call(**(values | {key: bad}))
    assert list(tmp_path.iterdir()) == []


AT_ONCE = [case for case in CASES if case[0] != "report"]  # which a plan decides


@pytest.mark.parametrize(("name", "call", "values", "key"), AT_ONCE, ids=[f"{c[0]}-{c[3]}" for c in AT_ONCE])
def test_a_number_of_numpy_is_one_of_python(
    name: str,
    call: Callable[..., Any],
    values: dict[str, float],
    key: str,
) -> None:
    as_numpy = np.int64 if isinstance(values[key], int) else np.float32  # all values here are exact in float32
    torch.manual_seed(0)
    plain = call(**values)
    torch.manual_seed(0)
    assert repr(call(**(values | {key: as_numpy(values[key])}))).split(" at 0x")[0] == repr(plain).split(" at 0x")[0]
