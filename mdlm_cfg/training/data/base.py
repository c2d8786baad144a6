"""Shared parts of all data modules: loaders, the randomness of an epoch, and a description.

Every module has, after `setup()`: `name`, `num_tokens`, `num_classes`, `grid_shape` (the product is D), `target` (the
exactly known distribution, or None), `class_names`, `value_names` and `describe()`. Training batches depend only on
(seed, epoch, rank), so a run that resumes at an epoch's start sees exactly the batches of an uninterrupted one, bit by
bit. Validation and test data do not depend on the seed: different runs are evaluated on the same data.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from mdlm_cfg.chain.checks import ends_of
from mdlm_cfg.support.errors import UserError, did_you_mean
from mdlm_cfg.support.numeric import whole_number
from mdlm_cfg.targets.data import ExampleKind, Target, description_of

Batch = tuple[Tensor, Tensor]
MOST = 2**31 - 1  # of anything counted


@dataclass(frozen=True)
class Loading:
    """How examples are split and batched.

    Attributes:
        batch_size: examples per training step (and rank).
        eval_batch_size: examples per validation and test step.
        num_val: examples to validate on.
        num_test: examples to test on; None is all there are. Fewer of given examples are a fixed random draw.
        seed: of the order and the draws of training; validation and test data do not depend on it.

    Raises:
        UserError: a count that is not a whole number of at least 1.
    """

    batch_size: int = 64
    eval_batch_size: int = 250
    num_val: int = 1000
    num_test: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(batch_size=self.batch_size, eval_batch_size=self.eval_batch_size, num_val=self.num_val)
        check_positive(num_test=1 if self.num_test is None else self.num_test)
        whole_number("seed", self.seed, 0)


def loading_of(settings: Mapping[str, Any]) -> Loading:
    """A `Loading` from the settings that remain once the data have taken their own.

    Raises:
        UserError: a setting that does not exist.
    """
    names = [one.name for one in fields(Loading)]
    for key in settings:
        if key not in names:
            near = did_you_mean(key, names)
            raise UserError(f"data.{key} is not a setting of these data: all data have {', '.join(names)}{near}")
    return Loading(**settings)


class Batches(Iterable[Batch]):
    """Ready batches, drawn again for each epoch.

    Not torch's DataLoader: there is nothing to collate, and it would take a tenth of the time of a toy's batch.

    Attributes:
        are_valid: whether they are certain to hold only values and classes of their data, and need no check.
    """

    def __init__(self, batches: Callable[[], Iterator[Batch]], num_batches: int, are_valid: bool = False) -> None:
        self.batches = batches
        self.num_batches = num_batches
        self.are_valid = are_valid

    def __iter__(self) -> Iterator[Batch]:
        return self.batches()

    def __len__(self) -> int:
        return self.num_batches


def shared_batches(x: Tensor, classes: Tensor, batch_size: int, rank: int, world_size: int) -> Iterator[Batch]:
    """One rank's batches (int64 (B, D), int64 (B,)) of fixed samples: every world_size-th batch, from number `rank` on.

    The batches are the same whatever the number of ranks, and no sample is in two. If they do not divide evenly, the
    last batch of some ranks is empty: all ranks must take the same number of steps.
    """
    for k in range(num_shared(len(x), batch_size, world_size)):
        rows = slice((k * world_size + rank) * batch_size, (k * world_size + rank + 1) * batch_size)
        yield x[rows].long(), classes[rows]


def num_shared(num_samples: int, batch_size: int, world_size: int) -> int:
    """The number of batches that every rank has in `shared_batches`."""
    return math.ceil(math.ceil(num_samples / batch_size) / world_size)


class DiffusionData(LightningDataModule):
    """Data to train on, which studies see as `mdlm_cfg.targets.data.Data`.

    A subclass sets the attributes below in `setup`, and defines one epoch's batches in `_epoch`.

    Attributes:
        device: where batches are made; see `place_on`.
        class_names: of the K classes, if the data have names; else None.
        value_names: of the N tokens, likewise.
    """

    name: str
    num_tokens: int
    num_classes: int
    grid_shape: tuple[int, ...]
    target: Target | None = None
    class_names: tuple[str, ...] | None = None
    value_names: tuple[str, ...] | None = None
    example_kind: ExampleKind | None = None
    steps_per_epoch: int
    _val: Batch  # x integer (n, D), classes int64 (n,)
    _test: Batch

    def __init__(self, loading: Loading) -> None:
        super().__init__()
        self.batch_size = loading.batch_size
        self.eval_batch_size = loading.eval_batch_size
        self.num_val = loading.num_val
        self.num_test = loading.num_test
        self.seed = loading.seed
        self.device = torch.device("cpu")
        self._epochs_begun = 0  # used where no trainer counts

    def place_on(self, device: torch.device | str) -> None:
        """After `setup`, keep all data on a device and make batches there; nothing is copied in a step.

        Generators belong to the device: the same seed gives different training batches on a GPU and on the CPU.
        Validation and test data are drawn on the CPU and moved, so they are the same everywhere.
        """
        self.device = torch.device(device)
        self._val = (self._val[0].to(device), self._val[1].to(device))
        self._test = (self._test[0].to(device), self._test[1].to(device))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """A batch that was made on the device is already there."""
        return batch if batch[0].device == device else super().transfer_batch_to_device(batch, device, dataloader_idx)

    @property
    def draws_valid_batches(self) -> bool:
        """Whether training `Batches` `are_valid`."""
        return False

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        raise NotImplementedError

    def _next_epoch(self) -> Iterator[Batch]:
        """The batches of the epoch that is current when the first is requested.

        A generator on purpose: a trainer that resumes makes its iterator before it has moved on to the next epoch.
        """
        trainer = self.trainer
        if trainer is None:
            self._epochs_begun += 1
            yield from self._epoch(self._epochs_begun - 1, 0, 1)
        else:
            yield from self._epoch(trainer.current_epoch, trainer.global_rank, trainer.world_size)

    def train_dataloader(self) -> Batches:
        """`steps_per_epoch` batches (x int64 (B, D), classes int64 (B,)), new ones every epoch."""
        return Batches(self._next_epoch, self.steps_per_epoch, self.draws_valid_batches)

    def val_dataloader(self) -> Batches:
        """A few fixed samples for validation during training."""
        return self._fixed_loader(*self._val)

    def test_dataloader(self) -> Batches:
        """The samples to report numbers on."""
        return self._fixed_loader(*self._test)

    def _fixed_loader(self, x: Tensor, classes: Tensor) -> Batches:
        trainer = self.trainer
        rank, world_size = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        # Lightning would itself spread a DataLoader's samples over the ranks, and give some of them to two
        batches = partial(shared_batches, x, classes, self.eval_batch_size, rank, world_size)
        return Batches(batches, num_shared(len(x), self.eval_batch_size, world_size))

    @property
    def test_x(self) -> Tensor:
        """Test tokens where the data are placed, integer (n, D)."""
        return self._test[0]

    @property
    def test_classes(self) -> Tensor:
        """Their classes, int64 (n,)."""
        return self._test[1]

    def test_examples(self) -> Batch:
        """See `mdlm_cfg.targets.data.Data`."""
        return self._test[0].cpu(), self._test[1].cpu()

    def val_examples(self) -> Batch | None:
        """See `mdlm_cfg.targets.data.Data`; None for data that are drawn from a target."""
        return None

    def train_examples(self, target_class: int, generator: torch.Generator) -> Tensor:
        """See `mdlm_cfg.targets.data.Data`."""
        raise TypeError(f"{self.name} has no fixed training examples: every batch is drawn from its target")

    def fingerprint(self) -> str:
        """A short hash of the distribution or the examples, by which a checkpoint recognises its data."""
        if self.target is None:
            raise NotImplementedError
        return self.target.fingerprint()

    def describe(self) -> dict[str, Any]:
        """The description of data in a checkpoint: plain ints, strings and lists.

        Value names are not part of the fingerprint, so they are stored: other letters may have the same numbers.
        """
        names = {} if self.value_names is None else {"value_names": content_hash(*self.value_names)}
        return description_of(self) | names


def short_name(dataset: str) -> str:
    """A data set's name, or the last part of a path without the .npz of a file."""
    return Path(dataset).resolve().name.removesuffix(".npz") or "data"


def content_hash(*parts: Tensor | str) -> str:
    """A short hash of tensors (on the CPU) and strings: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part if isinstance(part, str) else (tuple(part.shape), part.dtype)).encode())
        if isinstance(part, Tensor):
            plain = part.resolve_conj().contiguous().flatten()
            digest.update(plain.view(torch.uint8).numpy().tobytes())  # NumPy lacks some types
    return digest.hexdigest()[:16]


def check_positive(**counts: Any) -> None:
    """Raise UserError unless every count is a whole number of at least 1 (and below 2^31)."""
    for name, count in counts.items():
        whole_number(name, count, 1, MOST)


def check_batch(batch: Batch, num_tokens: int, num_classes: int) -> None:
    """Raise UserError for a batch of a user's own data with a number that is no value or class, such as the mask.

    Checked on the CPU only: elsewhere the check would wait for the device.
    """
    for what, numbers, count in zip(("values", "classes"), batch, (num_tokens, num_classes)):
        if numbers.device.type != "cpu" or numbers.numel() == 0:
            continue
        least, most = (int(number) for number in ends_of(numbers))
        if numbers.dtype != torch.int64 or least < 0 or most >= count:
            raise UserError(
                f"a batch of the data holds {what} from {least} to {most} of type {numbers.dtype}: they must be whole "
                f"numbers from 0 to {count - 1} (torch.int64)"
            )
