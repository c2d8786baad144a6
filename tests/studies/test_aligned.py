"""Sequences to read: a motif stands out."""

from __future__ import annotations

import torch

from mdlm_cfg.studies.aligned import listing, with_word, word_in


def test_a_word_is_in_capital_letters_also_with_two_wrong_ones() -> None:
    assert "".join(with_word("CATTGACATAGG", "TTGACATA")) == "caTTGACATAgg"
    assert "".join(with_word("CATTCACAAAGG", "TTGACATA")) == "caTTCACAAAgg"
    assert "".join(with_word("CAATCACAAAGG", "TTGACATA")) == "caatcacaaagg"  # three wrong
    assert "".join(with_word("ABAB" * 2 + "C", "ABAB", wrong=0)) == "ABABABABc"


def test_only_a_class_named_by_its_values_is_a_word() -> None:
    assert word_in("TTGA", list("ACGT")) == "TTGA"
    assert word_in("TTGX", list("ACGT")) == word_in("up", list("ACGTup")) == word_in("TT", list("ACGT")) == ""


def test_marks_stay_below_what_differs() -> None:
    rows = {"a": torch.tensor([0, 1, 1, 1]), "b": torch.tensor([0, 1, 0, 1])}
    assert listing(rows, ["A", "B"], word="ABBB").split("\n") == ["a  ABBB", "b  ABAB", "     ^"]
