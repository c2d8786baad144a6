"""Hidden Markov mixtures against sums over hidden paths and the table of the same pmf (theory, section 15)."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import random_hmm

from mdlm_cfg import Guidance, sample
from mdlm_cfg.compare.likelihood import likelihood
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.verify.oracle.tables import hidden_markov_table

NEG_INF = float("-inf")


@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_its_table_is_the_sum_over_hidden_paths(zeros):
    target = random_hmm(k=2, s=2, n=3, d=3, seed=1, zeros=zeros)
    for k, pmf in enumerate(target.table().class_pmfs):
        parts = (part[k].numpy() for part in (target.initial, target.transition, target.emission))
        assert (pmf - torch.from_numpy(hidden_markov_table(*parts, 3))).abs().max() < 1e-14


def test_likelihoods_and_posteriors_of_whole_and_partial_sequences():
    target = random_hmm(k=3, s=2, n=2, d=4, seed=2)
    table = target.table()
    x = torch.cartesian_prod(*[torch.arange(2)] * 4)
    for k in range(3):
        assert torch.allclose(target.log_prob(x, k).exp(), table.class_pmfs[k].flatten(), atol=1e-14)
    assert torch.allclose(target.log_prob(x).exp(), table.pmf.flatten(), atol=1e-14)
    joint = (table.class_weights[:, None] * table.class_pmfs.flatten(1)).T
    assert torch.allclose(target.class_posterior(x), joint / joint.sum(1, keepdim=True), atol=1e-13)
    each = target.log_prob(x, torch.arange(16) % 4)
    assert torch.allclose(each[3::4], target.log_prob(x)[3::4]) and torch.allclose(
        each[1::4], target.log_prob(x, 1)[1::4]
    )
    partial = torch.tensor([[2, 1, 2, 0]])
    assert float(target.log_prob(partial, 1).exp()) == pytest.approx(float(table.class_pmfs[1][:, 1, :, 0].sum()))


def test_long_sequences_stay_finite_and_coherent():
    target = random_hmm(k=2, s=16, n=27, d=128, seed=4)
    x, _ = target.sample(6, torch.Generator().manual_seed(1), 1)
    along = likelihood(target.denoiser(), x, 1, orders=2, generator=torch.Generator().manual_seed(2)).log_probs
    assert (along - target.log_prob(x, 1)[:, None]).abs().max() < 1e-9  # any order of conditionals is the joint
    assert float(target.log_prob(x, 1).max()) < -200
    drawn = sample(target.denoiser(), Guidance(1.0), 1, 8, "event_leaping", 4, policy="confidence")
    assert drawn.shape == (8, 128) and bool(target.class_posterior(drawn).isfinite().all())


def test_a_class_that_is_all_but_excluded_keeps_the_values_that_only_it_allows():
    # 200 zeros are 1e-400 times less probable under class 1, which alone allows the value 2
    emission = torch.tensor([[[0.99, 0.01, 0.0]], [[0.0099, 0.5, 0.4901]]], dtype=torch.float64)
    target = HiddenMarkovMixture(
        torch.ones(2, 1), torch.ones(2, 1, 1), emission, torch.tensor([0.5, 0.5]), num_dims=201
    )
    tokens = torch.zeros(1, 201, dtype=torch.int64)
    tokens[0, 100] = 3
    out = target.denoiser()(tokens, None)[0, 100]
    expected = 200 * math.log(0.0099 / 0.99) + math.log(0.4901)
    assert float(out[2]) == pytest.approx(expected, rel=1e-12) and float(out[0].exp()) == pytest.approx(0.99)


def test_tables_are_checked():
    good = {
        "initial": torch.tensor([[0.5, 0.5]]),
        "transition": torch.full((1, 2, 2), 0.5),
        "emission": torch.full((1, 2, 4), 0.25),
        "class_weights": torch.ones(1),
    }
    HiddenMarkovMixture(**good, num_dims=2)
    for name, value, message in (
        ("num_dims", 0, "num_dims = 0 "),
        ("initial", torch.tensor([[0.5, 0.6]]), r"initial\[0\] .* 1\.1 "),
        ("transition", torch.full((1, 2, 3), 1 / 3), r"transition .*\(1, 2, 2\).*\(1, 2, 3\)"),
        ("emission", torch.full((2, 4), 0.25), r"emission .*\(K, S, N\).*\(2, 4\)"),
        ("class_weights", torch.tensor([-1.0]), "class_weights .* -1: "),
    ):
        with pytest.raises(ValueError, match=message):
            HiddenMarkovMixture(**{**good, "num_dims": 2, name: value})
    with pytest.raises(ValueError, match=r" 4\^30 "):
        HiddenMarkovMixture(**good, num_dims=30).table()
    assert random_hmm(seed=1).fingerprint() != random_hmm(seed=2).fingerprint()


def test_copies_of_a_batch_under_several_labels_are_answered_as_each_label_alone():
    target = random_hmm(k=3, s=2, n=2, d=5, seed=6, zeros=0.4)
    states = torch.cartesian_prod(*[torch.arange(3)] * 5)
    ask = target.denoiser()
    for labels in ([1, 3], [3, 0], [2, 0, 3, 1], [0, 2], [1, 1], [0, 1, 0]):
        classes = torch.tensor(labels).repeat_interleave(len(states))
        together = ask(states.repeat(len(labels), 1), classes).exp().chunk(len(labels))
        for k, found in zip(labels, together):
            table = target.table().denoiser()(states, torch.full((len(states),), k)).exp()
            assert (found - table).abs().max() < 1e-12


@pytest.mark.parametrize("rare", [1e-3, 1e-40, 1e-200])
def test_values_of_any_rareness_in_a_row_do_not_underflow(rare):
    emission = torch.tensor([[[1 - rare, rare], [1 - 2 * rare, 2 * rare]]], dtype=torch.float64)
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    target = HiddenMarkovMixture(half, half.expand(1, 2, 2), emission, torch.ones(1), num_dims=60)
    x = torch.ones(1, 60, dtype=torch.int64)
    assert float(target.log_prob(x)[0]) == pytest.approx(60 * math.log(1.5 * rare), rel=1e-12)
    x[0, 30] = 2
    assert float(target.denoiser()(x, None)[0, 30, 1]) == pytest.approx(math.log(1.5 * rare), rel=1e-12)


def test_a_hidden_state_that_fades_is_still_there_when_only_it_is_left() -> None:
    """Two hidden states that never change: each letter says 99 to 1 that it is the first, and one that it is not."""
    length = 400
    emission = torch.tensor([[[0.99, 0.01, 0.0], [0.01, 0.98, 0.01]]], dtype=torch.float64)
    stay = torch.eye(2, dtype=torch.float64)[None]
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    for letters in ((0, 2), (2, 0)):  # the last letter, and the first
        target = HiddenMarkovMixture(half, stay, emission, torch.ones(1), num_dims=length)
        x = torch.zeros(1, length, dtype=torch.int64)
        x[0, 0], x[0, -1] = letters
        assert float(target.log_prob(x)[0]) == pytest.approx(math.log(0.5) + length * math.log(0.01), rel=1e-12)
        x[0, length // 2] = 3
        found = target.denoiser()(x, None)[0, length // 2].exp()
        assert found.tolist() == pytest.approx([0.01, 0.98, 0.01], rel=1e-12)


@pytest.mark.parametrize("rarest", [0, 30, 150, 300])
def test_conditionals_have_finite_logarithms_however_rare_a_value_is(rarest: int) -> None:
    """Against the sum over all sequences and hidden paths, in logarithms; numbers down to 10^-rarest, and zeros."""
    k, s, n, d = 2, 2, 2, 3
    generator = torch.Generator().manual_seed(rarest)

    def law(*shape: int) -> torch.Tensor:
        rows = 10 ** (-rarest * torch.rand(*shape, generator=generator, dtype=torch.float64))
        rows[torch.rand(*shape, generator=generator) < 0.2] = 0.0
        rows[..., 0] += rows.sum(dim=-1) == 0
        return rows / rows.sum(dim=-1, keepdim=True)

    x = torch.cartesian_prod(*[torch.arange(n)] * d)
    for _ in range(4):
        target = HiddenMarkovMixture(law(k, s), law(k, s, s), law(k, s, n), law(k), num_dims=d)
        joint = []
        for path in torch.cartesian_prod(*[torch.arange(s)] * d).tolist():
            log_path = target.initial[:, path[0]].log()
            for i in range(d - 1):
                log_path = log_path + target.transition[:, path[i], path[i + 1]].log()
            seen = sum(target.emission[:, path[i], x[:, i]].log() for i in range(d))
            joint.append(log_path[:, None] + seen)
        of_class = torch.stack(joint).logsumexp(dim=0)
        whole = (target.class_weights.log()[:, None] + of_class).logsumexp(dim=0)
        states = torch.cartesian_prod(*[torch.arange(n + 1)] * d)
        agrees = ((states[:, None] == n) | (states[:, None] == x)).all(dim=2)  # (states, sequences)
        for label, log_p in enumerate((*of_class, whole)):
            possible = agrees & (log_p > NEG_INF)
            found = target.denoiser()(states, torch.full((len(states),), label))
            for i in range(d):
                asked = (states[:, i] == n) & possible.any(dim=1)
                for v in range(n):
                    with_v = torch.where(possible & (x[:, i] == v), log_p, NEG_INF).logsumexp(dim=1)
                    expected = with_v - torch.where(possible, log_p, NEG_INF).logsumexp(dim=1)
                    assert found[asked, i, v].tolist() == pytest.approx(expected[asked].tolist(), rel=1e-12, abs=1e-12)


def test_what_only_a_rare_class_and_its_rare_hidden_state_allow_is_exact_to_the_last_digit() -> None:
    """A posterior of 1e-240 times a hidden state of 1e-80 is a number that float64 holds with few digits."""
    emission = torch.tensor([[[0.9, 0.1, 0.0]] * 2, [[0.009, 0.991, 0.0], [0.009, 0.99, 0.001]]], dtype=torch.float64)
    initial = torch.tensor([[0.5, 0.5], [1 - 1e-80, 1e-80]], dtype=torch.float64)
    stay = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    target = HiddenMarkovMixture(initial, stay, emission, torch.full((2,), 0.5), num_dims=121)
    x = torch.zeros(1, 121, dtype=torch.int64)
    x[0, 60] = 3
    expected = 120 * math.log(0.01) + math.log(1e-80 * 0.001)
    assert float(target.denoiser()(x, None)[0, 60, 2]) == pytest.approx(expected, rel=1e-12)
    x[0, 60] = 2
    assert float(target.log_prob(x, 1)[0]) == pytest.approx(expected + 120 * math.log(0.9), rel=1e-12)
