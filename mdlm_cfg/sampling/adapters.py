"""Samplers of other libraries: an object with their interface becomes a function that draws samples.

None of these libraries is imported. Such a sampler has no exact law here; the benchmark evaluates its samples. The
interfaces are those of Hugging Face diffusers' schedulers of discrete tokens (`AmusedScheduler` and
`BlockRefinementScheduler` of diffusers 0.42.1) and of `generate` in LLaDA's generate.py (ML-GSAI/LLaDA, commit
41760b9; also later forms of it, which give the model an `attention_mask` and take several prompts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, conditionals, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.masking import all_masked, device_of_generator
from mdlm_cfg.sampling.starts import refuse_masks
from mdlm_cfg.support.annotations import parameters_of
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import whole_number

IMPOSSIBLE = -1e4  # a logit in place of -inf, whose differences would be NaN; exp(-1e4) is 0 in every float type


@dataclass(frozen=True)
class SchedulerSampler:
    """A sampler with the interface of diffusers' schedulers of discrete tokens.

    A draw with n calls is what their pipelines do: `set_timesteps(n)`, and for every t in `timesteps`
    `sample = step(logits, t, sample, generator=generator).prev_sample`. The mask is token N. The logits, float64
    (B, D, N), are those of the guided conditionals, log rho_i(v | x_U) / Z_i, so that every guidance can be used; -inf
    is -1e4. `set_timesteps` and `step` are given `device`, `block_length` (D), `mask_token_id` (N) and `generator`,
    where they have a parameter of that name.

    Schedulers of uniform noise (`EntropyBoundScheduler`), which have no mask, are not supported.

    Args:
        make: makes a scheduler from the mask's id, such as the class `AmusedScheduler`: it is called for every draw.
        name: the name in rankings; None is that of `make`.
        arguments: further ones of `step`, such as {"temperature": 1.0}.
    """

    make: Callable[[int], Any]
    name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_callable(self.make, "make", "makes a scheduler from the mask's id")
        _check_arguments(self.arguments)

    def __call__(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        generator: torch.Generator | None,
        calls: int,
    ) -> Tensor:
        """Samples of the class, int64 (num_samples, D), in `calls` steps.

        Raises:
            UserError: an object without this interface, a step that returns no tokens, or masks after the last one.
        """
        mask_id = denoiser.num_tokens
        device = device_of(denoiser)
        scheduler = self.make(mask_id)
        missing = [name for name in ("set_timesteps", "step") if not callable(getattr(scheduler, name, None))]
        if missing:
            raise UserError(f"{type(scheduler).__name__} is not a scheduler: it has no method {missing[0]}")
        offered = {"device": device, "block_length": denoiser.num_dims, "mask_token_id": mask_id}
        offered["generator"] = generator
        scheduler.set_timesteps(calls, **_taken(scheduler.set_timesteps, offered))
        given = _taken(scheduler.step, offered) | dict(self.arguments)
        x = all_masked(num_samples, denoiser.num_dims, mask_id, device)
        if not hasattr(scheduler, "timesteps"):
            raise UserError(f"{type(scheduler).__name__} is not a scheduler: set_timesteps leaves it no timesteps")
        for t in scheduler.timesteps:
            logits = guided_logits(denoiser, guidance, x, target_class)
            found = scheduler.step(logits, t, x, **given)
            x = found[0] if isinstance(found, tuple) else getattr(found, "prev_sample", found)
            _check_tokens(x, (num_samples, denoiser.num_dims), mask_id, type(scheduler).__name__)
        refuse_masks(x, mask_id, type(scheduler).__name__)
        return x


@dataclass(frozen=True)
class GenerateSampler:
    """A sampler with the interface of LLaDA's `generate`.

    It is called as `generate(model, prompt, steps=, gen_length=, block_length=, temperature=, cfg_scale=, mask_id=)`
    and calls `model(input_ids).logits`. Its own classifier-free guidance is used, cfg_scale = w: the class is the
    prompt, one token N + 1 + z, which the loop itself replaces by the mask N for the unguided logits; the model then
    uses no class. Logits are conditionals, float64 (B, 1 + D, N); -inf is -1e4.

    The loop draws from torch's global generator, which is seeded from the given one and restored afterwards.

    Args:
        generate: the loop.
        name: the name in rankings; None is that of `generate`.
        block_length: block length of semi-autoregressive decoding, a divisor of D; None is D, one block.
        batch_size: samples per call of the loop, 1 for a loop that takes one prompt; None is all.
        arguments: further ones, such as {"remasking": "random"}; the temperature is 1 where none is given, because
            nothing is random at LLaDA's default of 0.
    """

    generate: Callable[..., Any]
    name: str | None = None
    block_length: int | None = None
    batch_size: int | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_callable(self.generate, "generate", "takes a model and a prompt, as LLaDA's does")
        _check_arguments(self.arguments)
        for name in ("block_length", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(name, value))

    def __call__(
        self,
        denoiser: Denoiser,
        guidance: Guidance,
        target_class: int | None,
        num_samples: int,
        generator: torch.Generator | None,
        calls: int,
    ) -> Tensor:
        """Samples of the class, int64 (num_samples, D), in at most `calls` steps, as many in every block.

        Raises:
            UserError: guidance that the loop does not support, a block length that does not divide D, or samples with
                masks.
        """
        d = denoiser.num_dims
        mask_id = denoiser.num_tokens
        w = guidance.constant
        if w < 0 or guidance.filters:
            raise UserError(
                f"the loop guides by its cfg_scale alone, and w = {guidance.label} was given: give one w of at "
                "least 0, and the temperature as an argument of the loop"
            )
        block_length = d if self.block_length is None else self.block_length
        if d % block_length:
            raise UserError(f"block_length = {block_length} must divide the number of coordinates, {d}")
        label = denoiser.num_classes if target_class is None else target_class
        blocks = d // block_length
        given = {
            "steps": max(1, min(calls, d) // blocks) * blocks,
            "gen_length": d,
            "block_length": block_length,
            "temperature": 1.0,
            "cfg_scale": w,
            "mask_id": mask_id,
        } | dict(self.arguments)
        model = _ModelOfPrompts(denoiser)
        prompts = torch.full((num_samples, 1), mask_id + 1 + label, device=model.device)
        seed = int(torch.randint(2**62, (), generator=generator, device=device_of_generator(generator)))
        found = []
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for batch in prompts.split(self.batch_size or max(1, num_samples)):
                answer = self.generate(model, batch, **given)
                x = answer[0] if isinstance(answer, tuple) else answer
                _check_tokens(x, (len(batch), 1 + d), mask_id + 1 + label, _name(self.generate))
                found.append(x[:, 1:])
        drawn = torch.cat(found)
        refuse_masks(drawn, mask_id, _name(self.generate))
        return drawn


class _ModelOfPrompts:
    """A denoiser with the interface of LLaDA's model: the first token is the class, the mask being no class."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.device = device_of(denoiser)

    def __call__(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        """Logits (B, 1 + D, N) of token ids (B, 1 + D); those of the prompt are 0."""
        mask_id = self.denoiser.num_tokens
        prompt = input_ids[:, 0]
        classes = torch.where(prompt == mask_id, self.denoiser.num_classes, prompt - mask_id - 1)
        log_probs = _finite(conditionals(self.denoiser, input_ids[:, 1:], classes))
        return SimpleNamespace(logits=torch.nn.functional.pad(log_probs, (0, 0, 1, 0)))


def guided_logits(denoiser: Denoiser, guidance: Guidance, tokens: Tensor, target_class: int | None) -> Tensor:
    """log rho_i(v | x_U) / Z_i as finite logits, float64 (B, D, N); those of unmasked coordinates are the token's own.

    Args:
        tokens: partial states, int64 (B, D).
    """
    n = denoiser.num_tokens
    log_rho = guidance.log_rho(denoiser, tokens, target_class)
    own = tokens[..., None] == torch.arange(n, device=tokens.device)
    known = torch.where(own, 0.0, IMPOSSIBLE).to(log_rho)
    return torch.where((tokens == n)[..., None], _finite(log_rho.log_softmax(dim=-1)), known)


def _finite(log_probs: Tensor) -> Tensor:
    """Log-probabilities that are -inf, or too small to be drawn in any float type, as a finite logit."""
    return log_probs.clamp(min=IMPOSSIBLE)


def _taken(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments for which a function has a parameter."""
    parameters = parameters_of(function)
    return {name: value for name, value in offered.items() if name in parameters}


def _check_callable(found: Any, name: str, what: str) -> None:
    if not callable(found):
        raise UserError(f"{name} = {shown(found)} must be a function or class that {what}")


def _check_arguments(arguments: Any) -> None:
    if not isinstance(arguments, Mapping):
        raise UserError(f'arguments = {shown(arguments)} must be a mapping, such as {{"temperature": 1.0}}')


def _check_tokens(found: Any, shape: tuple[int, int], most: int, name: str) -> None:
    """Raise UserError unless another library returned tokens 0..most of this shape."""
    if not isinstance(found, Tensor) or found.shape != shape or found.dtype != torch.int64:
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(f"{name} returned {got}, and must return int64 tokens of shape {shape}")
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) <= most:
        raise UserError(f"{name} returned tokens from {int(found.min())} to {int(found.max())}: they must be 0..{most}")


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))
