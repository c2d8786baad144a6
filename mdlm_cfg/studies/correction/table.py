"""The tilted law of a table, sampled: exact costs, weighted samples against their number, and resampling on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.chain.policies import Policy, policy_of
from mdlm_cfg.compare.metrics import expected_sampling_tv, histogram, total_variation
from mdlm_cfg.compare.weighted import break_even_samples, expected_tv, expected_weighted_tv
from mdlm_cfg.laws.policy_transitions import policy_or_own
from mdlm_cfg.laws.terminal import terminal_law, tilted_law
from mdlm_cfg.laws.weights import TiltedWeights, tilted_weights
from mdlm_cfg.sampling.smc import sequential_monte_carlo
from mdlm_cfg.studies.correction.findings import Cost, ResamplingRow, SampleRow, TableCorrection
from mdlm_cfg.studies.correction.options import Options
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.preconditions import check_space, law_key, table_of, target_class_of
from mdlm_cfg.support.progress import Pieces
from mdlm_cfg.targets.table import TableMixture

SMALLEST = 100  # samples of a set
MOST_SETS = 20  # that a mean is taken over
ENOUGH = 1000  # effective samples from which the limit of many is printed: weights have heavy tails
ORDER_OF = {"normalized": "uniform"}  # what the order of a kind of guidance is called, where it has another name


def correct_table(
    target: TableMixture,
    denoiser: Denoiser | None,
    plan: Plan,
    options: Options,
    progress: Callable[[str], None] | None = None,
) -> TableCorrection:
    """What weights and resampling make of guided samples, beside the tilted law they aim at.

    Args:
        denoiser: the learned one, small enough for its own law; None judges the target's own.
        plan: guidances of one number w each, first_hitting with any policy; its num_samples is the largest n.
    """
    z = target_class_of(plan, target)
    check_space(target, denoiser)
    denoisers: dict[str, Denoiser] = {"exact": target.denoiser()}
    if denoiser is not None:
        denoisers["learned"] = table_of(denoiser) or denoiser
    judged = list(denoisers)[-1]
    say = Pieces([1] * len(plan.guidances), progress)
    costs: list[Cost] = []
    laws: dict[str, Tensor] = {}
    rows, resampling = [], []
    for guidance in plan.guidances:
        say(f"weights and samples at w = {guidance.label}")
        aim = _Aim(denoisers[judged], guidance, z, plan.sampler.policy, tilted_law(target, guidance.constant, z))
        for name, source in denoisers.items():
            costs += _costs(name, source, aim, options)
        more, last = _sample_rows(aim, plan, options)
        rows += more
        resampling.append(last)
        kept = {"tilted": aim.tilted, "guided": aim.law, "weighted": aim.weights.law}
        laws |= {law_key(name, guidance): law for name, law in kept.items()}
    return TableCorrection(plan, options, z, judged, costs, rows, resampling, laws)


def sizes_of(plan: Plan) -> list[int]:
    """Numbers of samples: 100, 1,000, ... below the plan's own, and that."""
    sizes, n = [], SMALLEST
    while n < plan.num_samples:
        sizes.append(n)
        n *= 10
    return [*sizes, plan.num_samples]


@dataclass(frozen=True)
class _Aim:
    """The chain that is sampled, and the law that it should have; policy None is the kind's own."""

    denoiser: Denoiser
    guidance: Guidance
    target_class: int
    policy: Policy | None
    tilted: Tensor

    @cached_property
    def weights(self) -> TiltedWeights:
        return tilted_weights(self.denoiser, self.guidance, self.target_class, self.policy)

    @cached_property
    def law(self) -> Tensor:
        return terminal_law(self.denoiser, self.guidance, self.target_class, self.policy)

    def expected(self, num_samples: int) -> float | None:
        """The expected TV of weighted samples to the tilted law; None where too few are effective for the limit."""
        if num_samples * self.weights.ess < ENOUGH:
            return None
        return expected_weighted_tv(self.weights, self.tilted, num_samples)

    def mean_tv(self, x: Tensor, log_weights: Tensor | None, num_sets: int) -> float:
        """TV to the tilted law, the mean over sets of equally many samples, weighted or not."""
        parts = x.view(num_sets, -1, x.shape[1])
        weights = [None] * num_sets if log_weights is None else log_weights.view(num_sets, -1).softmax(dim=1)
        n = self.denoiser.num_tokens
        return sum(total_variation(histogram(p, n, w), self.tilted) for p, w in zip(parts, weights)) / num_sets


def _costs(name: str, denoiser: Denoiser, aim: _Aim, options: Options) -> list[Cost]:
    """Of the plan's own order first, and of the others that were asked for."""
    own = policy_or_own(aim.policy, aim.guidance)
    own_name = ORDER_OF.get(str(own), str(own))
    policies = {own_name: own} | {policy: policy_of(policy) for policy in options.policies if policy != own_name}
    found = []
    for policy_name, policy in policies.items():
        weights = tilted_weights(denoiser, aim.guidance, aim.target_class, policy)
        law = terminal_law(denoiser, aim.guidance, aim.target_class, policy)
        found.append(
            Cost(
                aim.guidance, policy_name, policy is own, name, weights.ess, weights.log_normalizer,
                total_variation(law, aim.tilted), total_variation(weights.law, aim.tilted),
                break_even_samples(weights, law, aim.tilted),
            )
        )  # fmt: skip
    return found


def _sample_rows(aim: _Aim, plan: Plan, options: Options) -> tuple[list[SampleRow], ResamplingRow]:
    """Sets of every size, and sequential Monte Carlo at the largest."""
    g, z = aim.guidance, aim.target_class
    x, log_weights = plan.sampler.draw_weighted(
        aim.denoiser, g, z, plan.num_samples, plan.generator("weighted samples", g, z, num_dims=aim.denoiser.num_dims)
    )
    rows = []
    for n in sizes_of(plan):
        sets = min(MOST_SETS, plan.num_samples // n)
        generator = plan.generator("resampled samples", g, z, n, num_dims=aim.denoiser.num_dims)
        corrected = sequential_monte_carlo(
            aim.denoiser, g, z, n * sets, policy=aim.policy, threshold=options.threshold,
            num_groups=options.num_groups * sets, generator=generator,
        )  # fmt: skip
        row = SampleRow(
            g, n, sets,
            guided=aim.mean_tv(x[: n * sets], None, sets),
            weighted=aim.mean_tv(x[: n * sets], log_weights[: n * sets], sets),
            resampled=aim.mean_tv(corrected.x, corrected.log_weights, sets),
            floor=expected_sampling_tv(aim.tilted, n),
            expected_guided=expected_tv(aim.law, aim.tilted, n),
            expected_weighted=aim.expected(n),
        )  # fmt: skip
        rows.append(row)
    return rows, ResamplingRow.of(corrected, g, aim.weights.log_normalizer)
