"""What every correction promises: draws follow laws, and what is labelled invariant is (theory, section 19)."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from helpers import Inconsistent, chi_square_p_value, random_target

from mdlm_cfg import (
    Correction,
    Guidance,
    Sampler,
    TableMixture,
    UserError,
    slice_denoiser,
    stationary_law,
    terminal_law,
    tilted_law,
)
from mdlm_cfg.chain.corrections import SCANS, parse_correction
from mdlm_cfg.chain.guidance import LinearRamp
from mdlm_cfg.chain.lattice import points_at
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.corrections import correction_kernel
from mdlm_cfg.laws.stationary import NotSettled, spectral_gap
from mdlm_cfg.support.seeds import generator_for

POLICIES = (None, "rate", "uniform", "confidence", "entropy", "fixed_order(2,0,1)")
CORRECTIONS = [
    *(Correction(size, accept=accept, scan=scan) for size, accept, scan in product((1, 2, 3), (False, True), SCANS)),
    *(Correction(size, scan=scan, parallel=True) for size, scan in product((1, 2), SCANS)),
    *(Correction(2, accept=accept, policy=policy) for accept, policy in product((False, True), POLICIES[1:])),
]
DENOISERS = {
    "zeros": lambda: random_target(3, 3, 3, seed=12, zeros=0.4).denoiser(),
    "incoherent": lambda: Inconsistent(3, 3, 3, seed=2),
}


def wrong_start() -> torch.Tensor:
    """A law on {0, 1, 2}^3 that no chain has."""
    law = torch.rand(27, generator=generator_for("wrong start"), dtype=torch.float64) ** 4
    return (law / law.sum()).view(3, 3, 3)


def peaked_target() -> TableMixture:
    """Two classes on {0, 1}^8 whose likely states are few, with unlikely ones between them."""
    pmfs = torch.rand(2, 2**8, generator=generator_for("peaked", 3), dtype=torch.float64) ** 30
    return TableMixture((pmfs / pmfs.sum(dim=1, keepdim=True)).view(2, *[2] * 8), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
@pytest.mark.parametrize(("make", "kind"), [("zeros", "rate"), ("incoherent", "normalized")])
def test_its_draws_follow_its_law(correction: Correction, make: str, kind: str) -> None:
    # from a law with mass where the class has none: there the present values are impossible
    denoiser = DENOISERS[make]()
    guidance = Guidance(1.5, kind)
    start = wrong_start()
    generator = generator_for("correction", str(correction), make, kind)
    flat = torch.multinomial(start.flatten(), 6000, replacement=True, generator=generator)
    x = flat[:, None] // torch.tensor([9, 3, 1]) % 3
    law = start
    kernel = correction_kernel(denoiser, guidance, 1, correction)
    for number in range(2):
        law = kernel.move(law, number)
    assert float(law.sum()) == pytest.approx(1, abs=1e-12) and float(law.min()) >= -1e-16
    two = Correction(correction.size, 2, correction.accept, correction.scan, correction.policy, correction.parallel)
    assert chi_square_p_value(two.draw(denoiser, guidance, 1, x, generator=generator), law) > 1e-4


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_weights_of_paths_may_span_more_than_float64(kind: str) -> None:
    # under a policy that does not look at Z, what weighs next to nothing is proposed all the same
    pmfs = (-40 * torch.rand(2, 8, generator=generator_for("span", 5), dtype=torch.float64)).softmax(dim=1)
    target = TableMixture(pmfs.view(2, 2, 2, 2), torch.tensor([0.7, 0.3]))
    guidance = Guidance(40.0, kind)
    correction = Correction(3, accept=True, policy="uniform")
    kernel = correction_kernel(target.denoiser(), guidance, 0, correction)
    tilted = tilted_law(target, 40.0, 0)
    assert total_variation(kernel.move(tilted, 0), tilted) < 1e-10
    generator = generator_for("draws", kind)
    for state in points_at(torch.arange(8), 2, 3):  # also where the present values are rarer than float64 holds
        start = torch.zeros_like(tilted)
        start[tuple(state)] = 1
        drawn = correction.draw(target.denoiser(), guidance, 0, state.expand(2000, 3), generator=generator)
        assert chi_square_p_value(drawn, kernel.move(start, 0)) > 1e-4


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2)], ids=str)
@pytest.mark.parametrize("policy", POLICIES)
def test_the_tilted_law_stays_with_accept(shape: tuple[int, int], policy: str | None) -> None:
    n, d = shape
    policy = "fixed_order(1,0)" if policy and d == 2 and "order" in policy else policy
    policy = "fixed_order(3,0,2,1)" if policy and d == 4 and "order" in policy else policy
    for w, kind in ((0.5, "normalized"), (3.0, "rate")):
        target = random_target(n, d, 3, seed=d)
        tilted = tilted_law(target, w, 1)
        for size, scan in product(range(1, d + 1), ("random", "sequential")):
            correction = Correction(size, accept=True, scan=scan, policy=policy)
            kernel = correction_kernel(target.denoiser(), Guidance(w, kind), 1, correction)
            assert float((kernel.sweep(tilted) - tilted).abs().max()) < 1e-12
            assert correction.is_invariant


@pytest.mark.parametrize("kind", ["rate", "normalized"])
def test_one_coordinate_at_a_time_is_gibbs_sampling_of_the_tilted_law(kind: str) -> None:
    target = random_target(3, 3, 2, seed=3)
    w = 2.0
    tilted = tilted_law(target, w, 0)
    start = wrong_start()
    gibbs = sum(start.sum(dim=i, keepdim=True) * tilted / tilted.sum(dim=i, keepdim=True) for i in range(3)) / 3
    for accept in (False, True):
        kernel = correction_kernel(target.denoiser(), Guidance(w, kind), 0, Correction(accept=accept))
        assert float((kernel.move(start) - gibbs).abs().max()) < 1e-14


def test_all_coordinates_at_once_are_the_chain_again() -> None:
    for make in DENOISERS.values():
        own = terminal_law(make(), Guidance(2.0), 1)
        kernel = correction_kernel(make(), Guidance(2.0), 1, Correction(3))
        assert float((kernel.move(wrong_start()) - own).abs().max()) < 1e-14


@pytest.mark.parametrize("correction", [one for one in CORRECTIONS if one.policy is None], ids=str)
def test_what_is_labelled_invariant_is_and_nothing_else(correction: Correction) -> None:
    target = random_target(3, 3, 2, seed=9)
    kernel = correction_kernel(target.denoiser(), Guidance(2.5), 0, correction)
    tilted = tilted_law(target, 2.5, 0)
    moved = total_variation(kernel.sweep(tilted), tilted)
    if correction.size == 3 and correction.accept:  # of three: no choice is left to a scan
        assert moved < 1e-12
    else:
        assert moved < 1e-12 if correction.is_invariant else moved > 1e-4
    said = [one.label.removeprefix(str(one)) for one in (correction, Correction(size=1))]
    assert (said[0] == said[1]) == correction.is_invariant


@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
def test_where_it_ends_stays(correction: Correction) -> None:
    denoiser = DENOISERS["incoherent"]()
    guidance = Guidance(1.0)
    kernel = correction_kernel(denoiser, guidance, 1, correction)
    law = stationary_law(denoiser, guidance, 1, correction)
    assert float(law.sum()) == pytest.approx(1) and total_variation(kernel.sweep(law), law) < 1e-14
    matrix = torch.stack([kernel.sweep(one.view(3, 3, 3)).flatten() for one in torch.eye(27, dtype=torch.float64)])
    second = torch.linalg.eigvals(matrix).abs().sort(descending=True).values[1]
    assert spectral_gap(denoiser, guidance, 1, correction) == pytest.approx(1 - float(second), abs=1e-7)


def test_moves_that_begin_anew_have_settled_whatever_rounding_leaves_of_their_mass() -> None:
    """Of strong guidance a law sums to 1 + 1e-13 after every move: the iteration took that for a change for ever."""
    pmfs = [[[2, 19, 8], [1, 2, 7], [4, 4, 53]], [[13, 10, 0], [0, 0, 2], [5, 37, 33]]]
    target = TableMixture(torch.tensor(pmfs, dtype=torch.float64) / 100, torch.tensor([0.1, 0.9]).double())
    law = stationary_law(target.denoiser(), Guidance(1e4), 0, Correction(2))
    assert total_variation(law, terminal_law(target.denoiser(), Guidance(1e4), 0)) < 1e-11


@pytest.mark.parametrize(
    "correction", [Correction(1), Correction(1, scan="sequential"), Correction(2, accept=True)], ids=str
)
def test_gaps_of_moves_that_mix_slowly(correction: Correction) -> None:
    # eigenvalues near 1 and near each other: a search among too few vectors finds none of them
    target = peaked_target()
    kernel = correction_kernel(target.denoiser(), Guidance(1.0), 0, correction)
    states = torch.eye(2**8, dtype=torch.float64).view(-1, *[2] * 8)
    matrix = torch.stack([kernel.sweep(one).flatten() for one in states])
    second = torch.linalg.eigvals(matrix).abs().sort(descending=True).values[1]
    gap = spectral_gap(target.denoiser(), Guidance(1.0), 0, correction)
    assert gap == pytest.approx(1 - float(second), rel=1e-4, abs=1e-13)


def test_a_gap_that_needs_more_vectors_is_not_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mdlm_cfg.laws.stationary.MAX_VECTORS", 60)
    with pytest.raises(NotSettled):
        spectral_gap(peaked_target().denoiser(), Guidance(1.0), 0, Correction(1))


def test_a_refill_that_cannot_end_is_undone() -> None:
    class Cut(Guidance):
        """Gives the last coordinate nowhere to go where the first is known to be 0."""

        def log_rho(self, denoiser, tokens, target_class):
            log_rho = super().log_rho(denoiser, tokens, target_class)
            gone = (tokens[:, 0] == 0)[:, None, None] & (torch.arange(3) == 2)[:, None]
            return log_rho.masked_fill(gone, -torch.inf)

    denoiser = DENOISERS["incoherent"]()
    guidance = Cut(1.0)
    start = wrong_start()
    generator = generator_for("undone")
    x = torch.multinomial(start.flatten(), 8000, replacement=True, generator=generator)[:, None]
    x = x // torch.tensor([9, 3, 1]) % 3
    for correction in (Correction(1), Correction(2), Correction(2, accept=True), Correction(2, parallel=True)):
        law = correction_kernel(denoiser, guidance, 1, correction).move(start)
        assert float(law.sum()) == pytest.approx(1, abs=1e-12)
        assert chi_square_p_value(correction.draw(denoiser, guidance, 1, x, generator=generator), law) > 1e-4


def test_only_what_was_free_is_corrected() -> None:
    denoiser = Inconsistent(3, 4, 2, seed=1)
    start = torch.tensor([3, 1, 3, 3])
    scans = (Correction(1, 3, scan="sequential"), Correction(1, 2, scan="lowest_confidence"))
    for correction in (Correction(2, 3), *scans):
        sampler = Sampler("event_leaping", events=3, correction=correction)
        x = sampler.draw(denoiser, Guidance(2.0), 1, 6000, generator_for("free", str(correction)), start=start)
        assert bool((x[:, 1] == 1).all())
        law = sampler.law(slice_denoiser(denoiser, start), Guidance(2.0), 1)
        assert chi_square_p_value(x[:, [0, 2, 3]], law) > 1e-4


@pytest.mark.parametrize(
    "correction", [*CORRECTIONS, Correction(policy="blocks(0,1|2; confidence(temperature=0.5))")], ids=str
)
def test_what_it_writes_is_read_back(correction: Correction) -> None:
    assert parse_correction(str(correction)) == correction and correction.describe()["size"] == correction.size
    assert Sampler(correction=str(correction)) == Sampler(correction=correction)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"accept": 1},
        {"accept": "yes"},
        {"parallel": None},
        {"scan": "backwards"},
        {"policy": "sure"},
        {"parallel": True, "accept": True},
        {"parallel": True, "policy": "uniform"},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UserError):
        Correction(**options)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "correct(size=1)",
        "correction",
        "correction(sizes=1)",
        "correction(size=1, size=2)",
        "correction(size=)",
        3,
        "correction(size=-1)",
        "correction(moves=1.5)",
        "correction(accept=perhaps)",
        "correction(scan=none)",
    ],
)
def test_what_cannot_be_read_is_refused(text: object) -> None:
    with pytest.raises(UserError):
        Sampler(correction=text)


def test_what_does_not_apply_is_refused() -> None:
    denoiser = DENOISERS["zeros"]()
    accepted = Correction(2, accept=True)
    for guidance in (Guidance(LinearRamp(0.0, 2.0)), Guidance(1.0, temperature=0.5)):
        for refused in (
            lambda guidance=guidance: stationary_law(denoiser, guidance, 1, accepted),
            lambda guidance=guidance: Sampler(correction=accepted).draw(denoiser, guidance, 1, 5),
            lambda guidance=guidance: Sampler(correction=accepted).law(denoiser, guidance, 1),
        ):
            with pytest.raises(UserError):
                refused()
    with pytest.raises(UserError, match=r"size 4 .* 3: .* 3$"):
        Sampler(correction=Correction(4)).draw(denoiser, Guidance(1.0), 1, 5)
    with pytest.raises(UserError, match=r"size 4 .* 3: .* 3$"):
        correction_kernel(denoiser, Guidance(1.0), 1, Correction(4))
    with pytest.raises(UserError, match=r"size 2 .* 1: .* 1$"):
        Sampler(correction=Correction(2)).draw(denoiser, Guidance(1.0), 1, 5, start=torch.tensor([0, 1, 3]))
    finished = torch.zeros(3, denoiser.num_dims, dtype=torch.int64)
    for x in (finished.double(), finished + denoiser.num_tokens, finished - 1, finished[:, :1]):
        with pytest.raises(UserError):
            Correction().draw(denoiser, Guidance(1.0), 1, x)
    with pytest.raises(UserError):
        Sampler(correction=Correction(1)).draw(denoiser, Guidance(1.0), 1, 5, start=torch.tensor([0, 1, 1]))
    with pytest.raises(UserError):
        Sampler(correction=Correction(1)).draw_weighted(denoiser, Guidance(1.0), 1, 5)
