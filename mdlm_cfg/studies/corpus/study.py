"""Guided samples of sequences that are known by examples only, judged like held-out sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.images import bayes_classify
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.sequences import gram_histogram, gram_lengths, mean_pairwise_difference, nearest_sequence
from mdlm_cfg.studies.corpus.findings import CorpusFindings, Row
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import check_sampled
from mdlm_cfg.studies.sequences.study import ALIGNED, SHOWN
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.data import Data
from mdlm_cfg.training.data.base import content_hash

STATISTICS = ("accuracy", "diversity", "nearest_train")  # and the TV of n-grams
SHOWN_CLASSES = 4  # of which sequences are drawn to be read


@dataclass(frozen=True)
class Corpus:
    """Samples of every class at every strength: their n-grams, their variety, and the class that the network sees.

    Nothing but examples is known of such data, so that the judge of the class is the network itself: it takes a
    sequence for the class under which its NELBO is smallest.

    Args:
        num_classified: sequences of each strength whose class it is asked for; num_draws: masks for each.

    Raises:
        UserError: either is below 1.
    """

    num_classified: int = 200
    num_draws: int = 8

    def __post_init__(self) -> None:
        if self.num_classified < 1 or self.num_draws < 1:
            raise UserError(
                f"num_classified = {self.num_classified} and num_draws = {self.num_draws} of study=corpus are not "
                "allowed: both must be at least 1"
            )

    def check(self, data: Data, plan: Plan) -> None:
        """Raise UserError where the data are no examples, or the plan is none of samples."""
        if data.example_kind is None:
            raise UserError(f"study=corpus needs data that are examples, such as data=text, and {data.name} are none")
        check_sampled(plan, _space(data), None)

    def run(
        self,
        data: Data,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> CorpusFindings:
        """See `mdlm_cfg.studies.study.Study`; raises as `check`, and for a denoiser of another space or none."""
        self.check(data, plan)
        if denoiser is None:
            raise UserError(f"denoiser=exact needs data known exactly, and {data.name} is not; train a network on it")
        check_sampled(plan, _space(data), denoiser)
        return _Bench(self, data, denoiser, plan, progress, keep).findings()


def _space(data: Data) -> tuple[int, int, int]:
    return data.num_tokens, math.prod(data.grid_shape), data.num_classes


class _Bench:
    """All that is drawn and compared in one study, each thing once."""

    def __init__(
        self,
        study: Corpus,
        data: Data,
        denoiser: Denoiser,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep,
    ) -> None:
        self.study, self.data, self.denoiser, self.plan, self.keep = study, data, denoiser, plan, keep
        self.classes = list(range(data.num_classes)) if plan.classes is None else list(plan.classes)
        self.line = data.grid_shape[-1]  # positions that follow one another
        self.grams = [n for n in gram_lengths(denoiser) if n <= self.line]
        self.train = [self._training(k) for k in self.classes]
        self.laws = [{n: self._law(x, n) for n in self.grams} for x in self.train]
        self.each = math.ceil(study.num_classified / len(self.classes))  # sequences of a class that are classified
        self.say = Pieces(self.costs(), progress)

    def costs(self) -> list[float]:
        """Rows of the denoiser, piece by piece as `findings` has them."""
        dims, num, classes = self.denoiser.num_dims, self.plan.num_samples, len(self.classes)
        judged = self.study.num_draws * self.denoiser.num_classes * self.each * classes
        drawn = [self.plan.sampler.num_rows(num * classes, dims, g) + judged for g in self.plan.guidances]
        aligned = sum(ALIGNED.num_rows(SHOWN, dims, g) for g in self.plan.guidances)
        return [judged, *drawn, *(aligned for _ in self.classes[:SHOWN_CLASSES])]

    def findings(self) -> CorpusFindings:
        """Everything, in the order of `costs`."""
        data, plan = self.data, self.plan
        self.say("held-out sequences")
        held_out = [self._held_out(k) for k in self.classes]
        held_out_rows = self._rows(held_out, "held out")
        samples, judged = {}, {}
        for guidance in plan.guidances:
            self.say(f"samples of {len(self.classes)} classes at w = {guidance.label}")
            drawn = [self._draw(guidance, k) for k in self.classes]
            samples[guidance.constant] = torch.stack(drawn)
            judged[guidance.constant] = self._rows(drawn, guidance.label)
        return CorpusFindings(
            plan, data.name, tuple(data.grid_shape), data.num_tokens, data.class_names, data.value_names, self.classes,
            self.grams, self.study.num_draws, min(len(x) for x in held_out), judged, held_out_rows, samples,
            {k: x[:SHOWN] for k, x in zip(self.classes, held_out)}, self._aligned(),
        )  # fmt: skip

    def _training(self, target_class: int) -> Tensor:
        """The training sequences of a class, int64 (m, D)."""
        return self.data.train_examples(target_class, generator_for("reference", self.plan.seed, target_class)).long()

    def _held_out(self, target_class: int) -> Tensor:
        """As many test sequences of a class as there are samples, where there are so many: int64 (m, D)."""
        x, labels = self.data.test_examples()
        order = torch.randperm(len(x), generator=generator_for("held out", self.plan.seed))
        return x[order][labels[order] == target_class][: self.plan.num_samples].long()

    def _draw(self, guidance: Guidance, target_class: int) -> Tensor:
        """The plan's samples of a class at one strength, int64 (n, D); kept ones where they were drawn before."""
        sampler, num = self.plan.sampler, self.plan.num_samples
        generator = self.plan.generator("samples", guidance, target_class, num_dims=self.denoiser.num_dims)
        key = ("samples", guidance.key(self.denoiser.num_dims), sampler.key, num, self.plan.seed, target_class)
        return self.keep(key, lambda: sampler.draw(self.denoiser, guidance, target_class, num, generator).cpu())

    def _rows(self, sequences: Sequence[Tensor], what: str) -> list[Row]:
        """What is said of sequences (n, D) of every class; `what` they are goes into the seed of the masks."""
        return [self._row(at, x, what) for at, x in enumerate(sequences)]

    def _row(self, at: int, x: Tensor, what: str) -> Row:
        if len(x) < 2:
            return dict.fromkeys([*STATISTICS, *(f"tv_{n}" for n in self.grams)], math.nan)
        asked = ("classified", self.plan.seed, what, self.classes[at])
        seen = self.keep(
            (*asked, content_hash(x[: self.each]), self.study.num_draws),
            lambda: bayes_classify(self.denoiser, x[: self.each], self.study.num_draws, generator_for(*asked)),
        )
        return {
            "accuracy": float((seen == self.classes[at]).double().mean()),
            "diversity": mean_pairwise_difference(x, self.data.num_tokens),
            "nearest_train": float(nearest_sequence(x, self.train[at]).mean()),
            **{f"tv_{n}": total_variation(law, self._law(x, n)) for n, law in self.laws[at].items()},
        }

    def _law(self, x: Tensor, n: int) -> Tensor:
        """Of n-grams along the last axis of the grid."""
        return gram_histogram(x.reshape(-1, self.line), self.data.num_tokens, n)

    def _aligned(self) -> dict[int, dict[float, Tensor]]:
        """A few sequences of the first classes at every strength by the same random numbers."""
        found: dict[int, dict[float, Tensor]] = {}
        for k in self.classes[:SHOWN_CLASSES]:
            self.say(f"the same random numbers at every strength: class {k}")
            found[k] = {
                g.constant: ALIGNED.draw(self.denoiser, g, k, SHOWN, generator_for("aligned", self.plan.seed, k)).cpu()
                for g in self.plan.guidances
            }
        return found
