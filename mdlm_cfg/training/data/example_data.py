"""Given examples, each with its class: images, text, tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.data import ExampleKind
from mdlm_cfg.training.data.arrays import count_tokens, load_tokens
from mdlm_cfg.training.data.base import Batch, Batches, DiffusionData, content_hash, loading_of
from mdlm_cfg.training.data.examples import LEAST, Examples, check_enough, held_out, say_imbalance
from mdlm_cfg.training.data.text import load_text

MOST_VAL = 1000
VAL_SHARE = 0.1


class ExampleData(DiffusionData):
    """Given examples: each training epoch has all of them in a new order, in full batches.

    Validation examples are held out of training by one fixed draw (`held_out`), or are the first training examples,
    which show divergence, not overfitting. Test examples are used only for testing.

    Args:
        load: returns the examples.
        name: of the data.
        hold_out: whether validation examples are held out of training.
        num_val: the number of validation examples; None: a tenth of the non-test examples, at most 1,000.
        loading: see `Loading`.

    Attributes:
        train_x: the training examples as stored, integer (n, D).
        train_labels: int64 (n,).
        num_held_out: how many examples are held out for validation; 0 if training examples are used for validation.

    Raises:
        UserError: a count below 1; in `setup`, what `load` refuses, and more validation examples than can be held out.
    """

    train_x: Tensor
    train_labels: Tensor
    example_kind: ExampleKind = "tokens"

    def __init__(
        self,
        load: Callable[[], Examples],
        name: str,
        hold_out: bool = False,
        num_val: int | None = MOST_VAL,
        **loading: Any,
    ) -> None:
        super().__init__(loading_of({"num_val": MOST_VAL if num_val is None else num_val, **loading}))
        if not isinstance(hold_out, bool):
            raise UserError(f"hold_out = {hold_out!r} is not allowed: it must be true or false")
        self.hold_out = hold_out
        self.num_held_out = 0
        self.name = name
        self._takes_a_share = num_val is None
        self._load = load
        self._found: Examples | None = None  # between `prepare_data` and `setup`
        self._ready = False

    def prepare_data(self) -> None:
        """Load the examples, and fetch them if they are missing."""
        if not self._ready and self._found is None:
            self._found = self._load()

    def setup(self, stage: str | None = None) -> None:
        """Store the tokens of all examples, or the values from which tokens are drawn."""
        if self._ready:
            return
        found = self._load() if self._found is None else self._found
        check_enough(self.name, found.train_labels, LEAST, found.class_names)
        self.num_classes = found.num_classes
        self.class_names = found.class_names
        self.value_names = found.value_names
        self.grid_shape = tuple(found.train.shape[1:])
        train, test, coding = self._encoded(found)
        labels = found.train_labels
        test_labels = found.test_labels
        rows, val_rows = self._rows(labels)
        split = (f"{self.num_held_out} held out",) if self.hold_out else ()
        self._fingerprint = content_hash(found.train, labels, found.test, test_labels, coding, *split)
        stored = train.flatten(1)
        self.train_x = stored[rows]
        self.train_labels = labels[rows]
        say_imbalance(self.name, torch.bincount(self.train_labels), self.class_names, "{:,} training examples")
        self._val = self.tokens(stored[val_rows], generator_for("val")), labels[val_rows]
        tested = _drawn("tested", len(test_labels), self.num_test)
        self._test = test.flatten(1)[tested], test_labels[tested]
        self.steps_per_epoch = self._steps(1)
        self._found = None
        self._ready = True

    def _rows(self, labels: Tensor) -> tuple[Tensor | slice, Tensor | slice]:
        """The rows to train on and to validate on."""
        if self._takes_a_share:
            self.num_val = max(1, min(MOST_VAL, round(VAL_SHARE * len(labels))))
        if not self.hold_out:
            return slice(None), _drawn("validated", len(labels), self.num_val)
        self.num_held_out = self.num_val
        return held_out(self.name, labels, self.num_val)

    def _encoded(self, found: Examples) -> tuple[Tensor, Tensor, str]:
        """The training examples as stored, the test examples' tokens, and a description of how tokens are made."""
        self.num_tokens = count_tokens(found)
        return found.train, found.test, str(self.num_tokens)

    def tokens(self, stored: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Tokens, integer (..., D), from rows of `train_x`; random tokens use the generator."""
        return stored

    def train_examples(self, target_class: int, generator: torch.Generator) -> Tensor:
        """See `mdlm_cfg.targets.data.Data`."""
        return self.tokens(self.train_x[self.train_labels == target_class].cpu(), generator)

    def val_examples(self) -> Batch | None:
        """See `mdlm_cfg.targets.data.Data`."""
        return (self._val[0].cpu(), self._val[1].cpu()) if self.hold_out else None

    def fingerprint(self) -> str:
        """A short hash of examples, labels, how they become tokens, and how many are held out for validation."""
        return self._fingerprint

    def describe(self) -> dict[str, Any]:
        """The description of data in a checkpoint: plain ints, strings and lists."""
        return super().describe() | {"num_held_out": self.num_held_out}

    def place_on(self, device: torch.device | str) -> None:
        """See `DiffusionData.place_on`."""
        super().place_on(device)
        self.train_x = self.train_x.to(device)
        self.train_labels = self.train_labels.to(device)

    def _epoch(self, epoch: int, rank: int, world_size: int) -> Iterator[Batch]:
        # the order is drawn on the CPU: all ranks must share it, whatever their devices
        order = torch.randperm(len(self.train_x), generator=generator_for("order", self.seed, epoch))
        generator = generator_for("binarization", self.seed, epoch, rank, device=self.device)
        share = order[rank::world_size].to(self.device)
        for step in range(self._steps(world_size)):
            rows = share[step * self.batch_size : (step + 1) * self.batch_size]
            yield self.tokens(self.train_x[rows], generator).long(), self.train_labels[rows]

    def _steps(self, world_size: int) -> int:
        """Full batches in an epoch, the same number on every rank; at least one, which may be small."""
        return max(1, len(self.train_x) // world_size // self.batch_size)

    def train_dataloader(self) -> Batches:
        """Batches (x int64 (B, D), classes int64 (B,)): each epoch has all examples in a new order, in full batches."""
        self.steps_per_epoch = self._steps(1 if self.trainer is None else self.trainer.world_size)
        return super().train_dataloader()


def _drawn(what: str, num: int, wanted: int | None) -> Tensor | slice:
    """All of `num` rows, or as many as wanted by one fixed draw: the first ones may all be of one class."""
    if wanted is None or wanted >= num:
        return slice(None)
    return torch.randperm(num, generator=generator_for(what))[:wanted].sort().values


def token_file(dataset: str | Path, relabel: bool = False, **loading: Any) -> ExampleData:
    """The tokens of a .npz (see `load_tokens`), named after the file. loading: see `Loading`."""
    return _of_file(load_tokens, dataset, relabel, loading)


def text_file(dataset: str | Path, relabel: bool = False, **loading: Any) -> ExampleData:
    """The lines of a labelled text (see `load_text`), named after the file. loading: see `Loading`."""
    return _of_file(load_text, dataset, relabel, loading)


def _of_file(
    load: Callable[[Path, bool], Examples], dataset: str | Path, relabel: bool, loading: dict[str, Any]
) -> ExampleData:
    path = Path(dataset)
    return ExampleData(partial(load, path, relabel), path.resolve().stem or "data", **loading)
