"""What is wrong is said at once on a CPU, and on an accelerator at the end."""

from __future__ import annotations

import pytest
import torch

from mdlm_cfg.chain import checks
from mdlm_cfg.chain.checks import checked_at_the_end, ends_of, known_within, raise_where
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


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.float64])
def test_the_ends_of_numbers_are_found_however_they_lie(kind: torch.dtype) -> None:
    numbers = torch.randint(0, 200, (6, 10), generator=torch.Generator().manual_seed(0)).to(kind)
    every_other = numbers[:, ::2]
    for part in (
        numbers,
        numbers.T,
        every_other,
        every_other.T,
        numbers[:, :1],
        numbers[0],
        numbers[None].mT,
        numbers[0, 0],
    ):
        flat = [float(one) for one in part.reshape(-1).tolist()]
        assert [float(end) for end in ends_of(part)] == [min(flat), max(flat)]
        assert known_within(part, min(flat), max(flat))
        assert not known_within(part, min(flat) + 1, max(flat)) and not known_within(part, min(flat), max(flat) - 1)
