"""The study of the tilted law, sampled: of a table, and of a Bernoulli mixture in many dimensions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.chain.policies import policy_of
from mdlm_cfg.laws.rates import partial_state_lattice
from mdlm_cfg.sampling.reference import check_positive_class, check_reference
from mdlm_cfg.sampling.smc import check_groups
from mdlm_cfg.studies.correction.findings import TableCorrection
from mdlm_cfg.studies.correction.mixture import classes_of, correct_mixture
from mdlm_cfg.studies.correction.mixture_findings import MixtureCorrection
from mdlm_cfg.studies.correction.options import Options
from mdlm_cfg.studies.correction.table import correct_table, sizes_of
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.preconditions import LEARNED_LAW_ENTRIES, target_class_of
from mdlm_cfg.studies.sampled import check_sampled
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.kept import Keep, keep_nothing
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.table import TableMixture


@dataclass(frozen=True)
class Correction(Options):
    """What correction to the tilted law costs, by weights and by resampling on the way; see `Options`."""

    def check(self, data: Any, plan: Plan) -> None:
        """Raise UserError for anything that `run` would refuse, before any time is spent."""
        target = data.target
        for guidance in plan.guidances:
            plan.sampler.check_weighted(guidance)
        for policy in self.policies:
            policy_of(policy)
        if isinstance(target, TableMixture):
            self._check_table(target, plan)
        elif isinstance(target, BernoulliMixture):
            check_sampled(plan, (target.num_tokens, target.num_dims, target.num_classes), None)
            check_groups(plan.num_samples, self.num_groups, self.threshold)
            check_reference(self.num_reference)
            for z in classes_of(plan, target):
                check_positive_class(target, z)
        else:
            raise UserError(
                f"the tilted law of {data.name} is not known: choose a table, such as data=toy_5d_hypercube, or "
                "data=bernoulli_mnist"
            )

    def _check_table(self, target: TableMixture, plan: Plan) -> None:
        z = target_class_of(plan, target)
        partial_state_lattice(target.denoiser(), z, states_kept=2)
        entries = (target.num_tokens + 1) ** target.num_dims * target.num_dims * target.num_tokens
        if entries > LEARNED_LAW_ENTRIES:
            raise UserError(
                f"{target.num_tokens} values in {target.num_dims} dimensions are too many for the exact weights of "
                "several policies: use fewer values or dimensions"
            )
        if target.class_weights[z] == 0 and any(guidance.constant > 0 for guidance in plan.guidances):
            raise UserError(f"class {z} has weight 0 in the mixture, so there is no tilted law: choose another class")
        for n in sizes_of(plan):
            check_groups(n, self.num_groups, self.threshold)

    def run(
        self,
        data: Any,
        denoiser: Denoiser | None,
        plan: Plan,
        progress: Callable[[str], None],
        keep: Keep = keep_nothing,
    ) -> TableCorrection | MixtureCorrection:
        """See `mdlm_cfg.studies.study.Study`."""
        self.check(data, plan)
        if isinstance(data.target, TableMixture):
            return correct_table(data.target, denoiser, plan, self, progress)
        return correct_mixture(data, denoiser, plan, self, progress, keep)
