"""What a rule of guidance needs besides the denoiser: the weaker denoiser of `auto`, the classifier of `classifier`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_cfg.chain.classifier_rule import Classifier
from mdlm_cfg.chain.denoiser import Denoiser
from mdlm_cfg.nets.wrapper import NetClassifier, NetDenoiser, has_class_head
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import names_in
from mdlm_cfg.support.numeric import number
from mdlm_cfg.support.schema import SampleSchema, SamplingSchema, Schema, plain
from mdlm_cfg.targets.posterior import POSTERIORS, posterior_of
from mdlm_cfg.targets.table import TableMixture
from mdlm_cfg.training.runs import load_run

Sampled = Schema | SampleSchema
RULE_OF = {"weak": "auto", "predictor": "classifier"}  # each setting, and its rule


@dataclass(frozen=True)
class Guides:
    """The weaker denoiser and the classifier of a command, where its rule of guidance needs them.

    Attributes:
        weak, classifier: None where there is none.
        described: what they are, for the report's description of the run.
    """

    weak: Denoiser | None = None
    classifier: Classifier | None = None
    described: Mapping[str, str] = field(default_factory=dict)

    def to(self, device: torch.device) -> None:
        """Move networks to a device."""
        for one in (self.weak, self.classifier):
            if isinstance(net := getattr(one, "net", None), nn.Module):
                net.to(device)

    def need_data(self, config: Sampled, own: NetDenoiser) -> bool:
        """Whether `completed` takes something from the data of a network's run."""
        needed = rules_in(config)
        is_exact = "classifier" in needed and self.classifier is None and not has_class_head(own.net)
        return is_exact or ("auto" in needed and config.weak.smoothing is not None)

    def completed(self, config: Sampled, target: Any, own: NetDenoiser | None = None) -> Guides:
        """These guides, completed with what comes from the data or from the guided network itself.

        Args:
            config: of the command. target: the exact distribution of the data, or None. own: the guided network.

        Raises:
            UserError: a table is to be smoothed, and the data are not one.
        """
        needed = rules_in(config)
        found = self
        if "auto" in needed and self.weak is None and (share := config.weak.smoothing) is not None:
            if not isinstance(target, TableMixture):
                raise UserError(f"weak.smoothing={share:g} is only for data given as a table: give weak.ckpt_path=RUN")
            found = found._with(f"the data's table, smoothed by {share:g}", weak=smoothed(target, share).denoiser())
        if "classifier" in needed and self.classifier is None:
            if own is not None and has_class_head(own.net):
                found = found._with("the network's class head", classifier=NetClassifier(own.net, own.batch_size))
            elif isinstance(target, tuple(POSTERIORS)):
                found = found._with("the exact posterior of the data", classifier=posterior_of(target))
        return found

    def _with(self, what: str, **found: Any) -> Guides:
        (name,) = found
        return replace(self, **found, described={**self.described, NAMES[name]: what})


NAMES = {"weak": "weaker denoiser", "classifier": "classifier"}


def smoothed(target: TableMixture, share: float) -> TableMixture:
    """A table whose classes are mixed with a share of the uniform distribution: (1 - s) p(x | z) + s / N^D."""
    states = target.num_tokens**target.num_dims
    return TableMixture((1 - share) * target.class_pmfs + share / states, target.class_weights)


def guides_of(config: Sampled, given: Sampled | None = None) -> Guides:
    """The guides that the command line names by a path; `Guides.completed` adds the rest.

    Args:
        config: with `guidance`, `weak`, `predictor`, `batch_size` and `net`. given: that of the command line alone,
            where `config` has settings of a checkpoint too.

    Raises:
        UserError: a setting of another rule or out of range; a checkpoint that cannot be used.
    """
    needed = rules_in(config)
    _check_settings(config, given or config, needed)
    trusted = names_in(plain(given or config).get("net"))
    guides = Guides()
    if "auto" in needed and (path := config.weak.ckpt_path) is not None:
        run = load_run(path, config.batch_size, trusted)
        guides = guides._with(str(run.path), weak=run.denoiser)
    if "classifier" in needed and (path := config.predictor.ckpt_path) is not None:
        run = load_run(path, config.batch_size, trusted)
        if not has_class_head(run.net):
            raise UserError(
                f"predictor.ckpt_path={path} holds no classifier: give a run of train.py objective=classifier "
                "net.class_head=true"
            )
        guides = guides._with(str(run.path), classifier=NetClassifier(run.net, config.batch_size))
    return guides


def rules_in(config: SamplingSchema) -> set[str]:
    """The rules in a configuration's guidance that need something besides the denoiser."""
    words = config.guidance
    return set(re.findall(r"\b(auto|classifier)\b", words)) if isinstance(words, str) else set()


def _check_settings(config: Sampled, given: Sampled, needed: Collection[str]) -> None:
    """Raise UserError where settings belong to a rule that is not used, or a rule's own are not what it needs."""
    for name, rule in RULE_OF.items():
        used = [key for key, value in vars(getattr(given, name)).items() if value is not None]
        if used and rule not in needed:
            raise UserError(
                f"{name}.{used[0]} belongs to the rule {rule}: give guidance={rule}, or leave {name}.{used[0]} out"
            )
    weak = config.weak
    if "auto" in needed and weak.smoothing is not None:
        number("weak.smoothing", weak.smoothing, 0, 1, above=True)
    if "auto" in needed and (weak.ckpt_path is None) == (weak.smoothing is None):
        raise UserError(
            "guidance=auto needs one weaker denoiser: give either weak.ckpt_path=RUN, a smaller network or an earlier "
            "checkpoint (train.py keep_steps=[100] keeps one), or, for data given as a table, weak.smoothing=0.3"
        )


class _Unknown:
    """Stands for a denoiser or a classifier where only the words of a configuration are checked."""

    num_classes = num_tokens = num_dims = 0

    def __call__(self, *query: Any) -> Tensor:
        raise NotImplementedError

    def of_one_hot(self, one_hot: Tensor) -> Tensor:
        raise NotImplementedError


UNKNOWN = Guides(_Unknown(), _Unknown())  # type: ignore[arg-type] # it is never called
