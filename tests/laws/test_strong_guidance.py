"""Numbers at the edge: strong guidance against 50 digits, and weak guidance of conditionals e^1600 apart."""

from __future__ import annotations

import math
from itertools import product

import mpmath
import pytest
import torch
from helpers import random_target
from mpmath import mpf

from mdlm_cfg import Guidance, TableMixture, UserError, law_at, terminal_law, tilted_law
from mdlm_cfg.chain.denoiser import FunctionDenoiser
from mdlm_cfg.compare.decay import log_still_masked
from mdlm_cfg.compare.divergence import divergence_from_chain, divergence_from_sampler
from mdlm_cfg.compare.geometry import limit_law
from mdlm_cfg.compare.ledger import error_ledger
from mdlm_cfg.compare.metrics import histogram
from mdlm_cfg.sampling import Sampler

DIGITS = 50
KINDS = ("rate", "normalized")


def as_law(masses: dict, target: TableMixture) -> torch.Tensor:
    """Masses of states in 50 digits, as a law in float64."""
    states = product(range(target.num_tokens), repeat=target.num_dims)
    law = torch.tensor([float(masses.get(x, 0)) for x in states], dtype=torch.float64)
    return law.reshape([target.num_tokens] * target.num_dims)


def exact_terminal(target: TableMixture, w: float | list[float], z: int, kind: str) -> dict:
    """The terminal law of the table's own float64 numbers, taken as exact, in 50 digits (theory, section 4)."""
    n = target.num_tokens
    d = target.num_dims
    with mpmath.workdps(DIGITS):
        weights = [mpf(a) for a in target.class_weights.tolist()]
        marginal = marginals([[mpf(v) for v in pmf.flatten().tolist()] for pmf in target.class_pmfs], n, d)
        flow = {(n,) * d: mpf(1)}
        for strength in w if isinstance(w, list) else [w] * d:
            flow = next_level(flow, marginal, weights, mpf(strength), z, kind, n)
    return flow


def exact_tilted(target: TableMixture, w: float, z: int) -> dict:
    """The tilted law, likewise."""
    masses: dict = {}
    with mpmath.workdps(DIGITS):
        weights = [mpf(a) for a in target.class_weights.tolist()]
        for x in product(range(target.num_tokens), repeat=target.num_dims):
            cell = [mpf(v) for v in target.class_pmfs[(slice(None), *x)].tolist()]
            masses[x] = cell[z] * (cell[z] / mpmath.fdot(weights, cell)) ** mpf(w) if cell[z] else mpf(0)
        total = mpmath.fsum(masses.values())
        return {x: mass / total for x, mass in masses.items()}


def marginals(pmfs, n: int, d: int) -> dict:
    """Every partial state's probability under every class."""
    points = list(product(range(n), repeat=d))
    out: dict = {}
    for state in product(range(n + 1), repeat=d):
        inside = [k for k, x in enumerate(points) if all(s in (n, v) for s, v in zip(state, x))]
        out[state] = [mpmath.fsum(pmf[k] for k in inside) for pmf in pmfs]
    return out


def next_level(flow, marginal, weights, w, z, kind, n) -> dict:
    """One more coordinate unmasked."""
    out: dict = {}
    for state, mass in flow.items():
        log_rho = {}
        for i in (i for i, s in enumerate(state) if s == n):
            for v in range(n):
                child = (*state[:i], v, *state[i + 1 :])
                if marginal[child][z] > 0:
                    whole = [mpmath.fdot(weights, marginal[s]) for s in (child, state)]
                    log_cond = mpmath.log(marginal[child][z] / marginal[state][z])
                    log_rho[i, child] = (1 + w) * log_cond - w * mpmath.log(whole[0] / whole[1])
        top = max(log_rho.values())
        for i in {i for i, _ in log_rho}:
            own = {child: value for (j, child), value in log_rho.items() if j == i}
            base = top if kind == "rate" else max(own.values())
            rho = {child: mpmath.exp(value - base) for child, value in own.items()}
            total = mpmath.fsum(mpmath.exp(value - top) for value in log_rho.values())
            if kind == "normalized":
                total = mpmath.fsum(rho.values()) * len({i for i, _ in log_rho})
            for child, value in rho.items():
                out[child] = out.get(child, 0) + mass * value / total
    return out


def third() -> TableMixture:
    """Classes of weights 0.3 and 0.7 that share some values: ratios tie at 1 / 0.3 where class 0 is alone."""
    pmfs = random_target(4, 2, k=2, seed=3).class_pmfs.clone()
    pmfs[1, :2, :] = 0
    pmfs[1, :, 0] = 0
    return TableMixture(pmfs / pmfs.sum(dim=(1, 2), keepdim=True), torch.tensor([0.3, 0.7], dtype=torch.float64))


def near() -> TableMixture:
    """Classes that differ by 1e-4: the law at w = 1e4 is near neither the class nor the limit."""
    base = random_target(3, 3, k=1, seed=5).class_pmfs[0]
    moved = base * (1 + 1e-4 * random_target(3, 3, k=1, seed=6).class_pmfs[0] * 27)
    pmfs = torch.stack([moved / moved.sum(), base])
    return TableMixture(pmfs, torch.tensor([0.3, 0.7], dtype=torch.float64))


def silent() -> TableMixture:
    """The first coordinate by itself says nothing of the class, exactly: its ratios are 1, and others are larger."""
    pmfs = torch.tensor([[[1, 3], [2, 2]], [[4, 0], [1, 3]]], dtype=torch.float64) / 8
    return TableMixture(pmfs, torch.tensor([0.5, 0.5], dtype=torch.float64))


TARGETS = {
    "silent": silent,
    "random": lambda: random_target(3, 3, k=2, seed=1),
    "zeros": lambda: random_target(3, 3, k=3, seed=2, zeros=0.5),
    "ties": third,
    "near": near,
    "line": lambda: random_target(6, 1, k=3, seed=4, zeros=0.4),
}
STRENGTHS = (-1.0, 0.5, 50.0, 1e3, 1e4)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", STRENGTHS)
def test_against_fifty_digits(name, kind, w) -> None:
    target = TARGETS[name]()
    truth = as_law(exact_terminal(target, w, 0, kind), target)
    assert float((terminal_law(target.denoiser(), Guidance(w, kind), 0) - truth).abs().max()) < 1e-10
    expected = as_law(exact_tilted(target, w, 0), target)
    assert float((tilted_law(target, w, 0) - expected).abs().max()) < 1e-10


def divergence_of(p: dict, q: dict) -> float:
    """KL(p || q) of masses in 50 digits."""
    with mpmath.workdps(DIGITS):
        return float(mpmath.fsum(mass * mpmath.log(mass / q[x]) for x, mass in p.items() if mass))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", [50.0, 300.0, 1e3, 1e4])
def test_a_divergence_from_a_law_too_small_for_float64_is_its_own_number(name, kind, w) -> None:
    target = TARGETS[name]()
    chain = (target.denoiser(), Guidance(w, kind), 0)
    law = terminal_law(*chain)
    truth = exact_terminal(target, w, 0, kind)
    found = divergence_from_chain(target.class_pmf(0), law, *chain)
    assert found == pytest.approx(divergence_of(exact_tilted(target, 0.0, 0), truth), rel=1e-9)
    by_policy = divergence_from_chain(target.class_pmf(0), law, *chain, kind.replace("normalized", "uniform"))
    assert by_policy == pytest.approx(found, rel=1e-12)


def test_a_divergence_from_steps_is_known_or_absent_and_infinite_only_without_support() -> None:
    target = TARGETS["random"]()
    denoiser, of_class = target.denoiser(), target.class_pmf(0)
    for name in ("tau_leaping", "euler", "d_cfg", "event_leaping", "threshold"):
        sampler = Sampler(name, threshold=0.5) if name == "threshold" else Sampler(name, steps=2)
        made = (sampler, denoiser, Guidance(1e3), 0)
        assert divergence_from_sampler(of_class, sampler.law(*made[1:]), *made) is None
        cut = (sampler, denoiser, Guidance(2.0, top_p=0.5), 0)  # a support of fewer states
        assert divergence_from_sampler(of_class, sampler.law(*cut[1:]), *cut) == math.inf
    cut = Guidance(1e3, top_p=0.5)
    assert divergence_from_chain(of_class, terminal_law(denoiser, cut, 0), denoiser, cut, 0) == math.inf
    ledger = error_ledger(target, denoiser, Guidance(1e3), 0, "tau_leaping", 2, num_samples=10)
    assert ledger.kl["discretisation error"] is None and 100 < (ledger.kl["guidance effect"] or 0) < math.inf


@pytest.mark.parametrize("w", [100.0, 1e4])
def test_law_in_time_under_strong_guidance(w) -> None:
    # one dimension: q_tau(v) = q(v) (1 - exp(-Z tau))
    base = torch.rand(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pmfs = torch.stack([base * (1 + 3 / w * random_target(5, 1, seed=1).class_pmfs[0]), base])
    target = TableMixture(pmfs / pmfs.sum(1, keepdim=True), torch.tensor([0.3, 0.7], dtype=torch.float64))
    law = as_law(exact_terminal(target, w, 0, "rate"), target)
    with mpmath.workdps(DIGITS):
        own, whole = ([mpf(v) for v in pmf.tolist()] for pmf in (target.class_pmfs[0], target.pmf))
        z = float(mpmath.fsum(a * (a / b) ** mpf(w) for a, b in zip(own, whole)))
    for tau in (0.01, 0.4, 2.0):
        ours = law_at(target.denoiser(), Guidance(w), 0, tau)
        assert float((ours[:5] - law * -math.expm1(-z * tau)).abs().max()) < 1e-10
        assert abs(float(log_still_masked(target.denoiser(), Guidance(w), 0, [tau])[0]) + z * tau) < 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_the_limit_is_reached_where_ratios_differ(kind, name) -> None:
    target = TARGETS[name]()
    truth = as_law(exact_terminal(target, 1e9, 0, kind), target)  # beyond what `Guidance` allows, and in 50 digits
    assert float((truth - limit_law(target, 0, kind)).abs().max()) < 1e-10


@pytest.mark.parametrize("w", [1e4 * (1 + 1e-15), 1e5, 1e8, 1e300, 1e308])
def test_beyond_it_the_limit_is_pointed_to(w) -> None:
    with pytest.raises(UserError, match="limit_law"):
        Guidance(w)
    with pytest.raises(UserError, match="limit_law"):
        tilted_law(near(), w, 0)
    with pytest.raises(UserError, match="limit_law"):
        terminal_law(near().denoiser(), Guidance(lambda progress: w * progress), 0)


def box(values: list[float], d: int) -> torch.Tensor:
    """The law of d independent coordinates."""
    row = torch.tensor(values, dtype=torch.float64)
    out = row
    for _ in range(d - 1):
        out = out[..., None] * row
    return out


def mixture(*pmfs: torch.Tensor, weights: tuple[float, ...]) -> TableMixture:
    return TableMixture(torch.stack(pmfs), torch.tensor(weights, dtype=torch.float64))


EDGES = {  # where the law of class 0 is the class itself, at every w
    "equal classes": mixture(*[random_target(3, 2, seed=8).class_pmfs[0]] * 2, weights=(0.3, 0.7)),
    "one class": random_target(3, 2, k=1, seed=9),
    "one value": mixture(torch.ones(1, 1), torch.ones(1, 1), weights=(0.2, 0.8)),
    "disjoint in every coordinate": mixture(box([0.3, 0.7, 0, 0], 2), box([0, 0, 0.4, 0.6], 2), weights=(0.15, 0.85)),
    "disjoint on a line": mixture(box([0.3, 0.7, 0], 1), box([0, 0, 1], 1), weights=(1 / 3, 2 / 3)),
    "one point": mixture(box([1.0, 0], 3), box([0.5, 0.5], 3), weights=(0.6, 0.4)),
}
SAMPLERS = ("first_hitting", "tau_leaping", "euler", "d_cfg", "event_leaping")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", [-1.0, -0.5, 3.0, 1e4])
@pytest.mark.parametrize("name", EDGES)
def test_where_guidance_changes_nothing(name, w, kind) -> None:
    # the class alone has the values it can take, or they all have one ratio: guidance has nothing to choose
    target = EDGES[name]
    close = max(1e-12, 1e-15 * w)  # w times the rounding of a log-ratio
    own = target.class_pmfs[0]
    guidance = Guidance(w, kind)
    n = target.num_tokens
    d = target.num_dims
    assert float((terminal_law(target.denoiser(), guidance, 0) - own).abs().max()) < close
    assert float((tilted_law(target, w, 0) - own).abs().max()) < close
    assert float((law_at(target.denoiser(), guidance, 0, math.inf)[(slice(0, n),) * d] - own).abs().max()) < close
    for sampler in SAMPLERS:
        made = Sampler(sampler, None if sampler == "first_hitting" else d)
        law = made.law(target.denoiser(), guidance, 0)
        assert abs(float(law.sum()) - 1) < 1e-12 and float(law[own == 0].sum()) < 1e-12
        x = made.draw(target.denoiser(), guidance, 0, 100, torch.Generator().manual_seed(0))
        assert float(histogram(x, n)[own == 0].sum()) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", [-1.0, -0.999, -0.5, -1e-9, 0.0])
@pytest.mark.parametrize("name", SAMPLERS)
def test_weak_guidance_of_conditionals_e1600_apart(name, w, kind) -> None:
    # the values that the class has are as good as impossible in the mixture, and the other way round
    log_cond = torch.tensor([-800.0, 0.0]).double()
    log_uncond = torch.tensor([0.0, -1600.0]).double()

    def answer(tokens, classes):
        return torch.where((classes == 0)[:, None, None], log_cond, log_uncond).expand(*tokens.shape, 2)

    denoiser = FunctionDenoiser(answer, 2, 2, 1)
    guidance = Guidance(w, kind)
    with mpmath.workdps(DIGITS):
        rho = [mpmath.exp((1 + mpf(w)) * a - mpf(w) * b) for a, b in zip(log_cond.tolist(), log_uncond.tolist())]
        row = torch.tensor([float(r / mpmath.fsum(rho)) for r in rho], dtype=torch.float64)
    truth = box(row.tolist(), 2)  # the coordinates do not know of each other
    assert float((terminal_law(denoiser, guidance, 0) - truth).abs().max()) < 1e-12
    made = Sampler(name, None if name == "first_hitting" else 3)
    assert float((made.law(denoiser, guidance, 0) - truth).abs().max()) < 1e-12
    x = made.draw(denoiser, guidance, 0, 200, torch.Generator().manual_seed(0))
    assert float(histogram(x, 2)[truth < 1e-12].sum()) == 0
    for tau in (0.0, 1e-3, 1.0, math.inf):
        law = law_at(denoiser, guidance, 0, tau)
        assert bool(law.isfinite().all()) and abs(float(law.sum()) - 1) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_mixture_on_the_support_of_the_class(kind) -> None:
    # w = -1 in one dimension: p restricted to the class's support, and normalised
    target = random_target(6, 1, k=2, seed=12, zeros=0.5)
    inside = torch.where(target.class_pmfs[0] > 0, target.pmf, 0.0)
    assert float((target.pmf - inside).sum()) > 0.05
    ours = terminal_law(target.denoiser(), Guidance(-1.0, kind), 0)
    assert float((ours - inside / inside.sum()).abs().max()) < 1e-14


def mirrored(seed: int) -> TableMixture:
    """Two classes that look the same in a mirror: x_1 in {0, 1} changes places, and x_2 runs backwards."""
    pmfs = random_target(3, 2, k=2, seed=seed).class_pmfs ** 4
    pmfs[:, 1] = pmfs[:, 0].flip(1)
    pmfs[:, 2] = 0.1 * (pmfs[:, 2] + pmfs[:, 2].flip(1))
    return mixture(*(pmfs / pmfs.sum(dim=(1, 2), keepdim=True)), weights=(0.3, 0.7))


@pytest.mark.parametrize("policy", [None, "confidence"])
@pytest.mark.parametrize("w", [-1.0, 3.0, 1e3, 1e4])
def test_top_p_keeps_all_values_that_tie(w, policy) -> None:
    for seed in range(15):
        guidance = Guidance(w, temperature=1e-3, top_p=0.4)
        law = terminal_law(mirrored(seed).denoiser(), guidance, 0, policy)
        seen = torch.stack([law[1].flip(0), law[0].flip(0), law[2].flip(0)])
        assert float((law - seen).abs().max()) < 1e-5
