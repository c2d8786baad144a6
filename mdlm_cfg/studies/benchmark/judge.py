"""How entries are judged: by the exact law of their steps, or by samples where there is nothing but samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser, device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.kinds import Kind
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, kl_divergence, sampled_tv, total_variation
from mdlm_cfg.laws.stepped import FrozenChain, freeze
from mdlm_cfg.laws.terminal import terminal_law
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.benchmark.entries import Draw, Entry
from mdlm_cfg.studies.benchmark.targets import Target
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.errors import UserError

REFERENCES = ("class", "chain", "tilted")


@dataclass(frozen=True)
class Distance:
    """How far an entry is from one reference.

    Attributes:
        tv: total variation. low, high: where the TV of its law lies; both `tv` itself where the law is known.
        kl: KL(reference || law) in nats, inf where the law lacks support; None for samples, whose empty cells make it
            infinite.
        noise_floor: what perfect samples would show for a TV; None where nothing was sampled.
    """

    tv: float
    low: float
    high: float
    kl: float | None = None
    noise_floor: float | None = None


@dataclass(frozen=True)
class Cell:
    """One entry on one target at one strength and one number of calls.

    Attributes:
        entry, target: by name. w: the strength.
        calls: that it may make, per conditional. used: that it makes.
        distances: by the name of the reference.
    """

    entry: str
    target: str
    w: float
    calls: int
    used: int
    distances: Mapping[str, Distance]

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Cell:
        """From what `asdict` makes of one."""
        distances = {name: Distance(**found) for name, found in plain["distances"].items()}
        return cls(**{**plain, "distances": distances})

    def row(self) -> dict[str, Any]:
        """Plain values, flat; `tv_X_low`, `tv_X_high` and `noise_floor_X` only of samples, `kl_X` only of laws."""
        row: dict[str, Any] = {
            "entry": self.entry, "target": self.target, "w": self.w, "calls": self.calls, "used": self.used,
        }  # fmt: skip
        for name, found in self.distances.items():
            row[f"tv_{name}"] = found.tv
            if found.noise_floor is None:
                row[f"kl_{name}"] = found.kl
            else:
                row |= {
                    f"tv_{name}_low": found.low, f"tv_{name}_high": found.high,
                    f"noise_floor_{name}": found.noise_floor,
                }  # fmt: skip
        return row


class Counted:
    """A denoiser that counts the rows it is asked for, under a class and under none."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.device = denoiser, device_of(denoiser)
        self.num_tokens, self.num_dims = denoiser.num_tokens, denoiser.num_dims
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
    """One target at one strength: what all entries are judged by, made once.

    Args:
        target: the denoiser and the class's law. guidance: of the constant w, of a kind that does not matter.
        plan: how many samples are drawn of an entry that has no law, and the seed.
    """

    def __init__(self, target: Target, guidance: Guidance, plan: Plan) -> None:
        self.target, self.w, self.plan = target, guidance.constant, plan
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
        """The entry at every number of calls that it can do with."""
        guidance = entry.guidance(self.w)
        if not isinstance(guidance, Guidance):
            raise UserError(
                f"{entry.name}({self.w:g}) returned {type(guidance).__name__}, and a function of w must return a "
                "Guidance; one that draws samples takes (denoiser, guidance, target_class, num_samples, generator)"
            )
        references = self.references(guidance.kind)
        if not isinstance(entry.sampler, Sampler):
            yield from self._sampled(entry.name, entry.sampler, guidance, references, calls)
            return
        steps_before: list[Any] = []
        found: dict[str, Distance] = {}
        for most in calls:
            sampler = entry.at(most, self.target.num_dims)
            if sampler is None:
                continue
            steps = [*sampler.plan(self.target.num_dims), sampler.correction]
            if steps != steps_before:  # more calls than coordinates change nothing
                law, steps_before = self._law(sampler, guidance), steps
                found = {name: _exactly(reference, law) for name, reference in references.items()}
            yield Cell(entry.name, self.target.name, self.w, most, sampler.calls(self.target.num_dims), found)

    def _law(self, sampler: Sampler, guidance: Guidance) -> Tensor:
        """The exact law of the sampler's steps; what is frozen for one sampler serves all others."""
        denoiser, z = self.target.denoiser, self.target.target_class
        if sampler.exact_in_time:
            return sampler.law(denoiser, guidance, z)
        given = sampler.effective_guidance(guidance)
        chain = next((chain for chain in self._chains if chain.guidance == given), None)
        if chain is None:
            chain = freeze(denoiser, given, z)
            self._chains.append(chain)
        return sampler.law(denoiser, guidance, z, chain)

    def _sampled(
        self, name: str, draw: Draw, guidance: Guidance, references: Mapping[str, Tensor], calls: Sequence[int]
    ) -> Iterator[Cell]:
        denoiser, z, n = Counted(self.target.denoiser), self.target.target_class, self.plan.num_samples
        generator = self.plan.generator("benchmark", self._given, z, name, self.target.name, num_dims=denoiser.num_dims)
        x = draw(denoiser, guidance, z, n, generator)
        if not isinstance(x, Tensor) or x.shape != (n, denoiser.num_dims) or x.dtype != torch.int64:
            got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise UserError(f"{name} drew {got}, and must draw int64 of shape {(n, denoiser.num_dims)}")
        used = denoiser.calls(n)
        found = {what: _by_samples(reference, x, generator) for what, reference in references.items()}
        for most in calls:
            if used <= most:
                yield Cell(name, self.target.name, self.w, most, used, found)


def _exactly(reference: Tensor, law: Tensor) -> Distance:
    tv = total_variation(law, reference)
    return Distance(tv, tv, tv, kl_divergence(reference, law))


def _by_samples(reference: Tensor, x: Tensor, generator: torch.Generator) -> Distance:
    """TV of a reference to samples, and an interval for its TV to their law.

    By the triangle inequality that one is at least the samples' TV less their own noise; by Jensen's at most its mean.
    """
    found = sampled_tv(reference, x, generator=generator)
    noise = expected_sampling_tv(histogram(x, reference.shape[0]), len(x))
    return Distance(
        found.value, max(0.0, found.low - noise), found.high, noise_floor=expected_sampling_tv(reference, len(x))
    )
