"""What studies may ask of data: every data module and a bare target answer alike."""

from __future__ import annotations

from typing import cast

import torch

from mdlm_cfg.support.seeds import generator_for
from mdlm_cfg.targets.data import Data, KnownData, class_name
from mdlm_cfg.targets.toys import toy_2d_overlap
from mdlm_cfg.training.data import TableData


def test_a_bare_target_answers_as_the_data_module_of_that_target_does() -> None:
    target = toy_2d_overlap()
    module = TableData(target, "toy", num_test=50)
    known = KnownData(target, "toy", num_test=50)
    module.setup()
    assert known.describe() == module.describe()
    for ours, theirs in zip(known.test_examples(), module.test_examples(), strict=True):
        assert torch.equal(ours, theirs)
    for name in ("num_tokens", "num_classes", "grid_shape", "class_names", "value_names", "example_kind"):
        assert getattr(known, name) == getattr(module, name)
    for data in (cast(Data, known), cast(Data, module)):
        assert data.target is target and class_name(data, 1) == "1"


def test_examples_of_a_class_come_from_examples_alone() -> None:
    known = KnownData(toy_2d_overlap(), "toy")
    try:
        known.train_examples(0, generator_for("any"))
    except TypeError:
        return
    raise AssertionError("a target has no training examples")
