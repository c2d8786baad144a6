"""The denoiser's contract: what breaks it is refused in a sentence by everything that asks a denoiser."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable

import pytest
import torch
from helpers import Inconsistent, bernoulli_mixture, random_target
from torch import Tensor, nn

from mdlm_cfg import (
    Correction,
    FunctionDenoiser,
    Guidance,
    UserError,
    error_ledger,
    law_at,
    sample,
    stepped_law,
    terminal_law,
)
from mdlm_cfg.chain.denoiser import Denoiser, by_label, check_steady, conditionals, conditionals_under, name_class
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.compare.by_state import MixedDenoiser, conditionals_error_by_state
from mdlm_cfg.compare.decay import log_still_masked, time_to_tv, tv_decay
from mdlm_cfg.compare.images import class_nelbos
from mdlm_cfg.compare.likelihood import exact_likelihood
from mdlm_cfg.compare.metrics import histogram
from mdlm_cfg.compare.path_kl import ideal_denoiser
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.nets import NetDenoiser
from mdlm_cfg.sampling import SAMPLERS, WITH_STEPS, Sampler
from mdlm_cfg.studies.benchmark.targets import learned_rotation, rotation
from mdlm_cfg.training.elbo import nelbo

TARGET = random_target(3, 2, k=3, seed=21)
Z = 2
GUIDANCE = Guidance(1.5)
SECONDS = 20  # that nothing may take: a denoiser that answers NaN once made `time_to_tv` loop for ever


def draw(sampler, denoiser):
    steps = 2 if sampler in WITH_STEPS else None
    return sample(denoiser, GUIDANCE, Z, 50, sampler, steps, generator=torch.Generator().manual_seed(0))


ASKERS = {
    **{f"sample {name}": lambda denoiser, name=name: draw(name, denoiser) for name in SAMPLERS},
    "terminal_law": lambda denoiser: terminal_law(denoiser, GUIDANCE, Z),
    "visit_law": lambda denoiser: visit_law(denoiser, GUIDANCE, Z),
    "law_at": lambda denoiser: law_at(denoiser, GUIDANCE, Z, 0.5),
    "stepped_law": lambda denoiser: stepped_law(denoiser, GUIDANCE, Z, "tau_leaping", 2),
    "event_leaping law": lambda denoiser: stepped_law(denoiser, GUIDANCE, Z, "event_leaping", 1),
    "error_ledger": lambda denoiser: error_ledger(
        TARGET, denoiser, GUIDANCE, Z, "d_cfg", 2, num_samples=50, generator=torch.Generator().manual_seed(0)
    ),
    "time_to_tv": lambda denoiser: time_to_tv(denoiser, GUIDANCE, Z, 0.05),
    "log_still_masked": lambda denoiser: log_still_masked(denoiser, GUIDANCE, Z, [0.5]),
    "tv_decay": lambda denoiser: tv_decay(TARGET, Z, [GUIDANCE], [0.5], 0.5, denoiser),
    "tabulated": lambda denoiser: terminal_law(TabulatedDenoiser(denoiser), GUIDANCE, Z),
}
FAULTS = {  # what is done to the right answer (B, D, N), and the values that the sentence must hold
    "nan": (lambda answer: answer * math.nan, r"NaN .* \d .*\(.*mask.*\) .*class 2:"),
    "one nan": (lambda answer: answer.masked_fill(torch.arange(3) == 1, math.nan), "NaN"),
    "infinity": (lambda answer: answer.masked_fill(torch.arange(3) == 1, math.inf), r" inf .*class 2: .*1e-06"),
    "probabilities": (lambda answer: answer.exp(), r" \d\.\d{3,} .*class 2: .*1e-06"),
    "negated": (lambda answer: -answer, r" \d+\.\d{3,} .*class 2: .*1e-06"),
    "unnormalised": (lambda answer: answer + 0.3, r" 1\.34985881 "),
    "half": (lambda answer: answer - math.log(2), r" 0\.5 .*class 2:"),
    "no mass": (lambda answer: answer - math.inf, r" 0 .*class 2: .*1e-06"),
    "logits": (lambda answer: answer * 3, r" \d\.\d{3,} .*class 2: .*1e-06"),
    "transposed": (lambda answer: answer.transpose(1, 2), r"\(\d+, 3, 2\).*\(\d+, 2, 3\)"),
    "a row for the mask": (lambda answer: torch.cat([answer, answer[..., :1]], -1), r"\(\d+, 2, 4\).*\(\d+, 2, 3\)"),
    "one row": (lambda answer: answer[:1].expand(len(answer) + 1, -1, -1), r"\((\d+), 2, 3\).*\((?!\1,)\d+, 2, 3\)"),
    "flat": (lambda answer: answer.flatten(1), r"\(\d+, 6\).*\(\d+, 2, 3\)"),
}


def broken(fault, label=None):
    """The exact denoiser with a fault, under every label or under one alone."""
    exact = TARGET.denoiser()

    def answer(tokens, classes):
        right = exact(tokens, classes)
        wrong = fault(right)
        return wrong if label is None else torch.where((classes == label)[:, None, None], wrong, right)

    return FunctionDenoiser(answer, 3, 2, 3)


class Net(nn.Module):
    """A module of a user's own: float32, with parameters that require gradients; something is done to its logits."""

    num_tokens = 3
    num_dims = 2
    num_classes = 3
    device = torch.device("cpu")

    def __init__(self, of_logits: Callable[[Tensor], Tensor] = lambda logits: logits) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(4**2 * 4, 6, generator=torch.Generator().manual_seed(0)))
        self.of_logits = of_logits
        self.dropout = nn.Dropout(0.5)

    def forward(self, tokens, classes):
        index = (tokens[:, 0] * 4 + tokens[:, 1]) * 4 + (3 if classes is None else classes)
        logits = self.of_logits(self.dropout(self.logits[index]).unflatten(1, (2, 3)))
        return copy_unmasked(logits.log_softmax(-1), tokens)


class Answering(Net):
    """A network that answers as a function does."""

    def __init__(self, answer: Callable[..., Tensor]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, tokens, classes):
        return self.answer(tokens, classes)


def refuse_to_wait(*_):
    raise AssertionError("it loops for ever")


@pytest.fixture
def in_time():
    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, refuse_to_wait)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("in_time")
@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_contract_is_refused_by_all(asker, fault) -> None:
    spoil, sentence = FAULTS[fault]
    with pytest.raises(UserError, match=sentence) as refused:
        ASKERS[asker](broken(spoil))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("batch_size", [1, 64])
@pytest.mark.parametrize("fault", [*FAULTS, "a pair"])
def test_a_broken_contract_of_a_network_is_refused(batch_size, fault) -> None:
    spoil = FAULTS[fault][0] if fault in FAULTS else lambda answer: (answer, 0)
    denoiser = NetDenoiser(Answering(broken(spoil)), batch_size)
    for labels in ([0], [0, None]):
        with pytest.raises(UserError):
            conditionals_under(denoiser, torch.tensor([[3, 3], [3, 1]]), labels)


@pytest.mark.parametrize("asker", ASKERS)
@pytest.mark.parametrize(("label", "named"), [(2, 2), (3, None)])
def test_the_class_that_gave_it_is_named(asker, label, named) -> None:
    with pytest.raises(UserError, match=f" {name_class(named)}:"):
        ASKERS[asker](broken(FAULTS["nan"][0], label))


def test_the_state_that_gave_it_is_named() -> None:
    def answer(tokens, classes):
        right = TARGET.denoiser()(tokens, classes)
        bad = (tokens == torch.tensor([3, 1])).all(dim=1)
        return right.masked_fill(bad[:, None, None], math.nan)

    denoiser = FunctionDenoiser(answer, 3, 2, 3)
    assert conditionals(denoiser, torch.tensor([[1, 3], [3, 3]]), 0).shape == (2, 2, 3)
    with pytest.raises(UserError, match=r"NaN .* 1 .*\(mask, 1\) .*class 0:"):
        conditionals(denoiser, torch.tensor([[1, 3], [3, 1]]), 0)
    with pytest.raises(UserError, match=r"NaN .* 1 .*\(mask, 1\) .*class 2:"):
        terminal_law(denoiser, GUIDANCE, Z)


def test_rows_of_unmasked_coordinates_are_nobodys_business() -> None:
    exact = TARGET.denoiser()

    def answer(tokens, classes):  # a network that does not copy what is unmasked
        return torch.where((tokens == 3)[..., None], exact(tokens, classes), -7.0)

    ours = terminal_law(FunctionDenoiser(answer, 3, 2, 3), GUIDANCE, Z)
    assert float((ours - terminal_law(exact, GUIDANCE, Z)).abs().max()) < 1e-13


@pytest.mark.parametrize("name", [*SAMPLERS, "law", "corrections"])
@pytest.mark.parametrize("w", [0.0, 2.0, (1.0, 3.0)])
def test_the_answers_of_a_denoiser_are_left_as_they_are(name, w) -> None:
    exact = TARGET.denoiser()
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def answer(tokens, classes):
        found = exact(tokens, classes)
        kept.append((found, found.clone()))
        return found

    denoiser = FunctionDenoiser(answer, 3, 2, 3)
    if name == "law":
        terminal_law(denoiser, Guidance(w), Z)
    elif name == "corrections":
        Correction(2, 2, True).draw(denoiser, Guidance(w), Z, torch.zeros(5, 2, dtype=torch.int64))
    else:
        sample(denoiser, Guidance(w), Z, 20, name, 2 if name in WITH_STEPS else None)
    assert kept and all(torch.equal(*pair) for pair in kept)


def overwriting(answer):
    """A function that answers likewise, and writes over its arguments, as one that maps masks to a token of its own."""

    def careless(tokens, classes):
        found = answer(tokens.clone(), None if classes is None else classes.clone())
        for given in (tokens, classes):
            if given is not None:
                given.zero_()
        return found

    return careless


@pytest.mark.parametrize(
    "asker",
    [
        *ASKERS.values(),
        lambda denoiser: terminal_law(denoiser, Guidance(0.0), Z),
        lambda denoiser: torch.tensor(exact_likelihood(TARGET, denoiser, Z).nelbo),
        lambda denoiser: class_nelbos(denoiser, torch.tensor([[0, 1]]), 8, torch.Generator().manual_seed(0)),
        lambda denoiser: torch.tensor(conditionals_error_by_state(TARGET, denoiser, GUIDANCE, Z)[1]),
        lambda denoiser: conditionals_under(denoiser, torch.tensor([[3, 1]]), [Z, None]),
    ],
)
def test_what_a_denoiser_does_to_its_arguments_changes_nothing(asker) -> None:
    table = Inconsistent(3, 2, 3, seed=4)
    wanted = numbers(asker(table))
    denoiser = FunctionDenoiser(overwriting(table), 3, 2, 3)
    for again in (denoiser, denoiser, table):  # nor anything that is kept for the next denoiser
        for found, number in zip(numbers(asker(again)), wanted, strict=True):
            assert torch.equal(found, number)


def test_what_a_network_does_to_its_arguments_changes_nothing() -> None:
    class Careless(Net):
        def forward(self, tokens, classes):
            return overwriting(super().forward)(tokens, classes)

    tokens = torch.tensor([[3, 1], [3, 3]])
    classes = torch.tensor([0, 3])
    wrapped = [NetDenoiser(net) for net in (Net(), Careless())]
    asked = [(one(tokens, classes), one.of_labels(tokens, [0, 3])) for one in wrapped]
    assert all(torch.equal(*pair) for pair in zip(*asked))
    draws = [
        nelbo(net, tokens % 3, classes, 3, torch.Generator().manual_seed(0))
        for net in (Net().eval(), Careless().eval())
    ]
    assert torch.equal(*draws)
    assert tokens.tolist() == [[3, 1], [3, 3]] and classes.tolist() == [0, 3]


def test_a_class_for_every_row() -> None:
    exact = TARGET.denoiser()
    tokens = torch.tensor([[3, 3], [0, 3], [3, 1], [3, 3]])
    classes = torch.tensor([0, 3, 2, 1])  # 3 is no class
    found = conditionals(exact, tokens, classes)
    for row, k in enumerate((0, None, 2, 1)):
        assert torch.equal(found[row], conditionals(exact, tokens[row : row + 1], k)[0])

    def wrong(asked, labels):
        answer = exact(asked, labels)
        return torch.where((labels == 2)[:, None, None], float("nan"), answer)

    with pytest.raises(UserError, match=r"NaN .* 1 .*\(mask, 1\) .*class 2:"):
        conditionals(FunctionDenoiser(wrong, 3, 2, 3), tokens, classes)


@pytest.mark.parametrize("asker", ASKERS)
def test_a_float32_module_is_a_denoiser(asker) -> None:
    # the same numbers in float64: weights of float32 are float64 numbers too
    single = Net().eval()
    double = Net().double().eval()
    assert all(p.requires_grad and p.dtype == torch.float32 for p in single.parameters())
    ours = ASKERS[asker](single)
    truth = ASKERS[asker](double)
    for a, b in zip(numbers(ours), numbers(truth), strict=True):
        assert not a.requires_grad and a.dtype == b.dtype
        assert float((a.double() - b.double()).abs().max()) < 1e-6
    assert all(p.grad is None for p in single.parameters())


def numbers(found) -> list[torch.Tensor]:
    """The tensors of what was computed."""
    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, float):
        return [torch.tensor(found, dtype=torch.float64)]
    if isinstance(found, list):
        return found
    if hasattr(found, "laws"):  # a ledger
        return [*found.laws.values(), torch.tensor(list(found.tv.values()))]
    return [found.log_tv]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_answers_are_normalised_again(dtype) -> None:
    exact = TARGET.denoiser()
    half = FunctionDenoiser(lambda tokens, classes: exact(tokens, classes).to(dtype), 3, 2, 3)
    law = terminal_law(half, Guidance(6.0), Z)
    assert abs(float(law.sum()) - 1) < 1e-12
    assert float((conditionals(half, torch.tensor([[3, 3]]), 1).exp().sum(-1) - 1).abs().max()) < 1e-14


@pytest.mark.parametrize("asker", ASKERS)
def test_a_plain_function_is_a_denoiser(asker) -> None:
    table = Inconsistent(3, 2, 3, seed=4)

    def function(tokens, classes):
        return table(tokens, classes)

    for a, b in zip(numbers(ASKERS[asker](FunctionDenoiser(function, 3, 2, 3))), numbers(ASKERS[asker](table))):
        assert torch.equal(a, b)


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("labels", [[2, 0, 1, 2, 2, 0], [1] * 6])
def test_labels_are_asked_for_their_rows_in_their_order(labels, waits, monkeypatch) -> None:
    monkeypatch.setattr("mdlm_cfg.chain.denoiser.is_on_cpu", lambda values: waits)
    tokens = torch.arange(12).view(6, 2)
    values = torch.tensor([100.0, 200.0])
    found = by_label(tokens, torch.tensor(labels), 3, lambda rows, k: rows[:, :, None] + values * k)
    assert found.tolist() == [[[t + 100 * k, t + 200 * k] for t in row] for row, k in zip(tokens.tolist(), labels)]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sample_with_nowhere_to_go_is_refused(sampler) -> None:
    # under class 0 the state (0, mask) is followed by what the class cannot be: its support and the row do not meet
    def answer(tokens, classes):
        rows = torch.full((*tokens.shape, 2), 0.5, dtype=torch.float64)
        rows[:, 1] = torch.where((classes == 0)[:, None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
        return rows.log()

    steps = 1 if sampler in WITH_STEPS else None
    denoiser = FunctionDenoiser(answer, 2, 2, 1)
    with pytest.raises(UserError, match=f"20 of 20 .*{sampler}"):
        sample(denoiser, Guidance(-0.5), 0, 20, sampler, steps)
    with pytest.raises(UserError, match=r"w = 2 .*mask.*\): class 0 "):
        sample(denoiser, Guidance(2.0), 0, 20, sampler, steps)
    for law, *more in ((Sampler(sampler, steps).law,), (visit_law,), (time_to_tv, 0.05), (law_at, 0.5)):
        lost = 1 - math.exp(-0.5) if law is law_at else 1
        with pytest.raises(UserError, match=f"class 0 .* {lost:.3g}: "):
            law(denoiser, Guidance(-0.5), 0, *more)


def test_a_histogram_of_masks_is_refused() -> None:
    x = torch.tensor([[0, 1], [2, 3]])
    assert float(histogram(x, 4).sum()) == 1
    for wrong in (4, -1):
        with pytest.raises(UserError, match=f" {wrong}, .* 0 to 3"):
            histogram(torch.tensor([[0, 1], [2, wrong]]), 4)


PAIR = random_target(3, 2, seed=1)
EXACT = PAIR.denoiser()


DENOISERS: dict[str, Callable[[], Denoiser]] = {
    "table": PAIR.denoiser,
    "bernoulli": bernoulli_mixture(2).denoiser,
    "hidden Markov": rotation(2).denoiser,
    "function": lambda: FunctionDenoiser(EXACT, 3, 2, 2),
    "network": lambda: NetDenoiser(Net()),
    "slice": lambda: slice_denoiser(random_target(3, 3).denoiser(), torch.tensor([3, 1, 3])),
    "tabulated": lambda: TabulatedDenoiser(EXACT),
    "mixed": lambda: MixedDenoiser(EXACT, EXACT),
    "ideal": lambda: ideal_denoiser(PAIR, 1.0, 0),
    "stored": lambda: learned_rotation().denoiser,
}


@pytest.mark.parametrize("name", DENOISERS)
@pytest.mark.parametrize("label", [None, 0])
def test_what_is_no_partial_state_is_refused(name, label) -> None:
    denoiser = DENOISERS[name]()
    n = denoiser.num_tokens
    d = denoiser.num_dims
    k = denoiser.num_classes
    good = torch.full((3, d), n)
    good[1, 0] = n - 1
    labels = None if label is None else torch.full((3,), label)
    assert denoiser(good, labels).shape == (3, d, n)
    for token in (-1, n + 1, -(n + 1), 100):
        bad = good.clone()
        bad[2, d - 1] = token
        with pytest.raises(UserError) as caught:
            denoiser(bad, labels)
        assert str(token) in str(caught.value) and str(d) in str(caught.value)
    for shape in ((3, d + 1), (d,)):
        with pytest.raises(UserError):
            denoiser(torch.full(shape, n), labels)
    for wrong in (-1, k + 1):
        with pytest.raises(UserError) as caught:
            denoiser(good, torch.tensor([0, wrong, 0]))
        assert str(wrong) in str(caught.value)


def off_by(excess: float, dtype: torch.dtype) -> FunctionDenoiser:
    """The exact conditionals, with rows that sum to 1 + excess, in a type."""
    return FunctionDenoiser(lambda tokens, classes: (EXACT(tokens, classes) + math.log1p(excess)).to(dtype), 3, 2, 2)


TYPES = {torch.float64: 1e-6, torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rows_are_normalised_again_or_refused(dtype) -> None:
    state = torch.tensor([[3, 3], [1, 3]])
    for sign in (-1, 1):
        found = conditionals(off_by(sign * 0.3 * TYPES[dtype], dtype), state, 0)
        masked = found[state == 3]
        assert float(masked.logsumexp(dim=-1).abs().max()) < 1e-15 * 10
        with pytest.raises(UserError) as caught:
            conditionals(off_by(sign * 3 * TYPES[dtype], dtype), state, 0)
        assert "coordinate 1" in str(caught.value) and "(mask, mask)" in str(caught.value)


@pytest.mark.parametrize("excess", [-9e-7, -1e-9, 0.0, 1e-9, 9e-7])
def test_no_likelihood_falls_below_the_entropy(excess) -> None:
    found = exact_likelihood(PAIR, off_by(excess, torch.float64), 0)
    pmf = PAIR.class_pmf(0)
    entropy = -float(torch.special.xlogy(pmf, pmf).sum())
    for value in (found.nll, found.nelbo):
        assert value > entropy - 1e-12
    law = terminal_law(off_by(excess, torch.float64), Guidance(3.0), 0)
    assert float((law - terminal_law(EXACT, Guidance(3.0), 0)).abs().max()) < 1e-13


def counting(step: float):
    """Something that adds to every other logit what depends on the number of calls."""
    calls = iter(range(10_000))
    return lambda logits: logits * (1 + step * (next(calls) % 2))


UNSTEADY = {
    "random": lambda: FunctionDenoiser(Net(lambda logits: logits + torch.randn_like(logits)), 3, 2, 3),
    "dropout": lambda: NetDenoiser(Net(lambda logits: nn.functional.dropout(logits, 0.5))),
    "calls": lambda: FunctionDenoiser(Net(counting(0.5)), 3, 2, 3),
    "rows of a call": lambda: NetDenoiser(Net(lambda logits: logits - logits.mean(dim=0))),
    "first row of a call": lambda: FunctionDenoiser(Net(lambda logits: logits * logits[:1, :1, :1]), 3, 2, 3),
}


@pytest.mark.parametrize("name", UNSTEADY)
def test_answers_by_anything_else_than_state_and_class_are_refused(name) -> None:
    with pytest.raises(UserError):
        check_steady(UNSTEADY[name]())


@pytest.mark.parametrize("asked", [lambda: FunctionDenoiser(Net(), 3, 2, 3), lambda: NetDenoiser(Net(), bf16=True)])
def test_answers_by_state_and_class_are_taken(asked) -> None:
    check_steady(asked())
    for make in DENOISERS.values():
        check_steady(make())


def test_labels_at_once_are_answered_as_one_by_one() -> None:
    class Other(NetDenoiser):
        def of_labels(self, tokens, labels):
            return super().of_labels(tokens, [0] * len(labels))

    check_steady(NetDenoiser(Net()))
    with pytest.raises(UserError):
        check_steady(Other(Net()))


def test_a_module_is_asked_in_evaluation_mode_and_left_in_its_own() -> None:
    tokens = torch.tensor([[3, 1], [3, 3]])
    module = Net()
    wanted = module.eval()(tokens, torch.tensor([0, 2]))
    for mode in (True, False):
        module.train(mode)
        denoiser = FunctionDenoiser(module, 3, 2, 3)
        assert torch.equal(denoiser(tokens, torch.tensor([0, 2])), wanted)
        assert module.training is mode and module.dropout.training is mode
