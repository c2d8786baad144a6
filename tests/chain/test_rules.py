"""Rules of guidance by brute force: rates by their formulas, laws by sums over all orders, samples by chi-square."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from helpers import Blurred, Inconsistent, Opaque, every_pair, law_by_jumps, random_target

from mdlm_cfg import FunctionDenoiser, Guidance, UserError, sample, terminal_law, tilted_law
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.classifier_rule import ByClassifier
from mdlm_cfg.chain.product_rules import Auto, Compose, Negative, Tempered
from mdlm_cfg.chain.rule_names import parse_rule
from mdlm_cfg.chain.rules import CFG, ProductRule, Rule
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.path_kl import ideal_denoiser, path_kl
from mdlm_cfg.laws.stepped import freeze
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.sampling.smc import sequential_monte_carlo
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.targets.posterior import TablePosterior
from mdlm_cfg.targets.table import TableMixture

N = 2
D = 3
K = 3
TARGET = random_target(N, D, k=K, seed=5)
EXACT = TARGET.denoiser()
POSTERIOR = TablePosterior(TARGET)
WEAK = Blurred(TARGET, 0.4)
SMOOTHED = TableMixture(0.5 * TARGET.class_pmfs + 0.5 / N**D, TARGET.class_weights).denoiser()
LEARNED = Inconsistent(N, D, K, seed=2)
RULES: dict[str, Rule] = {
    "cfg": CFG(),
    "negative": Negative(2),
    "compose": Compose({0: 1.0, 1: 0.5}),
    "auto": Auto(SMOOTHED),
    "tempered": Tempered(0.7, Negative(2)),
    "classifier": ByClassifier(POSTERIOR),
    "taylor": ByClassifier(POSTERIOR, taylor=True),
    "a_cfg": AdaptiveCFG(k=1),
    "a_cfg share": AdaptiveCFG(share=0.7),
}


def p(denoiser, state, i, label) -> list[float]:
    """The probabilities of coordinate i in a state, by one call of a denoiser."""
    return denoiser(torch.tensor([state]), torch.tensor([K if label is None else label]))[0, i].exp().tolist()


def posterior(state, z) -> float:
    """p(z | x_U) by a sum over the table."""
    mass = [0.0] * K
    for x in product(range(N), repeat=D):
        if all(state[i] in (N, x[i]) for i in range(D)):
            for k in range(K):
                mass[k] += float(TARGET.class_weights[k] * TARGET.class_pmfs[k][x])
    return mass[z] / sum(mass)


def with_value(state, i, v) -> tuple[int, ...]:
    return (*state[:i], v, *state[i + 1 :])


def by_formula(name: str, denoiser, state, i, z, w) -> list[float]:
    """rho_i(v) of one coordinate, as the formulas of the rules are written."""

    def powers(*terms):
        return [math.prod(one[v] ** c for one, c in terms) for v in range(N)]

    own = p(denoiser, state, i, z)
    none = p(denoiser, state, i, None)
    if name == "cfg":
        return powers((own, 1 + w), (none, -w))
    if name == "negative":
        return powers((own, 1 + w), (p(denoiser, state, i, 2), -w))
    if name == "compose":
        parts = [(p(denoiser, state, i, 0), 1 + w), (p(denoiser, state, i, 1), 0.5 * (1 + w))]
        return powers(*parts, (none, 1 - 1.5 * (1 + w)))
    if name == "auto":
        return powers((own, 1 + w), (p(SMOOTHED, state, i, z), -w))
    if name == "tempered":
        return powers((own, (1 + w) / 0.7), (p(denoiser, state, i, 2), -w / 0.7))
    if name == "classifier":
        ratio = [posterior(with_value(state, i, v), z) / posterior(state, z) for v in range(N)]
        return [none[v] * ratio[v] ** (1 + w) for v in range(N)]
    if name == "taylor":  # the gradient of log p(z | .) is p(v | x, z) - p(v | x) at the value v, and 0 at the mask
        own_exact = p(EXACT, state, i, z)
        none_exact = p(EXACT, state, i, None)
        return [none[v] * math.exp((1 + w) * (own_exact[v] - none_exact[v])) for v in range(N)]
    known = [k for k in range(D) if state[k] != N]
    count = min(1, len(known)) if name == "a_cfg" else math.floor(0.7 * len(known))
    surest = sorted(known, key=lambda k: p(denoiser, with_value(state, k, N), k, z)[state[k]])
    for k in surest[:count]:
        state = with_value(state, k, N)
    return powers((own, 1 + w), (p(denoiser, state, i, None), -w))


DENOISERS = {"exact": EXACT, "learned": LEARNED, "opaque": Opaque(EXACT)}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("who", "w"), every_pair(["exact", "learned"], [-0.5, 0.0, 1.7, (0.2, 1.0, 3.0)]), ids=str)
def test_rates_are_the_formula(name, who, w) -> None:
    states = [state for state in product(range(N + 1), repeat=D) if N in state]
    guidance = Guidance(list(w) if isinstance(w, tuple) else w, rule=RULES[name])
    found = guidance.log_rates(DENOISERS[who], torch.tensor(states), 1).exp()
    for row, state in enumerate(states):
        at = w[D - state.count(N)] if isinstance(w, tuple) else w
        for i in range(D):
            rates = by_formula(name, DENOISERS[who], state, i, 1, at) if state[i] == N else [0.0] * N
            assert found[row, i].tolist() == pytest.approx(rates, rel=1e-11, abs=1e-14)


def masked_again(denoiser, rule: AdaptiveCFG, states) -> list[tuple[int, ...]]:
    """The states that the second term of A-CFG is asked at."""
    seen: list[tuple[int, ...]] = []

    def answer(tokens: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        if bool((classes == denoiser.num_classes).all()):
            seen.extend(map(tuple, tokens.tolist()))
        return denoiser(tokens, classes)

    space = {name: getattr(denoiser, name) for name in ("num_tokens", "num_dims", "num_classes")}
    Guidance(2.0, rule=rule).log_rates(FunctionDenoiser(answer, **space), torch.tensor(states), 0)
    return seen


@pytest.mark.parametrize("seed", range(5))
def test_a_cfg_breaks_ties_by_position_and_not_by_rounding(seed) -> None:
    """The values of a table are whole numbers, so that which confidences are equal is known exactly."""
    values = torch.randint(1, 4, (2, 3, 3, 3), generator=torch.Generator().manual_seed(seed))
    table = TableMixture(values / values.sum(dim=(1, 2, 3), keepdim=True).double(), torch.tensor([0.5, 0.5]).double())
    states = [x for x in product(range(4), repeat=3) if x.count(3) == 1]
    for state, again in zip(states, masked_again(table.denoiser(), AdaptiveCFG(k=1), states)):
        known = [k for k in range(3) if state[k] != 3]
        kept = {k: tuple(slice(None) if v == 3 else v for v in with_value(state, k, 3)) for k in known}
        # p(x_i | x without i, z) is p(x | z) over p(x without i | z): the least confident has the largest of these
        least = max(known, key=lambda k: int(values[0][kept[k]].sum()))
        assert again == with_value(state, least, 3), state


def test_the_share_of_a_cfg_is_not_decided_by_rounding() -> None:
    blank = FunctionDenoiser(lambda tokens, classes: torch.full((*tokens.shape, 2), 0.5).log(), 2, 151, 1)
    (again,) = masked_again(blank, AdaptiveCFG(share=0.42), [(*[0] * 150, 2)])
    assert again == (*[2] * 63, *[0] * 87, 2)


def law_by_orders(rates: Callable, next_by: str) -> torch.Tensor:
    """The law of the finished chain, as a sum over all orders of unmasking."""

    def jumps(state: tuple[int, ...]) -> Iterator[tuple[int, int, float]]:
        masked = {k: rates(state, k) for k in range(D) if state[k] == N}
        z = {k: sum(row) for k, row in masked.items()}
        for i, v in product(masked, range(N)):
            yield i, v, (z[i] / sum(z.values()) if next_by == "rate" else 1 / len(z)) * masked[i][v] / z[i]

    return law_by_jumps(N, D, jumps)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("who", "kind"), every_pair(DENOISERS, ["rate", "normalized"]))
def test_laws_are_the_sum_over_orders(name, who, kind) -> None:
    denoiser = DENOISERS[who]
    guidance = Guidance(1.3, kind, rule=RULES[name])
    expected = law_by_orders(lambda state, i: by_formula(name, denoiser, state, i, 1, 1.3), kind)
    assert float((terminal_law(denoiser, guidance, 1) - expected).abs().max()) < 1e-12
    policy = "rate" if kind == "rate" else "uniform"
    assert float((terminal_law(denoiser, guidance, 1, policy) - expected).abs().max()) < 1e-12
    one_at_a_time = Sampler("event_leaping", events=1, policy=policy)
    assert float((one_at_a_time.law(denoiser, guidance, 1) - expected).abs().max()) < 1e-12


PRODUCTS = [name for name, rule in RULES.items() if rule.has_tilted]


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("w", [0.0, 1.3])
def test_the_tilted_law_is_the_product_and_weights_reach_it(name, w) -> None:
    guidance = Guidance(w, rule=RULES[name])
    mixture = TARGET.pmf
    classes = TARGET.class_pmfs
    smoothed = SMOOTHED.target.class_pmf(1)
    expected = {
        "cfg": classes[1] ** (1 + w) * mixture**-w,
        "negative": classes[1] ** (1 + w) * classes[2] ** -w,
        "compose": classes[0] ** (1 + w) * classes[1] ** (0.5 + 0.5 * w) * mixture ** (1 - 1.5 * (1 + w)),
        "auto": classes[1] ** (1 + w) * smoothed**-w,
        "tempered": (classes[1] ** (1 + w) * classes[2] ** -w) ** (1 / 0.7),
        "classifier": mixture * (classes[1] / mixture) ** (1 + w),
    }[name]
    expected = expected / expected.sum()
    tilted = tilted_law(TARGET, guidance, 1)
    assert float((tilted - expected).abs().max()) < 1e-13
    for kind, policy in product(("rate", "normalized"), (None, "confidence")):
        found = tilted_weights(EXACT, Guidance(w, kind, rule=RULES[name]), 1, policy)
        assert float((found.law - expected).abs().max()) < 1e-12
    assert float((terminal_law(ideal_denoiser(TARGET, guidance, 1), Guidance(0.0), 0) - expected).abs().max()) < 1e-12
    assert path_kl(TARGET, guidance, 1).total >= -1e-12
    smc = sequential_monte_carlo(EXACT, guidance, 1, 4000, generator=torch.Generator().manual_seed(0))
    law = torch.zeros(N**D, dtype=torch.float64).index_add_(0, (smc.x * torch.tensor([4, 2, 1])).sum(1), smc.weights)
    assert total_variation(law.view([N] * D), expected) < 0.06


@pytest.mark.parametrize("name", [name for name in RULES if name not in PRODUCTS])
def test_what_needs_a_tilted_law_refuses_a_rule_without_one_by_name(name) -> None:
    guidance = Guidance(1.0, rule=RULES[name])
    assert not guidance.has_tilted
    for need in (
        lambda: tilted_law(TARGET, guidance, 1),
        lambda: tilted_weights(EXACT, guidance, 1),
        lambda: Sampler().draw_weighted(EXACT, guidance, 1, 3),
        lambda: sequential_monte_carlo(EXACT, guidance, 1, 20),
        lambda: ideal_denoiser(TARGET, guidance, 1),
        lambda: Sampler(correction="correction(size=1, moves=1, accept)").law(EXACT, guidance, 1),
        lambda: guidance.constant,
    ):
        with pytest.raises(UserError) as caught:
            need()
        assert str(RULES[name]) in str(caught.value)


@pytest.mark.parametrize("zeros", [0.0, 0.4])
@pytest.mark.parametrize("w", [-1.0, -0.5, 0.0, 1.0, 6.0])
def test_classifier_guidance_by_the_exact_posterior_is_cfg(zeros, w) -> None:
    target = random_target(3, 3, k=3, seed=9, zeros=zeros)
    exact = target.denoiser()
    rule = ByClassifier(TablePosterior(target))
    states = torch.tensor([state for state in product(range(4), repeat=3) if 3 in state])
    if w > -1:  # at w = -1 classifier-free guidance keeps the support of the class
        ours, cfg = (Guidance(w, rule=one).log_rates(exact, states, 1).exp() for one in (rule, CFG()))
        assert float((ours - cfg).abs().max()) < 1e-12 * float(cfg.max())
        laws = [terminal_law(exact, Guidance(w, rule=one), 1) for one in (rule, CFG())]
        assert float((laws[0] - laws[1]).abs().max()) < 1e-12
    whole = terminal_law(exact, Guidance(-1.0, rule=rule), 1)
    assert float((whole - target.pmf).abs().max()) < 1e-12
    taylor = ByClassifier(TablePosterior(target), taylor=True)
    if w > 0 and zeros == 0:
        assert total_variation(terminal_law(exact, Guidance(w, rule=taylor), 1), laws[0]) > 0.01


def test_auto_guidance_by_itself_is_no_guidance_and_none_without_a_joint() -> None:
    for w in (0.5, 3.0):
        law = terminal_law(EXACT, Guidance(w, rule=Auto(Opaque(EXACT))), 1)
        assert float((law - TARGET.class_pmf(1)).abs().max()) < 1e-12
    guidance = Guidance(2.0, rule=Auto(WEAK))
    expected = law_by_orders(
        lambda state, i: [a**3 * b**-2 for a, b in zip(p(EXACT, state, i, 1), p(WEAK, state, i, 1))], "rate"
    )
    assert float((terminal_law(EXACT, guidance, 1) - expected).abs().max()) < 1e-12
    with pytest.raises(UserError):
        tilted_law(TARGET, guidance, 1)  # the weak one belongs to no joint
    assert not guidance.has_tilted and not Tempered(0.5, Auto(WEAK)).has_tilted_law
    assert Guidance(2.0, rule=Auto(SMOOTHED)).has_tilted
    assert float(tilted_weights(EXACT, guidance, 1).law.sum()) == pytest.approx(1)  # averaged over orders
    with pytest.raises(UserError):
        terminal_law(EXACT, Guidance(1.0, rule=Auto(random_target(3, 3).denoiser())), 1)


def test_compositions_of_one_class_is_cfg_and_disjoint_ones_are_refused() -> None:
    for w in (0.0, 2.0):
        laws = [terminal_law(Opaque(EXACT), Guidance(w, rule=rule), 1) for rule in (Compose({1: 1.0}), CFG())]
        assert float((laws[0] - laws[1]).abs().max()) < 1e-12
    pmfs = torch.zeros(2, 2, 2, dtype=torch.float64)
    pmfs[0, 0] = 0.5
    pmfs[1, 1] = 0.5
    disjoint = TableMixture(pmfs, torch.tensor([0.5, 0.5]))
    both = Guidance(0.0, rule=Compose({0: 0.5, 1: 0.5}))
    for need in (
        lambda: terminal_law(disjoint.denoiser(), both, 0),
        lambda: tilted_law(disjoint, both, 0),
        lambda: sample(disjoint.denoiser(), both, 0, 5),
        lambda: terminal_law(disjoint.denoiser(), Guidance(1.0, rule=Negative(1)), 0),
        lambda: tilted_law(disjoint, Guidance(1.0, rule=Negative(1)), 0),
    ):
        with pytest.raises(UserError):
            need()
    overlapping = torch.tensor([[[0.3, 0.3], [0.4, 0.0]], [[0.0, 0.5], [0.2, 0.3]]], dtype=torch.float64)
    target = TableMixture(overlapping, torch.tensor([0.5, 0.5]))
    tilted = (overlapping[0] * overlapping[1] / target.pmf).nan_to_num()
    found = tilted_weights(target.denoiser(), Guidance(0.0, rule=Compose({0: 1.0, 1: 1.0})), None).law
    assert float((found - tilted / tilted.sum()).abs().max()) < 1e-13


@pytest.mark.parametrize("name", RULES)
def test_samples_have_the_law(name) -> None:
    guidance = Guidance(1.0, rule=RULES[name])
    n = 4000
    for sampler in (Sampler(), Sampler("tau_leaping", 3), Sampler(policy="confidence")):
        law = sampler.law(LEARNED, guidance, 1).flatten()
        x = sampler.draw(LEARNED, guidance, 1, n, torch.Generator().manual_seed(1))
        counts = torch.bincount((x * torch.tensor([4, 2, 1])).sum(1), minlength=N**D).double()
        assert float(((counts - n * law) ** 2 / (n * law)).sum()) < 29.9  # 7 degrees of freedom: p = 1e-4
    frozen = freeze(LEARNED, guidance, 1)
    assert float(frozen.law_after(Sampler("euler", 4).plan(D)).sum()) == pytest.approx(1)


def test_rules_are_read_as_they_are_written() -> None:
    for rule in RULES.values():
        assert parse_rule(str(rule), weak=SMOOTHED, classifier=POSTERIOR) == rule and parse_rule(rule) is rule
    assert parse_rule(" compose( 7:0.5 , 1:1.0 ) ") == Compose({1: 1.0, 7: 0.5}) == Compose([(7, 0.5), (1, 1)])
    assert parse_rule("tempered(2)") == Tempered(2.0) == parse_rule("tempered(2; cfg)")
    for text in (
        "auto",
        "classifier",
        "classifier(x)",
        "negative",
        "negative(-1)",
        "negative(a)",
        "negative(1.5)",
        "compose()",
        "compose(1)",
        "compose(1:x)",
        "compose(1:1,1:2)",
        "compose(1:nan)",
        "compose(1:inf)",
        "a_cfg",
        "a_cfg(k=-1)",
        "a_cfg(share=2)",
        "a_cfg(x=1)",
        "tempered(0)",
        "tempered(1; a_cfg(k=1))",
        "negativ(1)",
        "",
        "negative(1",
        None,
        3,
    ):
        with pytest.raises(UserError):
            parse_rule(text)


def test_what_a_rule_cannot_use_is_refused() -> None:
    smaller = Auto(random_target(2, 2).denoiser())
    for rule, z in ((Negative(3), 0), (Negative(1), 1), (Compose({5: 1.0}), 0), (smaller, 0)):
        with pytest.raises(UserError):
            Guidance(1.0, rule=rule).log_rates(EXACT, torch.full((1, D), N), z)
    for make in (
        lambda: Guidance(1.0, rule="negative(1)"),
        lambda: ByClassifier(None),
        lambda: AdaptiveCFG(),
        lambda: Compose({}),
        lambda: AdaptiveCFG(k=1, share=0.5),
        lambda: Tempered(-1.0),
        lambda: Tempered("1"),
        lambda: Compose(3),
        lambda: Compose([1, 2]),
        lambda: Auto(None),
        lambda: Negative(True),
        lambda: ByClassifier(type("C", (), {"num_classes": 3, "__call__": lambda self, x: x})(), taylor=True),
        lambda: Guidance(1.0, rule=ByClassifier(TablePosterior(random_target(2, 3, k=2)))).log_rates(
            EXACT, torch.full((1, D), N), 0
        ),
    ):
        with pytest.raises(UserError):
            make()


@pytest.mark.parametrize(
    "rule", [Compose({0: 20.0}), Compose({0: 1e4, 1: -1e4}), Tempered(1e-2), Tempered(0.1, Compose({1: 2.0}))]
)
def test_powers_that_would_show_rounding_are_refused(rule: ProductRule) -> None:
    guidance = Guidance(1e4, rule=rule)
    for ask in (lambda: terminal_law(EXACT, guidance, 0), lambda: guidance.log_rates(EXACT, torch.full((1, D), N), 0)):
        with pytest.raises(UserError):
            ask()
    with pytest.raises(UserError):
        rule.log_tilted(EXACT, 1e4, 0)


@pytest.mark.parametrize("w", [None, "2", {}])
def test_a_strength_that_is_no_number_is_refused(w: object) -> None:
    with pytest.raises(UserError):
        Guidance(w)


def test_rules_tell_guidances_apart() -> None:
    others = [Auto(WEAK), Compose({0: 1.0, 1: 0.50000001}), AdaptiveCFG(k=2)]
    others += [Tempered(0.7), Tempered(0.7, Compose({1: 1}))]
    guidances = tuple(Guidance(1.0, rule=rule) for rule in (*RULES.values(), *others))
    assert len({guidance.key(D) for guidance in guidances}) == len(guidances)
    named = tuple(guidance for guidance in guidances if guidance.rule != others[0])
    assert len({guidance.label for guidance in named}) == len({g.identifier for g in named}) == len(named)
    assert len(Plan(named, Sampler()).guidances) == len(named)
    with pytest.raises(UserError):
        Plan((Guidance(1.0, rule=Auto(WEAK)), Guidance(1.0, rule=Auto(SMOOTHED))), Sampler())  # one name
    assert Guidance(1.0, rule=Auto(WEAK)) == Guidance(1.0, rule=Auto(WEAK)) != Guidance(1.0)
    assert Guidance(1.0).key(D) == ("rate", "1") and Guidance(1.0).label == "1"
    assert [Guidance(1.0, rule=Negative(k)).rows(D) for k in range(K)] == [2] * K
    assert [Guidance(1.0, rule=rule).rows(D) for rule in RULES.values()] == [2, 2, 3, 1, 2, 1, 1, D + 2, D + 2]


def test_classifiers_of_the_same_answers_and_other_gradients_are_told_apart() -> None:
    class Steeper(TablePosterior):
        def of_one_hot(self, one_hot: torch.Tensor) -> torch.Tensor:
            return super().of_one_hot(one_hot.square())  # the same at 0 and 1, and twice as steep at 1

    target = random_target(2, 2, seed=3)
    keys = {}
    laws = []
    for taylor in (False, True):
        given = [Guidance(1.0, rule=ByClassifier(make(target), taylor)) for make in (TablePosterior, Steeper)]
        keys[taylor] = [one.key() for one in given]
        laws.append([terminal_law(target.denoiser(), one, 0) for one in given])
    assert total_variation(*laws[0]) < 1e-12 and total_variation(*laws[1]) > 0.01
    assert keys[True][0] != keys[True][1]


def test_weaker_denoisers_that_differ_in_one_class_are_told_apart() -> None:
    """Each of a few states was asked under one label: on one coordinate the other classes could be any."""
    uniform = torch.full((3, 50), 1 / 50, dtype=torch.float64)
    for k in range(3):
        other = uniform.clone()
        other[k] = torch.arange(1, 51).double() / 1275
        keys = {Auto(TableMixture(pmfs, torch.ones(3) / 3).denoiser()).key for pmfs in (uniform, other)}
        assert len(keys) == 2


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("num", [0, 1, 5])
def test_rates_of_a_batch_are_those_of_its_states_and_of_none_are_none(name: str, num: int) -> None:
    tokens = torch.randint(N + 1, (num, D), generator=torch.Generator().manual_seed(num))
    guidance = Guidance(1.5, rule=RULES[name])
    rates = guidance.log_rates(EXACT, tokens, 0)
    assert rates.shape == (num, D, N) and rates.dtype == torch.float64
    for row, state in zip(rates, tokens):
        assert torch.allclose(row.exp(), guidance.log_rates(EXACT, state[None], 0)[0].exp(), rtol=1e-12)
