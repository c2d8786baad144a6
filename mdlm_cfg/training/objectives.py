"""Training objectives: objects that turn a batch into a loss.

A new one is a subclass of `Objective` in a file, and a yaml in conf/objective that names it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mdlm_cfg.nets.wrapper import has_class_head
from mdlm_cfg.support.errors import UserError, shown
from mdlm_cfg.support.numeric import number, whole_number
from mdlm_cfg.training.averaged import averaged_objective
from mdlm_cfg.training.elbo import class_cross_entropy, drop_labels, nelbo, paired_nelbo
from mdlm_cfg.training.pooled import pool_of, pooled_nelbo
from mdlm_cfg.training.tilting import check_tilts, tilted

MAX_EVALUATIONS = 200_000  # of the network per step of the averaged objective

Losses = dict[str, Tensor]


class Objective:
    """The negative ELBO in nats of both conditionals, with the null class weighted by its share.

    Args:
        label_dropout: share of the null class, in [0, 1].
        label_smoothing: share of the uniform distribution in the targets, in [0, 1): see `smoothed`.

    Raises:
        UserError: a share out of its range.

    Attributes:
        trains_class_head: whether the loss trains a network's class head too.
    """

    trains_class_head = False

    def __init__(self, label_dropout: float = 0.33, label_smoothing: float = 0.0) -> None:
        number("objective.label_dropout", label_dropout, 0, 1)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"objective.label_smoothing = {label_smoothing} must be at least 0 and below 1")
        if label_dropout in (0, 1):
            missing = "without a class" if label_dropout == 0 else "with a class"
            warnings.warn(
                f"objective.label_dropout={label_dropout:g} trains nothing {missing}, and guidance needs both",
                stacklevel=2,
            )
        self.label_dropout = label_dropout
        self.label_smoothing = label_smoothing

    def prepare(self, net: nn.Module) -> None:
        """Raise UserError unless a network can be trained this way; called once, before training."""

    def num_rows(self, batch_size: int) -> int:
        """The number of partial states on which the network is called in a step on `batch_size` examples."""
        return 2 * batch_size

    def loss(self, net: nn.Module, x: Tensor, classes: Tensor, generator: torch.Generator) -> Losses:
        """The loss of a batch, and other numbers to log.

        Args:
            net: (tokens, classes) -> log-probs (B, D, N), with `num_tokens`, `num_dims` and `num_classes`.
            x: clean data, int64 (B, D).
            classes: int64 (B,), values 0..K-1.
            generator: of masks and dropped labels, on the device of `x`.

        Returns:
            scalars in nats per sample: "loss", which is minimised, and, if known, "nelbo" and "nelbo_null".
        """
        raise UserError(f"{type(self).__name__} is not an objective: it must define loss(net, x, classes, generator)")

    def weigh(self, conditional: Tensor, null: Tensor) -> Losses:
        """The losses from both conditionals, with the null class weighted by its share."""
        share = self.label_dropout
        return {"loss": (1 - share) * conditional + share * null, "nelbo": conditional, "nelbo_null": null}


def check_losses(losses: Any, name: str) -> None:
    """Raise UserError unless a user's own objective returned scalars by name, with a "loss" to minimise."""
    if not (isinstance(losses, dict) and "loss" in losses):
        raise UserError(
            f'{name}.loss must return a mapping with "loss", such as self.weigh(...), and returns {shown(losses)}'
        )
    for key, value in losses.items():
        if not (isinstance(value, Tensor) and value.numel() == 1):
            raise UserError(f"{name}.loss must return scalar tensors, and {key!r} is {shown(value)}")
    if not losses["loss"].requires_grad:
        raise UserError(f"the loss of {name} does not depend on the network's parameters: nothing would be trained")


class Averaged(Objective):
    """The NELBO over every partial state and label at once, under the batch's histogram: small N and D only.

    Args:
        label_dropout, label_smoothing: see `Objective`.
        tilts: f of the tilted classes whose partial states are visited (`mdlm_cfg.training.tilting`); [0] is the NELBO.
        rows: the most pairs of a partial state and a label in a step; if there are more, this many are drawn by their
            weights, and the loss is an unbiased estimate. None: no limit.

    Raises:
        UserError: a tilt out of its range, or rows < 1.
    """

    def __init__(
        self,
        label_dropout: float = 0.33,
        label_smoothing: float = 0.0,
        tilts: Sequence[float] = (0.0,),
        rows: int | None = None,
    ) -> None:
        super().__init__(label_dropout, label_smoothing)
        self.tilts = check_tilts(tilts)
        self.rows = None if rows is None else whole_number("objective.rows", rows)

    def prepare(self, net: nn.Module) -> None:
        """Refuse more than `MAX_EVALUATIONS` evaluations of the network a step."""
        n, d, k = _shape(net)
        evaluations = ((n + 1) ** d - n**d) * (k + 1)
        if evaluations > MAX_EVALUATIONS:
            raise UserError(
                f"the averaged objective would evaluate the network {evaluations:.3g} times a step "
                f"(at most {MAX_EVALUATIONS}): use objective=pooled, or objective=sampled for images"
            )

    def num_rows(self, batch_size: int) -> int:
        """0: the number does not depend on the examples, and `prepare` bounds it."""
        return 0

    def loss(self, net: nn.Module, x: Tensor, classes: Tensor, generator: torch.Generator) -> Losses:
        """See `Objective.loss`; without more than `rows` pairs, nothing is drawn."""
        averaged = averaged_objective(*_shape(net), x.device)
        histogram = averaged.histogram(x, classes)
        visited = [histogram] if self.tilts == (0.0,) else [tilted(histogram, self.tilts), histogram]
        found = averaged.under(net, histogram, visited, self.label_smoothing, self.rows, generator)
        return self.weigh(*found[-1]) | {"loss": self.weigh(*found[0])["loss"]}


class Pooled(Objective):
    """One mask each for some of the batch's points, with targets from the whole batch (`pooled_nelbo`).

    Args:
        label_dropout: see `Objective`. label_smoothing: see `smoothed_targets`.
        rows: partial states of a step; the batch should be much larger.
        tilts: f of the tilted classes from which they come, in equal numbers (`mdlm_cfg.training.tilting`). Tilts and
            targets use the same batch, whose sampling error biases what is learned if f > 0; a batch that is the
            whole data set, as in experiment=tiny_mnist, has none.

    Raises:
        UserError: rows < 1, or a tilt out of its range.
    """

    def __init__(
        self,
        label_dropout: float = 0.33,
        label_smoothing: float = 0.0,
        rows: int = 512,
        tilts: Sequence[float] = (0.0,),
    ) -> None:
        super().__init__(label_dropout, label_smoothing)
        self.tilts = check_tilts(tilts)
        self.rows = whole_number("objective.rows", rows)

    def num_rows(self, batch_size: int) -> int:
        """See `Objective.num_rows`."""
        return 2 * min(self.rows, batch_size)

    def loss(self, net: nn.Module, x: Tensor, classes: Tensor, generator: torch.Generator) -> Losses:
        """See `Objective.loss`."""
        n, _, k = _shape(net)
        pool = pool_of(x, classes, n, k)
        visits = tilted(pool.counts, self.tilts)
        rows = min(self.rows, len(x))
        drawn = pooled_nelbo(net, pool, rows, generator, visits=visits, smoothing=self.label_smoothing)
        chosen, plain = ((conditional.mean(), null.mean()) for conditional, null in drawn)
        return self.weigh(*plain) | {"loss": self.weigh(*chosen)["loss"]}


class Sampled(Objective):
    """One mask per data point.

    Args:
        label_dropout: share of the null class; if not `paired`, the probability that a label is dropped.
        label_smoothing: see `Objective`.
        paired: weight both conditionals of every data point, on the same mask, instead of dropping labels.
    """

    def __init__(self, label_dropout: float = 0.33, label_smoothing: float = 0.0, paired: bool = True) -> None:
        super().__init__(label_dropout, label_smoothing)
        self.paired = paired

    def num_rows(self, batch_size: int) -> int:
        """See `Objective.num_rows`."""
        return (2 if self.paired else 1) * batch_size

    def loss(self, net: nn.Module, x: Tensor, classes: Tensor, generator: torch.Generator) -> Losses:
        """See `Objective.loss`."""
        n, _, k = _shape(net)
        if self.paired:
            conditional, null = paired_nelbo(net, x, classes, n, k, generator, self.label_smoothing)
            return self.weigh(conditional.mean(), null.mean())
        labels = drop_labels(classes, k, self.label_dropout, generator)
        return {"loss": nelbo(net, x, labels, n, generator, self.label_smoothing).mean()}


class Classifying(Sampled):
    """`Sampled` plus the cross entropy of the class given the partial state, for classifier guidance.

    The states have m masked coordinates, m uniform on 0..D: an exact rule needs finished states too.
    Its minimum is the mean entropy of p(class | x_U) over them, and only the exact posterior attains it.

    Args:
        label_dropout, label_smoothing, paired: see `Sampled`.
        class_weight: of the cross entropy relative to the NELBO, both in nats per sample.

    Raises:
        UserError: a weight that is not above 0.
    """

    trains_class_head = True

    def __init__(
        self,
        label_dropout: float = 0.33,
        label_smoothing: float = 0.0,
        paired: bool = True,
        class_weight: float = 1.0,
    ) -> None:
        super().__init__(label_dropout, label_smoothing, paired)
        self.class_weight = number("objective.class_weight", class_weight, 0, above=True)

    def prepare(self, net: nn.Module) -> None:
        """Refuse a network without a class head."""
        if not has_class_head(net):
            raise UserError("objective=classifier needs a network that has a class head: give net.class_head=true")

    def num_rows(self, batch_size: int) -> int:
        """See `Objective.num_rows`."""
        return super().num_rows(batch_size) + batch_size

    def loss(self, net: nn.Module, x: Tensor, classes: Tensor, generator: torch.Generator) -> Losses:
        """See `Objective.loss`; "class" is the cross entropy of the class."""
        losses = super().loss(net, x, classes, generator)
        cost = class_cross_entropy(net.class_log_probs, x, classes, _shape(net)[0], generator).mean()  # type: ignore[arg-type]
        return losses | {"loss": losses["loss"] + self.class_weight * cost, "class": cost}


def _shape(net: nn.Module) -> tuple[int, int, int]:
    """N, D and K of a network."""
    n, d, k = (int(getattr(net, name)) for name in ("num_tokens", "num_dims", "num_classes"))  # type: ignore[arg-type]
    return n, d, k
