"""Samplers and laws stay on the denoiser's device, and wait for it once, at the end: shown on a device without numbers.

Mixed devices raise, and so does all that would wait: .item(), bool(tensor), boolean indexing. The one place that may
wait, `mdlm_cfg.chain.checks.read`, is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import random_target
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mdlm_cfg import (
    Correction,
    FunctionDenoiser,
    Guidance,
    Sampler,
    law_at,
    sample,
    slice_denoiser,
    stepped_law,
    terminal_law,
)
from mdlm_cfg.chain import checks
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG
from mdlm_cfg.chain.blocks import blocks_of
from mdlm_cfg.chain.corrections import SCANS
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import LinearRamp
from mdlm_cfg.chain.lattice import lattice_of
from mdlm_cfg.chain.masking import copy_unmasked
from mdlm_cfg.chain.policies import Blocks, Confidence, FixedOrder
from mdlm_cfg.chain.product_rules import Negative
from mdlm_cfg.compare import metrics
from mdlm_cfg.compare.metrics import histogram, kl_divergence, mean_and_covariance, relative_difference, total_variation
from mdlm_cfg.laws import weights
from mdlm_cfg.laws.push import visit_law
from mdlm_cfg.laws.tabulated import TabulatedDenoiser
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.nets import GridTransformer, NetDenoiser
from mdlm_cfg.sampling import sampler as sampler_room, sequential_monte_carlo
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import Marginals, TableDenoiser
from mdlm_cfg.training.watching import moments

aten = torch.ops.aten
N = 2
D = 3
K = 2
Z = 1
GPU = torch.device("meta")  # shapes and types without numbers
DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
MOVES = {aten._to_copy.default, aten.copy_.default}  # operations between devices
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
CACHES = lattice_of, blocks_of, checks.constant_on
GUIDANCES = {
    "rate": Guidance(2.0),
    "normalized": Guidance(2.0, "normalized"),
    "ramp": Guidance(LinearRamp(0.0, 3.0)),
    "sharp": Guidance(2.0, temperature=0.7, top_p=0.9),
    "class": Guidance(0.0),
    "negative": Guidance(2.0, rule=Negative(0)),
    "a_cfg": Guidance(LinearRamp(0.0, 3.0), rule=AdaptiveCFG(k=1)),
}
POLICIES = {
    "own": None,
    "rate": "rate",
    "uniform": "uniform",
    "order": FixedOrder((2, 0, 1)),
    "margin": "margin",
    "blocks": Blocks([[0, 2], [1]], "confidence"),
    "gumbel": Confidence(0.5),
    "entropy": "entropy",
}
SAMPLERS = {
    "first": Sampler(),
    "tau": Sampler("tau_leaping", 3),
    "euler": Sampler("euler", 3),
    "d_cfg": Sampler("d_cfg", 3),
    "event": Sampler("event_leaping", 2),
    "two": Sampler("event_leaping", events=2, policy="margin"),
    "confident": Sampler("sampled_confidence", events=2),
    "blocks": Sampler("sampled_confidence", events=1, policy="blocks(0,2|1)", choice_temperature=1.0),
    "remdm": Sampler("remdm", 3),
}
ADAPTIVE = {name: Sampler(name) for name in ("threshold", "factor", "entropy_bound")}
CORRECTIONS = [
    *(Correction(2, 2, accept, scan) for accept in (False, True) for scan in SCANS),
    Correction(2, parallel=True),
]


class Waits:
    """How often something was read on the host."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, numbers: Tensor) -> list[bool]:
        assert numbers.device == GPU
        self.count += 1
        return [False] * len(numbers)


class Elsewhere(TorchDispatchMode):
    """Raises for every operation that a GPU would refuse, or at which the host would wait for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = list(tensors_in((*args, *kwargs.values())))
        devices = {one.device for one in tensors if one.dim() or one.device == GPU}  # a number may be on the host
        if len(devices) > 1 and func not in MOVES:
            raise RuntimeError(f"{func} of tensors on more than one device")
        if GPU in devices and waits_for(func, args, kwargs):
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **kwargs)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def waits_for(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether what comes out, or its shape, depends on the numbers in tensors."""
    if func in INDEXED:
        return any(one is not None and one.dtype in (torch.bool, torch.uint8) for one in args[1])
    if func == aten.repeat_interleave.Tensor:
        return kwargs.get("output_size") is None
    return not DEPENDENT.isdisjoint(func.tags)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    counted = Waits()
    for room in (checks, weights, sampler_room, __import__("mdlm_cfg.sampling.smc", fromlist=["read"])):
        monkeypatch.setattr(room, "read", counted)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)  # it knows true devices
    for cache in CACHES:
        cache.cache_clear()
    with Elsewhere():
        yield counted
    for cache in CACHES:  # they hold tensors without numbers
        cache.cache_clear()


def plain() -> Denoiser:
    """Any function."""

    def answer(tokens: Tensor, classes: Tensor | None) -> Tensor:
        assert tokens.device == GPU and classes is not None and classes.device == GPU
        log_probs = torch.zeros(*tokens.shape, N, dtype=torch.float64, device=tokens.device).log_softmax(dim=-1)
        return copy_unmasked(log_probs, tokens)

    return FunctionDenoiser(answer, N, D, K, GPU)


def network() -> Denoiser:
    with GPU:
        return NetDenoiser(GridTransformer(N, (D,), K, width=8, depth=1, num_heads=1))


def tabulated() -> Denoiser:
    return TabulatedDenoiser(plain(), device=GPU)


def inpainting() -> Denoiser:
    """The last three of four coordinates are free."""

    def answer(tokens: Tensor, classes: Tensor | None) -> Tensor:
        return copy_unmasked(torch.zeros(*tokens.shape, N, device=tokens.device).double().log_softmax(-1), tokens)

    part = slice_denoiser(FunctionDenoiser(answer, N, D + 1, K), torch.tensor([0, N, N, N]))
    part.state = part.state.to(GPU)
    part.free = part.free.to(GPU)
    part.device = GPU
    return part


def table() -> Denoiser:
    """A table's exact denoiser, its marginals taken beforehand."""
    made = random_target(N, D, K, seed=2).denoiser()
    for k in (None, Z):
        made.log_marginals(k), made.marginals_in_blocks(k)
    made(torch.full((3, D), N), torch.arange(3))
    made.device = GPU
    made.lattice = lattice_of(N, D, GPU)
    made._dense = {k: values.to(GPU) for k, values in made._dense.items()}
    made._log_marginals = {k: [level.to(GPU) for level in levels] for k, levels in made._log_marginals.items()}
    made._in_blocks = {k: _placed(found) for k, found in made._in_blocks.items()}
    return made


def _placed(found: Marginals) -> Marginals:
    uncond = None if found.uncond is None else found.uncond.to(GPU)
    return replace(found, blocks=blocks_of(N, D, GPU), cond=found.cond.to(GPU), uncond=uncond)


DENOISERS = {"plain": plain, "network": network, "tabulated": tabulated, "slice": inpainting, "table": table}


PAIRS = [*((one, "rate") for one in DENOISERS), *((one, name) for one in ("plain", "table") for name in GUIDANCES)]


@pytest.mark.parametrize(("made", "name"), sorted(set(PAIRS)))
def test_laws(waits: Waits, made: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = DENOISERS[made]()
    guidance = GUIDANCES[name]
    laws = [terminal_law(denoiser, guidance, Z), visit_law(denoiser, guidance, None)[-1]]
    if name in ("rate", "normalized"):  # time knows nothing of guidance but the rates, which every law takes
        laws.append(law_at(denoiser, guidance, Z, [0.0, 0.5, float("inf")]))
    assert {law.device for law in laws} == {GPU}
    assert waits.count == len(laws)


@pytest.mark.parametrize("name", [name for name, one in SAMPLERS.items() if not one.exact_in_time])
def test_laws_of_steps(waits: Waits, name: str) -> None:
    assert stepped_law(plain(), GUIDANCES["rate"], Z, SAMPLERS[name]).device == GPU
    assert waits.count == 1


@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_samplers(waits: Waits, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They look once a step whether anything is masked: how many calls there are is known from nothing else."""
    sampler = ADAPTIVE[name]
    assert sampler.law(plain(), GUIDANCES["rate"], Z).device == GPU and waits.count == 1
    still = iter([True, True, False])
    monkeypatch.setattr(sampler_room, "read", lambda numbers: [next(still)])
    assert sampler.draw(plain(), GUIDANCES["rate"], Z, 7).device == GPU and waits.count == 2 and not list(still)


@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
def test_corrections(waits: Waits, correction: Correction) -> None:
    sampler = Sampler(correction=correction)
    assert sampler.draw(plain(), GUIDANCES["rate"], Z, 7).device == GPU and waits.count == 1
    assert sampler.law(plain(), GUIDANCES["rate"], Z).device == GPU and waits.count == 2


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_policies(waits: Waits, policy: Any) -> None:
    denoiser = plain()
    assert terminal_law(denoiser, GUIDANCES["rate"], Z, policy).device == GPU
    for name in ("first_hitting", "event_leaping"):
        made = Sampler(name, None if name == "first_hitting" else 2, policy=policy)
        assert sample(denoiser, GUIDANCES["rate"], Z, 5, sampler=made).device == GPU
    assert sequential_monte_carlo(denoiser, GUIDANCES["rate"], Z, 20, policy=policy).x.device == GPU
    assert waits.count == 3 + 2  # what resampling did is read too


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_samplers(waits: Waits, sampler: Sampler) -> None:
    for count, denoiser in enumerate((table(), plain())):
        x = sampler.draw(denoiser, GUIDANCES["rate"], Z, 7, on_step=lambda x: None)
        assert x.device == GPU and x.shape == (7, D) and x.dtype == torch.int64
        assert waits.count == count + 1


@pytest.mark.parametrize("guidance", GUIDANCES.values(), ids=GUIDANCES)
def test_guidances_are_drawn_with(waits: Waits, guidance: Guidance) -> None:
    for count, name in enumerate(("tau", "event", "confident")):
        assert SAMPLERS[name].draw(plain(), guidance, Z, 7).device == GPU and waits.count == count + 1


@pytest.mark.parametrize("make", DENOISERS.values(), ids=DENOISERS)
def test_denoisers_are_drawn_from(waits: Waits, make: Callable[[], Denoiser]) -> None:
    assert Sampler("event_leaping", 2).draw(make(), GUIDANCES["rate"], Z, 7).device == GPU and waits.count == 1


def test_metrics(waits: Waits, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = torch.zeros(2, 5, device=GPU)
    assert moments(draws.double()).device == GPU and waits.count == 0
    asked: list[torch.device] = []
    monkeypatch.setattr(metrics, "float", lambda number: asked.append(number.device) or 0.5, raising=False)
    p, q = (torch.rand(N, N, N, dtype=torch.float64, device=GPU) for _ in range(2))
    total_variation(p, q), kl_divergence(p, q), relative_difference(p[0], q[0]), relative_difference(p[0, 0], q[0, 0])
    total_variation(p, torch.rand(N, N, N, dtype=torch.float64))  # a law that is elsewhere
    assert asked == [GPU] * 6
    assert {moment.device for moment in mean_and_covariance(p)} == {GPU} and len(asked) == 6
    x = torch.zeros(7, D, dtype=torch.int64, device=GPU)
    assert {histogram(x, N).device, histogram(x, N, torch.rand(7, device=GPU)).device} == {GPU} and waits.count == 2


def test_weights_of_paths(waits: Waits) -> None:
    found = tilted_weights(plain(), GUIDANCES["rate"], Z, "margin")
    assert found.law.device == GPU and waits.count == 2


@pytest.mark.parametrize(
    "fault",
    [
        lambda x: bool((x >= 0).all()),
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x >= 0],
        lambda x: x.masked_select(x >= 0),
        lambda x: x.index_put_((x >= 0,), x.flatten()),
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: x.flatten().bincount(),
        lambda x: x.flatten().repeat_interleave(x.flatten()),
        lambda x: torch.equal(x, x),
        lambda x: range(x.sum()),
        lambda x: x + torch.ones(D, dtype=torch.int64),
        lambda x: torch.where(x >= 0, x, torch.ones(D, dtype=torch.int64)),
        lambda x: torch.zeros(9, device=GPU)[torch.arange(3)],
        lambda x: torch.zeros(9)[x],
        lambda x: torch.zeros(9).gather(0, x.flatten()),
        lambda x: torch.cat([x, torch.zeros(1, D, dtype=torch.int64)]),
    ],
)
def test_the_test_can_fail(waits: Waits, fault: Callable[[Tensor], Any]) -> None:
    def wrong(tokens: Tensor, classes: Tensor | None) -> Tensor:
        fault(tokens)
        raise AssertionError("nothing was found")

    with pytest.raises((RuntimeError, NotImplementedError)):
        sample(FunctionDenoiser(wrong, N, D, K, GPU), Guidance(1.0), Z, 5)


def wrong_at(step: int) -> Denoiser:
    """Answers NaN at one of its calls."""
    calls = iter(range(100))

    def answer(tokens: Tensor, classes: Tensor | None) -> Tensor:
        share = float("nan") if next(calls) == step else 0.0
        return copy_unmasked((torch.zeros(*tokens.shape, N).double() + share).log_softmax(-1), tokens)

    return FunctionDenoiser(answer, N, D, K)


def test_what_is_found_on_the_way_is_said_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with true numbers that are checked as an accelerator's are."""
    monkeypatch.setattr(checks, "is_on_cpu", lambda values: False)
    reads: list[int] = []
    read = checks.read
    monkeypatch.setattr(checks, "read", lambda flags: reads.append(len(flags)) or read(flags))
    assert sample(wrong_at(99), Guidance(1.0), Z, 5, generator=torch.Generator().manual_seed(0)).shape == (5, D)
    assert len(reads) == 1 and reads[0] > D
    for step in (0, D - 1):
        with pytest.raises(UserError, match=r"NaN .*\d .*\(.*mask.*\) .*class 1\b"):
            sample(wrong_at(step), Guidance(1.0), Z, 5, generator=torch.Generator().manual_seed(0))
    assert len(reads) == 3
    with pytest.raises(UserError, match="NaN"):
        terminal_law(wrong_at(1), Guidance(1.0), Z)
    with pytest.raises(UserError, match=r"w = 1 .*\(.*mask.*\).*class 1\b"):
        terminal_law(impossible(), Guidance(1.0), Z)


def impossible() -> Denoiser:
    """A class that has probability where the mixture has none."""
    target = random_target(N, D, K, seed=1)
    target.class_pmfs[0] = 0.0
    target.class_pmfs[0].view(-1)[0] = 1.0
    target.class_weights = torch.tensor([1.0, 0.0], dtype=torch.float64)
    return TableDenoiser(target)
