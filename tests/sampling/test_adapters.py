"""Samplers of other libraries: small ones with their interfaces, whose laws are known, are drawn from through ours."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import block_of, chi_square_p_value, random_target
from torch import Tensor

from mdlm_cfg import Blocks, GenerateSampler, Guidance, Sampler, SchedulerSampler, UserError, benchmark
from mdlm_cfg.chain.guidance_schedules import LinearRamp
from mdlm_cfg.studies.benchmark.judge import Counted
from mdlm_cfg.studies.benchmark.targets import of_table

N = 40_000


class OneAtATime:
    """A scheduler as diffusers has them, which unmasks one random coordinate a step, and all that is left in the last.

    With as many steps as coordinates it is first-hitting sampling.
    """

    def __init__(self, mask_token_id: int) -> None:
        self.mask = mask_token_id
        self.timesteps = torch.arange(0)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        self.timesteps = torch.arange(num_inference_steps, device=device).flip(0)

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> Any:
        values = torch.multinomial(model_output.softmax(-1).flatten(0, 1), 1, generator=generator).view_as(sample)
        noise = torch.rand(sample.shape, generator=generator).masked_fill(sample != self.mask, -1.0)
        chosen = (noise == noise.max(dim=1, keepdim=True).values) & (sample == self.mask)
        chosen = sample == self.mask if timestep == 0 else chosen
        return SimpleNamespace(prev_sample=torch.where(chosen, values, sample))


class AllAtOnce(OneAtATime):
    """It unmasks everything in the first step, returns tuples, and asks for more than the others."""

    def set_timesteps(self, num_inference_steps: int, block_length: int = 0) -> None:
        assert block_length == 3
        super().set_timesteps(num_inference_steps)

    def step(  # type: ignore[override]
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, mask_token_id: int, generator: Any, heat: float
    ) -> Any:
        logits = model_output / heat
        values = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view_as(sample)
        return torch.where(sample == mask_token_id, values, sample), "more"


@torch.no_grad()
def loop(
    model: Any,
    prompt: Tensor,
    steps: int = 128,
    gen_length: int = 128,
    block_length: int = 128,
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    remasking: str = "low_confidence",
    mask_id: int = 126336,
    guide: Callable[[float], float] = lambda scale: scale,
) -> Tensor:
    """A loop with the interface of LLaDA's `generate`."""
    x = torch.cat([prompt, torch.full((len(prompt), gen_length), mask_id)], dim=1).to(model.device)
    start = prompt.shape[1]
    for end in range(start + block_length, start + gen_length + 1, block_length):
        for left in range(steps * block_length // gen_length, 0, -1):
            logits = model(x, attention_mask=None).logits
            if cfg_scale > 0:
                without = model(torch.cat([torch.full_like(prompt, mask_id), x[:, start:]], dim=1)).logits
                logits = without + (guide(cfg_scale) + 1) * (logits - without)
            exponential = -torch.rand_like(logits).log()
            drawn = (logits - temperature * exponential.log()).argmax(-1)
            confidence = logits.softmax(-1).gather(-1, drawn[..., None])[..., 0]
            if remasking == "random":
                confidence = torch.rand_like(confidence)
            confidence[:, end:] = -1
            confidence[x != mask_id] = -1
            most = -(-int((x[0, :end] == mask_id).sum()) // left)
            rows = torch.arange(len(x))[:, None]
            chosen = confidence.topk(most, dim=1).indices
            x[rows, chosen] = drawn[rows, chosen]
    return x


def target(zeros: float = 0.0) -> Any:
    return random_target(2, 3, seed=4, zeros=zeros)


def draws(
    own: Any, w: float = 2.0, calls: int = 3, n: int = N, zeros: float = 0.0, z: int | None = 1, seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return own(target(zeros).denoiser(), Guidance(w), z, n, generator, calls)


def first_hitting(w: float, zeros: float = 0.0, z: Any = 1) -> Tensor:
    return Sampler().law(target(zeros).denoiser(), Guidance(w, "normalized"), z)


@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_a_scheduler_that_is_first_hitting_has_its_law(w: float, zeros: float) -> None:
    x = draws(SchedulerSampler(OneAtATime), w, zeros=zeros)
    assert chi_square_p_value(x, first_hitting(w, zeros)) > 1e-3
    if zeros == 0:
        assert chi_square_p_value(x, first_hitting(w + 0.5)) < 1e-6


def test_a_scheduler_draws_from_guided_values_with_arguments_of_its_own() -> None:
    own = SchedulerSampler(AllAtOnce, arguments={"heat": 0.5})
    guidance = Guidance(2.0, temperature=0.5)
    law = Sampler("event_leaping", 1).law(target().denoiser(), guidance, 1)
    assert chi_square_p_value(draws(own, calls=1), law) > 1e-3


def test_a_scheduler_takes_every_guidance_and_no_class() -> None:
    generator = torch.Generator().manual_seed(0)
    guidance = Guidance(LinearRamp(0.0, 3.0), "normalized")
    x = SchedulerSampler(OneAtATime)(target().denoiser(), guidance, 1, N, generator, 3)
    assert chi_square_p_value(x, Sampler().law(target().denoiser(), guidance, 1)) > 1e-3
    assert chi_square_p_value(draws(SchedulerSampler(OneAtATime), z=None), target().pmf) > 1e-3


@pytest.mark.parametrize("w", [0.0, 2.0])
@pytest.mark.parametrize("zeros", [0.0, 0.4])
def test_a_loop_that_unmasks_in_random_order_is_first_hitting(w: float, zeros: float) -> None:
    x = draws(GenerateSampler(loop, arguments={"remasking": "random"}), w, zeros=zeros)
    assert chi_square_p_value(x, first_hitting(w, zeros)) > 1e-3


@pytest.mark.parametrize(("calls", "events"), [(1, 3), (2, 2), (3, 1), (8, 1)])
def test_a_loop_by_confidence_is_our_decoder(calls: int, events: int) -> None:
    law = Sampler("sampled_confidence", events=events).law(target().denoiser(), Guidance(2.0), 1)
    assert chi_square_p_value(draws(GenerateSampler(loop), calls=calls), law) > 1e-3


def test_a_loop_in_blocks_is_our_decoder_in_blocks() -> None:
    denoiser = random_target(2, 4, seed=7).denoiser()
    sampler = Sampler("sampled_confidence", events=1, policy=Blocks([[0, 1], [2, 3]]))
    law = sampler.law(denoiser, Guidance(2.0), 1)
    x = GenerateSampler(loop, block_length=2)(denoiser, Guidance(2.0), 1, N, torch.Generator().manual_seed(0), 5)
    assert chi_square_p_value(x, law) > 1e-3
    whole = Sampler("sampled_confidence", events=1).law(denoiser, Guidance(2.0), 1)
    assert chi_square_p_value(x, whole) < 1e-6


def test_a_loop_that_takes_its_scale_for_gamma_is_found_out() -> None:
    wrong = {"remasking": "random", "guide": lambda scale: scale - 1}
    x = draws(GenerateSampler(loop, arguments=wrong))
    assert chi_square_p_value(x, first_hitting(2.0)) < 1e-6
    assert chi_square_p_value(x, first_hitting(1.0)) > 1e-3


OWN = (SchedulerSampler(OneAtATime), GenerateSampler(loop), GenerateSampler(loop, batch_size=1))


@pytest.mark.parametrize("own", OWN)
def test_a_seed_decides_and_nobody_elses_draws_change(own: Any) -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = draws(own, n=20)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first, draws(own, n=20)) and not torch.equal(first, draws(own, n=20, seed=1))


def test_calls_are_counted_under_a_class_and_under_none() -> None:
    for own, w, rows in (
        (SchedulerSampler(OneAtATime), 2.0, [30, 30]),
        (GenerateSampler(loop), 2.0, [30, 30]),
        (GenerateSampler(loop), 0.0, [30, 0]),
    ):
        counted = Counted(target().denoiser())
        own(counted, Guidance(w), 1, 10, torch.Generator().manual_seed(0), 3)
        assert counted.rows == rows


class Never(OneAtATime):
    def step(self, *arguments: Any, **more: Any) -> Any:
        return (arguments[2],)


class Words(OneAtATime):
    def step(self, *arguments: Any, **more: Any) -> Any:
        return (["a word"],)


def test_what_has_not_the_interface_or_leaves_masks_is_refused() -> None:
    no_timesteps = SimpleNamespace(set_timesteps=lambda n: None, step=lambda logits, t, x: (x,))
    no_sample = SimpleNamespace(set_timesteps=lambda n: None, timesteps=[0], step=lambda logits, t, x: {"x": x})
    made = (Never, Words, lambda mask: object(), lambda mask: no_timesteps, lambda mask: no_sample)
    for own in map(SchedulerSampler, made):
        with pytest.raises(UserError):
            draws(own, n=5)
    too_large = GenerateSampler(lambda model, prompt, **given: torch.full((len(prompt), 4), 9))
    for own in (too_large, GenerateSampler(lambda *a, **k: None), GenerateSampler(loop, block_length=2)):
        with pytest.raises(UserError):
            draws(own, n=5)
    for guidance in (Guidance(-0.5), Guidance(LinearRamp(0.0, 1.0)), Guidance(1.0, temperature=0.5)):
        with pytest.raises(UserError):
            GenerateSampler(loop)(target().denoiser(), guidance, 1, 5, torch.Generator(), 3)
    for make in (SchedulerSampler, GenerateSampler):
        with pytest.raises(UserError):
            make("a name")
        with pytest.raises(UserError):
            make(loop, arguments=3)
    for wrong in ({"batch_size": -1}, {"batch_size": 0}, {"block_length": 1.5}):
        with pytest.raises(UserError):
            GenerateSampler(loop, **wrong)


@pytest.mark.slow  # whoever has diffusers waits seconds for it
def test_schedulers_of_diffusers_have_the_laws_of_our_samplers() -> None:
    diffusers = pytest.importorskip("diffusers")

    class Cold(diffusers.AmusedScheduler):  # type: ignore[misc]
        def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
            super().set_timesteps(num_inference_steps, temperature=(0, 0), device=device)

    def refining(mask: int) -> Any:
        return diffusers.BlockRefinementScheduler(threshold=2.0)

    denoiser = target().denoiser()
    by_confidence = Sampler("sampled_confidence", events=1).law(denoiser, Guidance(2.0), 1)
    at_once = Sampler("event_leaping", 1).law(denoiser, Guidance(2.0), 1)
    assert chi_square_p_value(draws(SchedulerSampler(diffusers.AmusedScheduler), calls=1), at_once) > 1e-3
    assert chi_square_p_value(draws(SchedulerSampler(Cold)), by_confidence) > 1e-3
    refined = draws(SchedulerSampler(refining, arguments={"temperature": 1.0}), n=4_000)
    assert chi_square_p_value(refined, by_confidence) > 1e-3


def test_the_benchmark_judges_them_by_their_samples() -> None:
    own = [SchedulerSampler(OneAtATime), GenerateSampler(loop, "as LLaDA"), GenerateSampler(loop, block_length=1)]
    small = of_table("small", target(), 1)
    found = benchmark(*own, targets=[small], strengths=[0.0, 2.0], calls=[1, 3], num_samples=20_000)
    assert [entry["name"] for entry in found.facts["entries"][:3]] == ["OneAtATime", "as LLaDA", "loop"]
    results = {(row.entry, row.w, row.calls): row for row in block_of(found, "results")}
    assert ("OneAtATime", 2.0, 3) in results and ("loop", 2.0, 1) not in results  # three blocks need three calls
    for entry, exact in (
        ("OneAtATime", "first_hitting, normalized"),
        ("as LLaDA", "sampled_confidence"),
        ("loop", "policy fixed_order"),
    ):
        for w in (0.0, 2.0):
            row = results[entry, w, 3]
            assert row.tv_tilted_low <= results[exact, w, 3].tv_tilted <= row.tv_tilted_high
