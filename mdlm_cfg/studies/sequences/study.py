"""A network against a hidden Markov mixture that is known exactly: its score error in nats, and its guided samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import policy_of
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.compare.score_error import ScoreError, score_error
from mdlm_cfg.compare.sequences import SequenceStatistics, gram_law, gram_lengths, sequence_statistics
from mdlm_cfg.sampling.sampler import EVENT_LEAPING, Sampler
from mdlm_cfg.studies.aligned import ALIGNED, SHOWN
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.sampled import Draw, check_sampled, drawn, draws_of
from mdlm_cfg.studies.sequences.findings import CLASS, EXACT, FLOOR, LEARNED, SequenceFindings, SequenceSet
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.hmm import HiddenMarkovMixture

ONE_BY_ONE = ("rate", "uniform", "fixed_order", "confidence")
FEW_STEPS = (8, 32)


@dataclass(frozen=True)
class Sequences:
    """Score error, guided samples against exact ones, and orders and steps against each other.

    Args:
        num_test: test sequences for the score error; num_draws: masks for each.
        compare: whether other orders and numbers of steps are compared; most of the time goes there.

    Raises:
        UserError: fewer than two test sequences, or no draws.
    """

    num_test: int = 1000
    num_draws: int = 4
    compare: bool = True

    def __post_init__(self) -> None:
        if self.num_test < 2 or self.num_draws < 1:
            raise UserError(
                f"num_test = {self.num_test} and num_draws = {self.num_draws} of study=sequences are not allowed: they "
                "must be at least 2 and 1"
            )

    def check(self, data: Any, plan: Plan) -> None:
        """Raise UserError where the data are no hidden Markov mixture, or the plan is none of samples of one class."""
        target = data.target
        if not isinstance(target, HiddenMarkovMixture):
            raise UserError(
                f"{data.name} is no hidden Markov mixture: study=sequences needs data=hmm_dialects or data=hmm"
            )
        check_sampled(plan, (target.num_tokens, target.num_dims, target.num_classes), None)
        classes = plan.classes or (0,)
        if len(classes) > 1:
            raise UserError(
                f"sequences are studied for one class at a time, not for {list(classes)}: give target_class=K"
            )
        if target.class_weights[classes[0]] == 0:
            raise UserError(
                f"class {classes[0]} of {data.name} has weight 0 in the mixture: give it a weight, or choose another "
                "target_class"
            )

    def draws(self, data: Any, denoiser: Denoiser | None, plan: Plan) -> list[Draw]:
        """All that `run` draws, in its order, but the few sequences that are shown aligned."""
        z, (denoisers, judged) = (plan.classes or (0,))[0], _denoisers(data.target, denoiser)
        sets = [(g, name, used, None) for g in plan.guidances for name, used in denoisers.items()]
        samplers = others(data.target.num_dims) if self.compare else []
        more = [(g, name, used, s) for g in _ends(plan) for name, used in judged.items() for s in samplers]
        return [one for g, name, used, s in [*sets, *more] for one in draws_of(plan, used, g, z, name, compared=s)]

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> SequenceFindings:
        """See `mdlm_cfg.studies.study.Study`; raises as `check`, and for a denoiser of another space.

        Args:
            keep: has samples of an evaluation that was interrupted.
        """
        self.check(data, plan)
        target = data.target
        check_sampled(plan, (target.num_tokens, target.num_dims, target.num_classes), denoiser)
        return _Bench(self, data, denoiser, plan, progress, keep).findings()


class _Bench:
    """All that is drawn and compared in one study, each thing once."""

    def __init__(
        self,
        study: Sequences,
        data: Any,
        learned: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep,
    ) -> None:
        self.study, self.data, self.plan, self.keep = study, data, plan, keep
        self.target: HiddenMarkovMixture = data.target
        self.z = (plan.classes or (0,))[0]
        self.denoisers, self.judged = _denoisers(self.target, learned)
        self.laws = {n: gram_law(self.target, n, self.z) for n in gram_lengths(self.target)}
        self.own = self.target.sample(plan.num_samples, generator_for("samples", plan.seed, self.z, CLASS), self.z)[0]
        self.samples: dict[str, Tensor] = {CLASS: self.own}
        self.exact: dict[float, SequenceStatistics] = {}  # by w
        self.others = others(self.target.num_dims) if study.compare else []
        self.ends = _ends(plan)
        self.say = Pieces(self._costs(), progress)

    def _costs(self) -> list[float]:
        """Rows of the denoisers, piece by piece as `findings` has them."""
        num, dims = self.plan.num_samples, self.target.num_dims
        scored = [2.0 * self.study.num_draws * self.study.num_test] if LEARNED in self.judged else []
        drawn = [self.plan.sampler.num_rows(num, dims, g) for g in self.plan.guidances for _ in self.denoisers]
        more = [s.num_rows(num, dims, g) for g in self.ends for _ in self.judged for s in self.others]
        aligned = [sum(ALIGNED.num_rows(SHOWN, dims, g) for g in self.plan.guidances) for _ in self.judged]
        return [*scored, *drawn, *more, *aligned]

    def findings(self) -> SequenceFindings:
        """Everything, in the order of `_costs`."""
        target, plan = self.target, self.plan
        score = self._score()
        sets = [one for guidance in plan.guidances for one in self._sets(guidance)]
        compared = [
            self._compared(guidance, name, used, sampler)
            for guidance in self.ends
            for name, used in self.judged.items()
            for sampler in self.others
        ]
        return SequenceFindings(
            plan, self.data.name, self.z, target.num_tokens, target.num_dims, target.class_names, target.value_names,
            list(self.laws), score, sets, compared, self._aligned(), self.samples,
        )  # fmt: skip

    def _score(self) -> dict[str, ScoreError]:
        """The score error with the class and without."""
        if LEARNED not in self.judged:
            return {}
        x, classes = (part[: self.study.num_test] for part in self.data.test_examples())
        self.say(f"score error on {len(x):,} test sequences")
        return {
            name: score_error(
                self.target, self.judged[LEARNED], x, labels, self.study.num_draws,
                generator_for("masks", name, self.plan.seed),
            )
            for name, labels in (("conditional", classes), ("null", None))
        }  # fmt: skip

    def _sets(self, guidance: Guidance) -> list[SequenceSet]:
        """Exact, exact again, learned, and the class itself, at one strength."""
        w, sampler, found = guidance.constant, self.plan.sampler, []
        for name, used in self.denoisers.items():
            self.say(f"samples at w = {guidance.label}: {name}")
            x = drawn(draws_of(self.plan, used, guidance, self.z, name), self.keep).long()
            self.samples[f"{name}_w{w:g}"] = x
            found.append(self._described(w, name, sampler, x))
        return [*found, self._described(w, CLASS, None, self.own)]

    def _compared(self, guidance: Guidance, name: str, used: Denoiser, sampler: Sampler) -> SequenceSet:
        """A set by another order or number of steps."""
        self.say(f"{sampler.label} at w = {guidance.label}: {name}")
        x = drawn(draws_of(self.plan, used, guidance, self.z, name, compared=sampler), self.keep).long()
        return self._described(guidance.constant, name, sampler, x)

    def _described(self, w: float, name: str, sampler: Sampler | None, x: Tensor) -> SequenceSet:
        """A set beside the class and the exact guided samples of its strength, which come first."""
        found = sequence_statistics(self.target, x, self.z)
        is_reference = w not in self.exact
        self.exact.setdefault(w, found)
        tv_class = {n: total_variation(law, found.grams[n]) for n, law in self.laws.items()}
        tv_exact = {n: total_variation(self.exact[w].grams[n], found.grams[n]) for n in self.laws}
        return SequenceSet(w, name, sampler, found, tv_class, {} if is_reference else tv_exact)

    def _aligned(self) -> dict[str, dict[float, Tensor]]:
        """A few sequences at every strength by the same random numbers: what differs, guidance changed."""
        found: dict[str, dict[float, Tensor]] = {}
        for name, used in self.judged.items():
            self.say(f"the same random numbers at every strength: {name}")
            found[name] = {
                g.constant: ALIGNED.draw(used, g, self.z, SHOWN, generator_for("aligned", self.plan.seed, self.z)).cpu()
                for g in self.plan.guidances
            }
        return found


def _denoisers(
    target: HiddenMarkovMixture, learned: Denoiser | None
) -> tuple[dict[str, Denoiser], dict[str, Denoiser]]:
    """Those that draw, by name: the exact one, again for the noise floor, the learned one; and those judged so."""
    exact = target.denoiser()
    own = {} if learned is None else {LEARNED: learned}
    return {EXACT: exact, FLOOR: exact, **own}, {EXACT: exact, **own}


def _ends(plan: Plan) -> list[Guidance]:
    """The weakest guidance and the strongest."""
    weakest, strongest = (end(plan.guidances, key=lambda guidance: guidance.constant) for end in (min, max))
    return [weakest] if weakest == strongest else [weakest, strongest]


def others(num_dims: int) -> list[Sampler]:
    """The orders one at a time, and the parallel samplers of fewer steps than D, that are compared."""
    steps = [number for number in FEW_STEPS if number < num_dims]
    confident = policy_of("confidence")
    return [
        *(Sampler(policy=policy_of(name)) for name in ONE_BY_ONE),
        *(Sampler(EVENT_LEAPING, number) for number in steps),
        *(Sampler(EVENT_LEAPING, number, policy=confident) for number in steps),
        *(Sampler("tau_leaping", number) for number in steps),
    ]
