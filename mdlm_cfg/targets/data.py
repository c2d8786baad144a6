"""The interface of data for studies, whether read from files or drawn from a known distribution."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.bernoulli import BernoulliMixture
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture

Target = TableMixture | BernoulliMixture | HiddenMarkovMixture
Labelled = tuple[Tensor, Tensor]  # tokens, integer (n, D), and classes, int64 (n,)
ExampleKind = Literal["images", "tokens"]


class Data(Protocol):
    """Data that are ready to be studied. `mdlm_cfg.training.data` has those that networks are trained on.

    Attributes:
        name: the name in reports.
        num_tokens: N values of a coordinate.
        num_classes: K.
        grid_shape: the shape of the grid of coordinates; its product is D.
        target: the distribution that they are drawn from, where it is known exactly; else None.
        class_names: K of them, or None. value_names: N of them, or None.
        example_kind: the kind of training examples, "images" or "tokens"; None where there are none, because every
            batch is drawn from the target.
    """

    @property
    def name(self) -> str: ...
    @property
    def num_tokens(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def grid_shape(self) -> tuple[int, ...]: ...
    @property
    def target(self) -> Target | None: ...
    @property
    def class_names(self) -> tuple[str, ...] | None: ...
    @property
    def value_names(self) -> tuple[str, ...] | None: ...
    @property
    def example_kind(self) -> ExampleKind | None: ...

    def test_examples(self) -> Labelled:
        """All test examples on the CPU: tokens, integer (n, D), and classes, int64 (n,)."""
        ...

    def val_examples(self) -> Labelled | None:
        """Held-out examples like the test examples, on which no network was trained; None if there are none."""
        ...

    def train_examples(self, target_class: int, generator: torch.Generator) -> Tensor:
        """The training examples of one class on the CPU, integer (m, D), of data with an `example_kind`.

        Args:
            generator: draws their tokens, where these are random (grey values that are binarised).
        """
        ...

    def fingerprint(self) -> str:
        """A short hash of the distribution or of the examples."""
        ...

    def describe(self) -> dict[str, Any]:
        """The description in checkpoints and reports: plain numbers, strings and lists."""
        ...


@dataclass(frozen=True)
class KnownData:
    """Data known exactly: a target with a name, and test examples drawn from it.

    Attributes:
        target: the distribution.
        name: the name in reports.
        grid_shape: the shape of the grid of coordinates; default (D,).
        num_test: number of test examples, which are the same in every process.
    """

    target: Target
    name: str
    grid_shape: tuple[int, ...] = ()
    num_test: int = 10_000
    example_kind: ExampleKind | None = field(default=None, init=False)
    num_tokens: int = field(init=False)
    num_classes: int = field(init=False)
    class_names: tuple[str, ...] | None = field(init=False)
    value_names: tuple[str, ...] | None = field(init=False)

    def __post_init__(self) -> None:
        if not self.grid_shape:
            object.__setattr__(self, "grid_shape", (self.target.num_dims,))
        for name in ("num_tokens", "num_classes", "class_names", "value_names"):
            object.__setattr__(self, name, getattr(self.target, name))

    def test_examples(self) -> Labelled:
        """See `Data`."""
        return self.target.sample(self.num_test, generator_for("test"))

    def val_examples(self) -> None:
        """There are none."""

    def train_examples(self, target_class: int, generator: torch.Generator) -> Tensor:
        """There are none."""
        raise TypeError(f"{self.name} has no fixed training examples: they are drawn from its target")

    def fingerprint(self) -> str:
        """The target's."""
        return self.target.fingerprint()

    def describe(self) -> dict[str, Any]:
        """See `Data`."""
        return description_of(self)


@dataclass(frozen=True)
class UnknownData:
    """Data of which only the space of their denoiser is known.

    Attributes:
        name: the name in reports.
        num_tokens: N. num_classes: K. grid_shape: the shape of the grid of coordinates.
        class_names: K of them, or None. value_names: N of them, or None.
    """

    name: str
    num_tokens: int
    num_classes: int
    grid_shape: tuple[int, ...]
    class_names: tuple[str, ...] | None = None
    value_names: tuple[str, ...] | None = None
    target: Target | None = field(default=None, init=False)
    example_kind: ExampleKind | None = field(default=None, init=False)

    def test_examples(self) -> Labelled:
        """There are none."""
        raise TypeError(f"nothing is known of {self.name}, and there are no examples")

    def val_examples(self) -> None:
        """There are none."""

    def train_examples(self, target_class: int, generator: torch.Generator) -> Tensor:
        """There are none."""
        raise TypeError(f"nothing is known of {self.name}, and there are no examples")

    def fingerprint(self) -> str:
        """Empty: there is no distribution, and there are no examples."""
        return ""

    def describe(self) -> dict[str, Any]:
        """See `Data`."""
        return description_of(self)


def description_of(data: Data) -> dict[str, Any]:
    """The description of any data: plain numbers, strings and lists."""
    return {
        "name": data.name,
        "num_tokens": data.num_tokens,
        "num_classes": data.num_classes,
        "grid_shape": list(data.grid_shape),
        "fingerprint": data.fingerprint(),
    }


def class_name(data: Data, target_class: int) -> str:
    """The name of a class, or its number if it has none."""
    return str(target_class) if data.class_names is None else data.class_names[target_class]
