"""Training a network on the negative ELBO, and evaluating it during training."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import Tensor, nn

from mdlm_cfg.chain.kinds import Kind, kind_of
from mdlm_cfg.nets.optimizer import allow_clipping
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.instantiate import calling, code_of_the_user, is_ours
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.support.seeds import generator_for, seed_for
from mdlm_cfg.training.annealing import Annealing
from mdlm_cfg.training.checkpoints import stamp
from mdlm_cfg.training.compiled import compiled
from mdlm_cfg.training.data.base import check_batch
from mdlm_cfg.training.elbo import nelbo
from mdlm_cfg.training.lean import LeanModule
from mdlm_cfg.training.objectives import Objective, check_losses
from mdlm_cfg.training.unfinished import BEGUN, CODE, begun_with
from mdlm_cfg.training.watching import ExactWatch, mean_and_errors, moments, watch_for

NEVER = 2**62  # a step that is not reached


class Diverged(UserError):
    """The loss is NaN or infinite, so training cannot continue and nothing is saved."""


class MaskedDiffusion(LeanModule):
    """A network trained on the negative ELBO, with label dropout.

    Args:
        net: (tokens, classes) -> log-probs (B, D, N), with `num_tokens`, `num_dims` and `num_classes`.
        objective: what it is trained on.
        optimizer: makes the optimiser from the network.
        annealing: of the learning rate.
        num_draws: masks per data point when testing.
        kind: of guidance, whose laws are monitored if the data are a table.
        seed: of every mask and dropped label.
        is_compiled: whether training steps use the network as compiled by torch.compile; all else uses it as it is.
        record: the checkpoint's record of the run, plain containers: `mdlm_cfg.training.checkpoints.RECORDED`.

    Attributes:
        val_nelbo: with the class, in nats, of the last validation with the averaged weights; None before the first.
        shown: the last logged number to show during training, in nats, by its name.

    Raises:
        UserError: an argument that is not allowed, or a network that the objective cannot train.
    """

    def __init__(
        self,
        net: nn.Module,
        objective: Objective,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        *,
        annealing: Annealing | None = None,
        num_draws: int = 4,
        kind: Kind | str = "rate",
        seed: int = 0,
        is_compiled: bool = False,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        objective.prepare(net)
        self.save_hyperparameters(dict(record or {}), logger=False)  # a logger gets the configuration elsewhere
        self.net = net
        self.objective = objective
        self.optimizer = optimizer
        self.annealing = annealing or Annealing()
        self.num_draws = whole_number("num_draws", num_draws)
        self.kind = kind_of(kind)
        self.seed = seed
        self.is_compiled = is_compiled
        self._trained_net = (self.net,)  # a tuple, so that a compiled network is not registered as a second submodule
        self.val_nelbo: float | None = None
        self.shown: dict[str, float] = {}
        self._validated_step: int | None = None
        self._moments = torch.zeros(2, 4, dtype=torch.float64)
        self._started = time.monotonic()
        self._minutes = 0.0
        self.begun_with = ""
        self._watch: ExactWatch | None = None
        self._options: list[dict[str, Any]] = []  # of the optimiser's groups, as configured
        self._first_bad = torch.tensor(NEVER)
        self._batches = 0  # done in this epoch
        self._is_checked = True  # whether training batches must be checked
        self._losses: dict[str, float] = {}  # of the current step, if it is logged
        self._step = 0  # steps before the current one
        self._has_own_objective = not is_ours(type(objective))

    # training

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, classes = batch
        if self._is_checked:
            check_batch(batch, *self._counts())
        trainer = self.trainer
        step = self._step = trainer.global_step
        key = (step, batch_idx, self.seed, trainer.global_rank)
        generator = generator_for("mask", *key, device=x.device)
        _seed_torch(x.device, seed_for("step", *key))
        with calling("objective"):
            losses = self.objective.loss(*self._trained_net, x, classes, generator)
        if self._has_own_objective:
            check_losses(losses, type(self.objective).__name__)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        is_logged = every > 0 and (step + 1) % every == 0
        loss = losses["loss"].detach()
        if loss.device.type != "cpu" or not math.isfinite(loss.item()):
            self._first_bad = torch.minimum(self._first_bad, torch.where(loss.isfinite(), NEVER, step))
        if is_logged or loss.device.type == "cpu":  # elsewhere a check at every step would wait for the device
            self.refuse_divergence()
        self._losses = {name: value.item() for name, value in losses.items()} if is_logged else {}
        if is_logged:
            name = "nelbo" if "nelbo" in losses else "loss"
            self.shown = {name: self._losses[name]}
        return losses["loss"]

    # Lightning inspects the arguments in every step, each in turn: so this has one for all
    training_step.__signature__ = inspect.signature(lambda *_: None)  # type: ignore[attr-defined]

    def _log_losses(self) -> None:
        """Log the losses of the completed step directly to the loggers, because Lightning's `log` takes longer."""
        numbers = {f"train/{name}": value for name, value in self._losses.items()}
        numbers |= {"train/lr": self.trainer.optimizers[0].param_groups[0]["lr"], "epoch": self.current_epoch}
        for logger in self.loggers:
            logger.log_metrics(numbers, step=self.global_step - 1)
        self._losses = {}

    def refuse_divergence(self) -> None:
        """Raise `Diverged` if a loss was, or a weight is, NaN or infinite."""
        step = int(self._first_bad)
        if step < NEVER:
            raise Diverged(
                f"the loss is NaN or infinite at step {step} (epoch {self.current_epoch}, seed {self.seed}): training "
                "has diverged; lower optimizer.lr"
            )

    def has_finite_weights(self) -> bool:
        """Whether no weight is NaN or infinite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.net.parameters())

    # optimisation

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = self.optimizer(self.net)
        self._options = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        return optimizer

    def on_train_start(self) -> None:
        """Replace a resumed optimiser's saved settings by those of the present configuration.

        Until the next step begins, the learning rate is that of the step before, as in an uninterrupted run.
        """
        if self.is_compiled:
            self._trained_net = (compiled(self.net),)
        super().on_train_start()
        self._is_checked = not getattr(self.trainer.train_dataloader, "are_valid", False)
        self._started = time.monotonic()
        self._first_bad = torch.tensor(NEVER, device=self.device)
        self._batches = 0
        for group, options in zip(self.trainer.optimizers[0].param_groups, self._options, strict=True):
            group.update({key: value for key, value in options.items() if key != "lr"})
        if isinstance(self.trainer.precision_plugin, MixedPrecision) and self.trainer.gradient_clip_val:
            allow_clipping(self.trainer.optimizers[0])

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the learning rate: a function of the progress, not of a scheduler's state."""
        self._batches = batch_idx
        trainer = self.trainer
        factor = self.annealing.factor(trainer.global_step, self.progress())
        for group, options in zip(trainer.optimizers[0].param_groups, self._options, strict=True):
            group["lr"] = options["lr"] * factor

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._batches = batch_idx + 1
        if self._losses and self.global_step > self._step:  # a step over several batches is taken at the last of them
            self._log_losses()

    def progress(self) -> float:
        """The share of training done: of its epochs, steps or time, whichever is furthest; 0 without a limit."""
        trainer = self.trainer
        shares = [0.0]
        epochs = trainer.max_epochs or 0
        if epochs > 0:
            batches = float(trainer.num_training_batches)
            shares.append((trainer.current_epoch + self._batches / max(batches, 1.0)) / epochs)
        if trainer.max_steps > 0:
            shares.append(self.global_step / trainer.max_steps)
        for timer in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(timer, Timer) and (left := timer.time_remaining()) is not None:
                elapsed = timer.time_elapsed()
                shares.append(elapsed / max(elapsed + left, 1e-9))
        return min(max(shares), 1.0)

    def minutes(self) -> float:
        """Minutes of training, including the run's earlier parts."""
        return self._minutes + (time.monotonic() - self._started) / 60

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the program version, the minutes, the share of training done, and the validation NELBO if known."""
        nelbo = self.val_nelbo if self._validated_step == self.global_step else None
        is_over = self.trainer.should_stop and self.trainer.fit_loop._can_stop_early
        progress = 1.0 if is_over else self.progress()  # a callback may end training before its limits
        checkpoint.update(stamp() | {"minutes": self.minutes(), "progress": progress, "val_nelbo": nelbo})
        checkpoint[BEGUN] = self.begun_with
        checkpoint[CODE] = code_of_the_user()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._minutes = float(checkpoint.get("minutes", 0.0))
        self.begun_with = begun_with(checkpoint, self.hparams.get("config", {}))

    # validation and test

    def on_validation_epoch_start(self) -> None:
        """Log exact numbers of a table now: at the epoch's end the averaged weights are already swapped out."""
        if not self.has_finite_weights():
            raise Diverged(
                f"the weights are not finite at step {self.global_step}: training has diverged; lower optimizer.lr"
            )
        self._moments = self._no_moments()
        numbers = self._exact_numbers() | {"minutes": self.minutes()}
        self.log_dict({f"val/{name}": value for name, value in numbers.items()}, batch_size=1)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._add_moments(batch, 1, "val", batch_idx)

    def on_validation_epoch_end(self) -> None:
        """The mean NELBO of the validation samples of all ranks."""
        (conditional, *_), (null, *_) = (mean_and_errors(total, 1) for total in self._all_moments())
        if not math.isfinite(conditional + null):
            raise Diverged(
                f"the validation NELBO is {conditional} with the class and {null} without at step {self.global_step}: "
                "training has diverged; lower optimizer.lr"
            )
        self.val_nelbo = conditional
        self._validated_step = self.global_step
        self.log_dict({"val/nelbo": conditional, "val/nelbo_null": null}, prog_bar=True, batch_size=1)

    def on_test_epoch_start(self) -> None:
        self._moments = self._no_moments()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._add_moments(batch, self.num_draws, "test", batch_idx)

    def on_test_epoch_end(self) -> None:
        """NELBO on the test set with two standard errors: of the masks alone, and of masks and data."""
        totals = self._all_moments()
        numbers: dict[str, float] = {}
        for suffix, total in zip(("", "_null"), totals):
            mean, of_masks, of_data = mean_and_errors(total, self.num_draws)
            numbers[f"test/nelbo{suffix}"] = mean
            errors = {"data_se": of_data, "mc_se": of_masks}
            numbers |= {f"test/nelbo{suffix}_{name}": error for name, error in errors.items() if error is not None}
        numbers |= {f"test/{name}": value for name, value in self._exact_numbers().items()}
        self.log_dict(numbers)

    def _no_moments(self) -> Tensor:
        """Zero moments (2, 4), on the batches' device: moving those of every batch would wait for the device."""
        exact = torch.float32 if self.device.type == "mps" else torch.float64  # mps has no float64
        return torch.zeros(2, 4, dtype=exact, device=self.device)

    def _counts(self) -> tuple[int, int]:
        """N and K."""
        return int(self.net.num_tokens), int(self.net.num_classes)  # type: ignore[arg-type]

    def _add_moments(self, batch: tuple[Tensor, Tensor], num_draws: int, what: str, batch_idx: int) -> None:
        """Add a batch's draws of the NELBO, with the class and without it, on the same masks at every call.

        The masks depend on the batch, not on its rank: on two ranks every batch has the masks it has on one.
        """
        x, classes = batch
        if len(x) == 0:
            return
        n, k = self._counts()
        check_batch(batch, n, k)
        index = batch_idx * self.trainer.world_size + self.global_rank
        for total, labels in zip(self._moments, (classes, torch.full_like(classes, k))):
            generator = generator_for(what, index, self.seed, 0, device=x.device)
            with calling("net"):
                draws = [nelbo(self.net, x, labels, n, generator) for _ in range(num_draws)]
            total += moments(torch.stack(draws).to(total.dtype))

    def _all_moments(self) -> Tensor:
        """The moments (2, 4) of all ranks together, of NELBOs with the class and without one."""
        return self.trainer.strategy.reduce(self._moments, reduce_op="sum").cpu()

    def _exact_numbers(self) -> dict[str, float]:
        target = getattr(self.trainer.datamodule, "target", None)  # type: ignore[attr-defined]
        self._watch = watch_for(target, self._watch, self.kind)
        return {} if self._watch is None else self._watch.numbers(self.net)


def _seed_torch(device: torch.device, seed: int) -> None:
    """Seed torch's own generators, used by dropout and own optimisers, whose states no checkpoint holds."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # `torch.manual_seed` takes a hundred times as long
    else:
        torch.manual_seed(seed)
