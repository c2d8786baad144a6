"""How entries are evaluated: by the exact law of their steps, or by samples if no law is available."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.divergence import divergence_from_sampler
from mdlm_cfg.compare.metrics import expected_sampling_tv, least_tv, most_tv, sampled_tv, total_variation
from mdlm_cfg.laws.stepped import FrozenChain, freeze
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.benchmark.entries import Draw, Entry
from mdlm_cfg.studies.benchmark.targets import Target
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.by_value import value_key
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import calling

REFERENCES = ("class", "chain", "tilted")
ROUNDING = 1e-9  # of expected numbers of calls
Cell = dict[str, Any]  # one entry on one target at one w and number of calls: columns of a `ResultRow`


class Counted:
    """A denoiser that counts the rows it evaluates, with a class and without."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.device = device_of(denoiser)
        self.num_tokens = denoiser.num_tokens
        self.num_dims = denoiser.num_dims
        self.num_classes = denoiser.num_classes
        self.rows = [0, 0]

    def __call__(self, tokens: Tensor, classes: Tensor | None) -> Tensor:
        """See `Denoiser`."""
        null = len(tokens) if classes is None else int((classes == self.num_classes).sum())
        self.rows[0] += len(tokens) - null
        self.rows[1] += null
        return self.denoiser(tokens, classes)

    def calls(self, num_samples: int) -> int:
        """Calls per sample and conditional, rounded up, and at least one."""
        return max(1, -(-max(self.rows) // num_samples))


class Bench:
    """One target at one strength: the references for all entries, computed once.

    Args:
        target: the denoiser and the class's law. guidance: of the constant w; its kind is irrelevant.
        plan: the number of samples of an entry without a law, and the seed.
    """

    def __init__(self, target: Target, guidance: Guidance, plan: Plan) -> None:
        self.target = target
        self.w = guidance.constant
        self.plan = plan
        self._given = guidance
        self._tilted = target.tilted(self.w)
        self._ends: dict[Kind, Tensor] = {}
        self._chains: list[FrozenChain] = []

    def references(self, kind: Kind) -> dict[str, Tensor]:
        """The class, the chain of this kind at constant w in continuous time, and the tilted law."""
        if kind not in self._ends:
            self._ends[kind] = terminal_law(self.target.denoiser, Guidance(self.w, kind), self.target.target_class)
        return {"class": self.target.class_law, "chain": self._ends[kind], "tilted": self._tilted}

    def judge(self, entry: Entry, calls: Sequence[int]) -> Iterator[Cell]:
        """Evaluate the entry at every number of calls that it can use."""
        with calling(entry.name):
            guidance = entry.guidance(self.w)
        if not isinstance(guidance, Guidance):
            raise UserError(
                f"{entry.name}({self.w:g}) returned {type(guidance).__name__}, but a function of w must return a "
                "Guidance; one that draws samples takes (denoiser, guidance, target_class, num_samples, generator)"
            )
        before: Hashable = None
        found: Cell = {}
        for most in calls:
            sampler = entry.at(most, self.target.num_dims)
            same = self._decides(entry, sampler, most)
            if same != before:  # more calls than coordinates change nothing
                before = same
                if isinstance(sampler, Sampler):
                    found = self._exactly(sampler, guidance)
                else:
                    found = self._by_samples(entry, sampler, guidance, most)
            if found["used"] <= most + ROUNDING:
                yield {"entry": entry.name, "target": self.target.name, "w": self.w, "calls": most, **found}

    def _decides(self, entry: Entry, sampler: Sampler | Draw, calls: int) -> Hashable:
        """The values that decide the distribution at a number of calls."""
        if isinstance(sampler, Sampler):
            return value_key([*sampler.plan(self.target.num_dims), sampler.correction])
        return calls if entry.takes_calls else 0

    def _exactly(self, sampler: Sampler, guidance: Guidance) -> Cell:
        """The calls of a sampler, in expectation if they vary, and its exact distances."""
        denoiser = self.target.denoiser
        z = self.target.target_class
        chain = None if sampler.exact_in_time else self._chain(sampler.effective_guidance(guidance))
        law = sampler.law(denoiser, guidance, z, chain)
        found: Cell = {"used": sampler.expected_calls(denoiser, guidance, z, chain)}
        for name, reference in self.references(guidance.kind).items():
            found[f"tv_{name}"] = total_variation(law, reference)
            found[f"kl_{name}"] = divergence_from_sampler(reference, law, sampler, denoiser, guidance, z)
        return found

    def _chain(self, given: Guidance) -> FrozenChain:
        """The frozen chain of a guidance, shared by all samplers with it."""
        chain = next((chain for chain in self._chains if chain.guidance == given), None)
        if chain is None:
            chain = freeze(self.target.denoiser, given, self.target.target_class)
            self._chains.append(chain)
        return chain

    def _by_samples(self, entry: Entry, draw: Draw, guidance: Guidance, calls: int) -> Cell:
        """The calls that a function made, and its samples' distances, with an interval for those of their distribution.

        By Jensen's inequality, the distribution's distance is at most the mean of the samples'.
        """
        denoiser = Counted(self.target.denoiser)
        z = self.target.target_class
        n = self.plan.num_samples
        given = (calls,) if entry.takes_calls else ()
        names = (entry.name, self.target.name, *given)
        generator = self.plan.generator("benchmark", self._given, z, *names, num_dims=denoiser.num_dims)
        with calling(entry.name):
            x = draw(denoiser, guidance, z, n, generator)
        if not isinstance(x, Tensor) or x.shape != (n, denoiser.num_dims) or x.dtype != torch.int64:
            got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise UserError(f"{entry.name} drew {got}, but it must draw int64 of shape {(n, denoiser.num_dims)}")
        found: Cell = {"used": float(denoiser.calls(n))}
        for name, reference in self.references(guidance.kind).items():
            tv = sampled_tv(reference, x, generator=generator)
            found[f"tv_{name}"] = tv.value
            found[f"tv_{name}_low"] = least_tv(reference, x)
            found[f"tv_{name}_high"] = most_tv(tv, n)
            found[f"noise_floor_{name}"] = expected_sampling_tv(reference, n)
        return found
