"""Guidance as a value: as users write it, its strengths and rates, and what seeds, caches and names depend on."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from itertools import combinations, product

import pytest
import torch
from helpers import Inconsistent, random_target
from hypothesis import given, strategies as st
from oracle import Chain, guided

from mdlm_cfg import FunctionDenoiser, Guidance, TableMixture, UserError, terminal_law, tilted_law
from mdlm_cfg.chain.denoiser import check_class, device_of, name_class, name_state
from mdlm_cfg.chain.guidance import MAX_STRENGTH, effective_guidance
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp, PerCount, parse_strength, parse_strengths
from mdlm_cfg.chain.kinds import KINDS
from mdlm_cfg.chain.policies import Uniform
from mdlm_cfg.chain.rules import geometric_mean, refuse_infinite
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.draws import draws_of
from mdlm_cfg.studies.plan import Plan

NEG_INF = -math.inf


def test_what_it_says_of_itself() -> None:
    plain = Guidance(2)
    ramp = Guidance(LinearRamp(0, 4), "normalized", 0.5, 0.9)
    assert (plain.w, plain.written, plain.label, plain.constant) == (2.0, 2.0, "2", 2.0) and type(plain.w) is float
    assert plain.describe() == {"w": 2.0, "kind": "rate"} and not plain.is_schedule and not plain.filters
    assert ramp.describe() == {"w": "ramp(0,4)", "kind": "normalized", "temperature": 0.5, "top_p": 0.9}
    assert ramp.label == "ramp(0,4), temperature 0.5, top-p 0.9" and ramp.written == "ramp(0,4)" and ramp.is_schedule
    assert Guidance(1.5, top_p=0.5).label == "1.5, top-p 0.5" and Guidance(1.5, top_p=0.5).filters
    assert Guidance(1.5, temperature=2.0).label == "1.5, temperature 2" and Guidance(1.5, temperature=2.0).filters
    assert effective_guidance(ramp, Uniform()) == Guidance(LinearRamp(0, 4), "rate", 0.5, 0.9)
    assert Guidance([1, 2]).w == PerCount((1.0, 2.0)) == Guidance((1, 2)).w and Guidance([1, 2]).kind is KINDS["rate"]
    with pytest.raises(UserError, match=re.escape(f" {ramp.label} ")):
        _ = ramp.constant


def test_strengths_by_number_of_unmasked_coordinates() -> None:
    progress: list[float] = []
    found = Guidance(lambda p: progress.append(p) or 10 * p).table(5)  # type: ignore[func-returns-value]
    assert progress == [0, 0.25, 0.5, 0.75, 1] and found == [0, 2.5, 5, 7.5, 10]
    assert Guidance(LinearRamp(1, 3)).table(1) == [3.0] and Guidance(0.5).table(3) == [0.5] * 3
    assert Guidance(-1.0).w == -1 and Guidance(MAX_STRENGTH).w == MAX_STRENGTH
    for w in (-1 - 1e-9, MAX_STRENGTH * (1 + 1e-9), math.inf, math.nan):
        allowed = rf"w = {re.escape(str(w))} .* -1 .* {MAX_STRENGTH:g};"
        with pytest.raises(UserError, match=allowed):
            Guidance(w)
        with pytest.raises(UserError, match=f" = {re.escape(str(w))} "):
            Guidance([0.0, w]).table(2)
        with pytest.raises(UserError, match=allowed):
            Guidance(lambda _, w=w: w).table(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", [-1.0, 0.0, 1.5, LinearRamp(-0.5, 3.0), [0.0, 2.0, 0.0], [0.0, 0.0, 0.0], [1.0] * 3])
@pytest.mark.parametrize("z", [None, 1])
def test_rates_are_the_formula_in_every_state(kind: str, w, z) -> None:
    target = random_target(2, 3, seed=3, zeros=0.4)
    for denoiser in (target.denoiser(), Inconsistent(2, 3, 2, seed=2)):
        guidance = Guidance(w, kind)
        n = 2
        tokens = torch.tensor(list(product(range(3), repeat=3)))
        found = guidance.log_rates(denoiser, tokens, z).exp()
        conds = denoiser(tokens, torch.full((27,), 2 if z is None else z)).exp().tolist()
        unconds = denoiser(tokens, torch.full((27,), 2)).exp().tolist()
        for state, cond, uncond, rates in zip(tokens.tolist(), conds, unconds, found.tolist(), strict=True):
            done = sum(value != n for value in state)
            strength = guidance.table(3)[done] if done < 3 and z is not None else 0.0
            for i in range(3):
                expected = guided(cond[i], uncond[i], strength, kind) if state[i] == n else [0.0, 0.0]
                assert rates[i] == pytest.approx(expected, rel=1e-9)


def test_both_labels_are_asked_in_one_call_and_the_unguided_for_one_alone() -> None:
    asked = []

    def answer(tokens, classes):
        asked.append(classes.unique().tolist())
        return torch.full((*tokens.shape, 2), 0.5).log()

    denoiser = FunctionDenoiser(answer, 2, 2, 3)
    tokens = torch.full((4, 2), 2)
    for guidance, z, expected in (
        (Guidance(0.0), 1, [1]),
        (Guidance([0.0, 0.0]), 1, [1]),
        (Guidance(2.0), None, [3]),
        (Guidance(2.0), 1, [1, 3]),
        (Guidance([0.0, 1.0]), 2, [2, 3]),
    ):
        asked.clear()
        guidance.log_rates(denoiser, tokens, z)
        assert asked == [expected]


def test_means_of_many_strengths_are_those_one_by_one() -> None:
    log_cond = torch.tensor([[-0.5, NEG_INF, -1.0], [-2.0, -0.1, NEG_INF]], dtype=torch.float64)
    log_uncond = torch.tensor([[-0.7, -3.0, -1.0], [-1.0, -1.1, NEG_INF]], dtype=torch.float64)
    w = torch.tensor([[0.0], [2.5]], dtype=torch.float64)
    found = geometric_mean(log_cond, log_uncond, w)
    for row, cond, uncond, strength in zip(found, log_cond, log_uncond, (0.0, 2.5), strict=True):
        assert torch.equal(row, geometric_mean(cond, uncond, strength))
    # where w is 0 the mixture does not count, not even where it has nothing
    nothing = torch.full_like(log_cond, NEG_INF)
    assert torch.equal(geometric_mean(log_cond, nothing, 0.0), log_cond)
    assert torch.equal(geometric_mean(log_cond, nothing, torch.zeros(2, 1)), log_cond)


def test_the_first_state_with_an_infinite_rate_is_named() -> None:
    log_rho = torch.zeros(3, 2, 2)
    tokens = torch.tensor([[2, 2], [1, 2], [2, 0]])
    refuse_infinite(log_rho, tokens, 2, 1, "5")
    log_rho[1, 1, 0] = NEG_INF
    refuse_infinite(log_rho, tokens, 2, 1, "5")
    log_rho[1:, 1, 0] = math.inf
    with pytest.raises(UserError, match=r"w = 5 .*\(1, mask\): class 1 "):
        refuse_infinite(log_rho, tokens, 2, 1, "5")


def test_names_for_people() -> None:
    assert name_state([0, 5, 3], 3) == "(0, 5, mask)"
    assert name_state(list(range(12)), 99) == f"({', '.join(map(str, range(12)))})"
    assert name_state(list(range(13)), 99) == f"({', '.join(map(str, range(12)))}, ...)"
    assert name_state([1, 2, 3], 9, most=2) == "(1, 2, ...)"
    assert name_class(None) == "no class" and name_class(3) == "class 3"
    assert device_of(Inconsistent(2, 1, 1)) == torch.device("cpu")  # type: ignore[arg-type]
    assert device_of(FunctionDenoiser(lambda t, c: t, 2, 1, 1, torch.device("meta"))) == torch.device("meta")
    for k in (None, 0, 2):
        check_class(k, 3)
    for k in (-1, 3):
        with pytest.raises(UserError, match=rf"class {k} .* 3 .* 0 to 2"):
            check_class(k, 3)


@given(w=st.floats(-1, 400), a=st.floats(1e-6, 1), b=st.floats(1e-6, 1))
def test_geometric_mean_is_the_formula(w, a, b):
    cond = torch.tensor([a], dtype=torch.float64).log()
    uncond = torch.tensor([b], dtype=torch.float64).log()
    expected = (1 + w) * math.log(a) - w * math.log(b)
    assert math.isclose(float(geometric_mean(cond, uncond, w)), expected, rel_tol=1e-9, abs_tol=1e-9)


def test_supports_are_explicit():
    inf = math.inf
    cond = torch.tensor([-inf, -inf, -0.5], dtype=torch.float64)
    uncond = torch.tensor([-inf, -1.0, -1.0], dtype=torch.float64)
    for w in (-1.0, -0.5, 0.0, 0.7, 300.0):
        log_rho = geometric_mean(cond, uncond, w)
        assert log_rho[:2].tolist() == [-inf, -inf] and torch.isfinite(log_rho[2])
    assert geometric_mean(torch.tensor([-1.0]), torch.tensor([-inf]), 1.0).tolist() == [inf]
    pmfs = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    denoiser = TableMixture(pmfs, torch.tensor([0.0, 1.0])).denoiser()  # class 0 lies outside its mixture
    with pytest.raises(UserError, match=r"w = 1 .*\(mask\): class 0 "):
        Guidance(1.0).log_rates(denoiser, torch.full((1000, 1), 2), 0)
    with pytest.raises(UserError, match=r"w = 1 .*\(0\): class 0 "):
        terminal_law(denoiser, Guidance(1.0), 0)
    # under strong guidance too, where the first coordinates are as in the mixture and the pairs are not
    pmfs = torch.tensor([[[0.5, 0.0], [0.0, 0.5]], [[0.0, 0.5], [0.5, 0.0]]])
    target = TableMixture(pmfs, torch.tensor([0.0, 1.0]))
    said = r"w = 10000 .*\(0, 0\): class 0 "
    with pytest.raises(UserError, match=said):
        terminal_law(target.denoiser(), Guidance(1e4), 0)
    with pytest.raises(UserError, match=said):
        tilted_law(target, 1e4, 0)
    with pytest.raises(UserError, match=r"w = 0\.5 .*\(0, 0\): class 0 "):
        tilted_law(target, 0.5, 0)


def test_schedules_of_w():
    assert [LinearRamp(1, 3)(p) for p in (0, 0.5, 1)] == [1, 2, 3]
    assert [Interval(2.0, 0.25, 0.75)(p) for p in (0, 0.25, 0.5, 0.75, 0.8)] == [0, 2, 2, 2, 0]
    # a ramp reaches both its ends: of D coordinates, the first is unmasked at its start and the last at its end
    assert Guidance(LinearRamp(0.0, 4.0)).table(2) == [0, 4]
    assert Guidance(LinearRamp(0.0, 4.0)).table(5) == [0, 1, 2, 3, 4]
    assert Guidance(Interval(2.0, 0.5, 1.0)).table(3) == [0, 2, 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2", 2.0),
        (" -0.5 ", -0.5),
        ("1e-3", 1e-3),
        (3, 3.0),
        ("ramp(0,4)", LinearRamp(0, 4)),
        ("ramp( 0.5 , -1 )", LinearRamp(0.5, -1)),
        ("interval(4,0.3,0.9)", Interval(4, 0.3, 0.9)),
        ("interval(4,0.3,0.9,1)", Interval(4, 0.3, 0.9, 1)),
        ("[0.58, 2.0]", PerCount([0.58, 2.0])),
        ([0.58, 2.0], PerCount((0.58, 2.0))),
        (torch.tensor([1.0, 2.0]), PerCount([1, 2])),
        ("[3]", PerCount([3])),
        ("[0.58,\n2.0]", PerCount([0.58, 2.0])),
    ],
)
def test_what_users_write(text, expected):
    parsed = parse_strength(text)
    assert parsed == expected and type(parsed) is type(expected)
    if not isinstance(parsed, float):
        assert parse_strength(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text", ["", "ramp(0)", "ramp[0,4]", "interval(1,2)", "[]", "[1,x]", "two", "(2)", "ramp", "1,2"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=rf" {re.escape(repr(text))} .* ramp\(start,end\)"):
        parse_strength(text)


@pytest.mark.parametrize(
    ("text", "near"), [("rampe(0,4)", "ramp"), ("intervall(4,0.3,0.9)", "interval"), ("rmp", "ramp")]
)
def test_what_is_near_is_guessed(text, near):
    with pytest.raises(ValueError, match=rf" {re.escape(repr(text))} .* {near}\?$"):
        parse_strength(text)


def test_what_is_a_schedule_already_is_handed_back():
    for schedule in (LinearRamp(0, 1), Interval(2.0, 0.25, 0.75, 1.0), abs):
        assert parse_strength(schedule) is schedule
    assert [Interval(2.0, 0.25, 0.75, 1.0)(progress) for progress in (0, 0.25, 0.75, 1)] == [1, 2, 2, 1]
    assert str(Interval(4, 0.3, 0.9)) == "interval(4,0.3,0.9)" and str(Interval(4, 0, 1, 2)) == "interval(4,0,1,2)"


def test_lists_of_strengths():
    expected = [LinearRamp(0, 4), Interval(4, 0.3, 0.9), PerCount([0.58, 2.0]), 2.0]
    for text in ("[ramp(0,4),interval(4,0.3,0.9),[0.58,2.0],2]", "ramp(0,4), interval(4,0.3,0.9), [0.58,2.0], 2"):
        assert parse_strengths(text) == expected
    assert parse_strengths("[0,1,2]") == [0, 1, 2] and parse_strengths("2") == [2]
    assert parse_strengths("1,[2,3]") == [1, PerCount([2, 3])] == parse_strengths("[1,[2,3]]")
    assert parse_strengths("[2,3],1") == [PerCount([2, 3]), 1]
    assert parse_strengths("[[0.58,2.0]]") == [PerCount([0.58, 2.0])]


def test_per_count_is_one_strength_for_every_number_of_unmasked_coordinates():
    guidance = Guidance([3.0, -1.0, 0.5])
    assert guidance.table(3) == [3.0, -1.0, 0.5] and guidance.label == "[3,-1,0.5]"
    assert [guidance.w(k / 2) for k in range(3)] == [3.0, -1.0, 0.5]
    denoiser = Inconsistent(2, 3, 2)
    law = Chain(denoiser, guidance.w, "rate", 0).terminal_by_orders()
    assert (law - terminal_law(denoiser, guidance, 0)).abs().max() < 1e-11
    assert Guidance([2.5]).table(1) == [2.5]
    with pytest.raises(ValueError, match=r" 3 .*\[3,-1,0\.5\].* 2: "):
        guidance.table(2)
    with pytest.raises(ValueError, match=r"w = -2\.0 .* -1 "):
        Guidance([0.0, -2.0]).table(2)
    with pytest.raises(UserError):
        PerCount([])


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


def test_two_processes_draw_the_same_samples_of_any_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    other = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert other.returncode == 0, other.stderr
    exec(SCRIPT, {"__name__": "__main__"})
    here = capsys.readouterr().out
    assert here == other.stdout and " at 0x" not in here
    samples = here.splitlines()[1::2]
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
    rules = [lambda log_z, u: u.expand_as(log_z), lambda log_z, u: u.expand_as(log_z).square()]
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
