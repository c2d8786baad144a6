"""What seeds, caches and names depend on: the values of a guidance, in every process, and no address."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations

import pytest
import torch
from helpers import random_target
from hypothesis import given, strategies as st

from mdlm_cfg import Guidance, UserError
from mdlm_cfg.chain.guidance_schedules import LinearRamp, PerCount
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.draws import draws_of
from mdlm_cfg.studies.plan import Plan


class Rising:
    """A schedule of one's own."""

    def __init__(self, w: float) -> None:
        self.w = w

    def __call__(self, progress: float) -> float:
        return self.w * progress


SCRIPT = """
import functools, torch
from mdlm_cfg import Guidance
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.draws import draws_of
from mdlm_cfg.targets.toys import toy_5d_hypercube

class Rising:
    def __call__(self, progress):
        return 4 * progress

def steep(progress):
    return 4 * progress

def times(w, progress):
    return w * progress

target = toy_5d_hypercube()
for w in (lambda p: 4 * p, Rising(), steep, functools.partial(times, 4)):
    mine = Sampler("mine", 3, jump=lambda log_z, u: torch.where(u < 1, u / 2, 1.0).expand_as(log_z))
    for sampler in (Sampler(), mine):
        guidance = Guidance(w)
        plan = Plan((guidance,), sampler, 5)
        draw, = draws_of(plan, target.denoiser(), guidance, 0)
        print(guidance.label, guidance.identifier, guidance.describe(), repr(draw.key))
        print(draw.make().tolist())
"""


def test_two_processes_draw_the_same_samples_of_any_schedule() -> None:
    runs = [subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True) for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout and " at 0x" not in runs[0].stdout
    samples = runs[0].stdout.splitlines()[1::2]
    assert len(set(samples[::2])) == 1 and len(set(samples[1::2])) == 1  # equal values are equal seeds


STRENGTHS = (1, 1.0000001, LinearRamp(0, 1), LinearRamp(0, 1.0000001), lambda p: p, lambda p: 1.0000001 * p, Rising(2))


def test_keys_labels_and_identifiers_are_told_apart_as_the_values_are() -> None:
    guidances = [Guidance(w, kind) for w in STRENGTHS for kind in ("rate", "normalized")]
    guidances += [Guidance(1, temperature=t) for t in (0.5, 0.50000001)] + [Guidance(1, top_p=t) for t in (0.5, 0.6)]
    for one, other in combinations(guidances, 2):
        same = (one.kind, one.table(3), one.temperature, one.top_p) == (
            other.kind,
            other.table(3),
            other.temperature,
            other.top_p,
        )
        assert (one.key(3) == other.key(3)) is same
        if one.kind == other.kind:
            assert one.label != other.label and one.identifier != other.identifier
    assert Guidance(LinearRamp(2, 2)).key(3) == Guidance(2).key(3) == Guidance(PerCount([2, 2, 2])).key(3)
    with pytest.raises(UserError):
        Guidance(LinearRamp(0, 1)).key()


@given(st.floats(-1, 1e4), st.floats(-1, 1e4))
def test_a_label_is_exactly_the_number(one, other) -> None:
    assert float(Guidance(one).label) == one
    assert (Guidance(one).label == Guidance(other).label) is (one == other) is (Guidance(one) == Guidance(other))


def test_samplers_are_known_by_what_they_do() -> None:
    rules = [lambda log_z, u: u.expand_as(log_z), lambda log_z, u: u.expand_as(log_z) / 2]
    keys = [Sampler("mine", 3, jump=rule).key for rule in rules]
    keys += [Sampler("euler", 3).key, Sampler("euler", (0.0, 1.0, float("inf"))).key, Sampler().key]
    assert len(set(keys)) == len(keys) and not any(" at 0x" in key for key in keys)
    assert Sampler("euler", 3).key == Sampler("euler", 3, "linear").key


def test_pieces_of_different_guidances_and_samplers_are_kept_apart() -> None:
    denoiser = random_target(2, 3).denoiser()
    guidances = tuple(Guidance(w) for w in STRENGTHS)
    plan = Plan(guidances, Sampler(), 3)
    draws = [draw for guidance in guidances for draw in draws_of(plan, denoiser, guidance, 0)]
    draws += draws_of(plan, denoiser, guidances[0], 0, compared=Sampler("euler", 3))
    keys = [repr(draw.key) for draw in draws]
    by_values = {(tuple(draw.guidance.table(3)), draw.sampler.key) for draw in draws}
    assert len(set(keys)) == len(by_values)
    for one, other in combinations(draws, 2):
        if repr(one.key) == repr(other.key):
            assert torch.equal(one.make(), other.make())
