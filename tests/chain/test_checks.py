"""What is wrong is said at once on a CPU, and on an accelerator at the end."""

from __future__ import annotations

import pytest
import torch

from mdlm_cfg.chain import checks
from mdlm_cfg.chain.checks import checked_at_the_end, raise_where
from mdlm_cfg.support.errors import UserError


def small(limit: int) -> None:
    """Refuse numbers from `limit` on."""
    numbers = torch.tensor([[5, 6], [7, 8], [9, 4]])
    raise_where(numbers >= limit, lambda row, part: f"row {row} is {part.tolist()}", numbers)


def test_on_a_cpu_it_is_said_at_once() -> None:
    small(10)
    with pytest.raises(UserError, match=r"row 1 is \[7, 8\]"):
        small(8)
    with checked_at_the_end():
        small(10)
        with pytest.raises(UserError, match=r"row 2 is \[9, 4\]"):
            small(9)


def test_on_an_accelerator_the_first_of_all_is_said_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "is_on_cpu", lambda values: False)
    small(10)
    with pytest.raises(UserError, match=r"row 1 is \[7, 8\]"):  # nobody reads later
        small(8)
    reached = []
    with pytest.raises(UserError, match=r"row 2 is \[9, 4\]"), checked_at_the_end():
        with checked_at_the_end():
            for limit in (10, 9, 8):
                small(limit)
        reached.append("the end")
    assert reached
    with pytest.raises(ZeroDivisionError), checked_at_the_end():  # what stops the work is what is said
        small(8)
        raise ZeroDivisionError
    with checked_at_the_end():  # what was found before is forgotten
        small(10)
