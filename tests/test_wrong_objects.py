"""An object of another kind than a function takes is refused in a sentence, wherever it is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import random_target

from mdlm_cfg import (
    Correction,
    Guidance,
    Sampler,
    UserError,
    best_schedule,
    calibrate,
    calibrated_strengths,
    exact_information_profile,
    law_at,
    sample,
    sequential_monte_carlo,
    stationary_law,
    terminal_law,
    tilted_law,
    tilted_weights,
)
from mdlm_cfg.laws.stationary import spectral_gap
from mdlm_cfg.laws.stepped import freeze

TABLE = random_target(2, 3, 2, seed=8)
EXACT = TABLE.denoiser()
GUIDED = Guidance(1.0)
FINISHED = torch.zeros(3, 3, dtype=torch.int64)
Z = 1
Call = Callable[[Any], object]
OF_GUIDANCE: dict[str, Call] = {
    "terminal_law": lambda given: terminal_law(EXACT, given, Z),
    "law_at": lambda given: law_at(EXACT, given, Z, 1.0),
    "freeze": lambda given: freeze(EXACT, given, Z),
    "tilted_weights": lambda given: tilted_weights(EXACT, given, Z),
    "sequential_monte_carlo": lambda given: sequential_monte_carlo(EXACT, given, Z, 10),
    "sample": lambda given: sample(EXACT, given, Z, 5),
    "law": lambda given: Sampler("threshold").law(EXACT, given, Z),
    "expected_calls": lambda given: Sampler("threshold").expected_calls(EXACT, given, Z),
    "stationary_law": lambda given: stationary_law(EXACT, given, Z, Correction()),
    "moves": lambda given: Correction().draw(EXACT, given, Z, FINISHED),
}
OF_CORRECTIONS: dict[str, Call] = {
    "stationary_law": lambda given: stationary_law(EXACT, GUIDED, Z, given),
    "spectral_gap": lambda given: spectral_gap(EXACT, GUIDED, Z, given),
}
OF_TABLES: dict[str, Call] = {
    "tilted_law": lambda given: tilted_law(given, 1.0, Z),
    "calibrated_strengths": lambda given: calibrated_strengths(given, 1.0, Z),
    "exact_information_profile": lambda given: exact_information_profile(given, Z),
    "best_schedule": lambda given: best_schedule(given, 1.0, Z),
}
OF_POLICIES: dict[str, Call] = {
    "a sampler": lambda given: Sampler("event_leaping", events=1, policy=given),
    "a correction": lambda given: Correction(policy=given),
}
OF_CLASSES: dict[str, Call] = {
    "calibrate": lambda given: calibrate(EXACT, given, FINISHED),
    "calibrated_strengths": lambda given: calibrated_strengths(TABLE, 1.0, given),
}
WRONG: list[tuple[dict[str, Call], list[Any]]] = [
    (OF_GUIDANCE, [1.0, None, "2", Guidance]),
    (OF_CORRECTIONS, [None, 1, "correction()", Correction]),
    (OF_TABLES, [EXACT, None, TABLE.class_pmfs]),
    (OF_POLICIES, [3, 1.5, ["uniform"], object()]),
    (OF_CLASSES, [None, "1", 0.5]),
    ({"schedule": lambda given: Sampler("event_leaping", 2, given)}, [3, ["linear"], object()]),
    (
        {"moves": lambda given: Correction().draw(EXACT, GUIDED, Z, given)},
        [FINISHED.double(), FINISHED + 2, FINISHED - 1, torch.tensor([[0, 1, 2]])],
    ),
]
CASES = [
    pytest.param(call, given, id=f"{name}-{str(given)[:12]}")
    for calls, wrong in WRONG
    for name, call in calls.items()
    for given in wrong
]


@pytest.mark.parametrize(("call", "given"), CASES)
def test_it_is_refused(call: Call, given: Any) -> None:
    with pytest.raises(UserError) as refused:
        call(given)
    assert "\n" not in str(refused.value)
