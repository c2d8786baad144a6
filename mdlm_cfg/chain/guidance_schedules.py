"""Strengths of guidance that change as coordinates are unmasked (theory, section 12).

With j of D coordinates unmasked the progress is j / (D - 1): 0 where the first coordinate is unmasked, 1 where the last
is. In one dimension it is 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from torch import Tensor

from mdlm_cfg.chain.forms import Unreadable, decimal, read_form, with_numbers
from mdlm_cfg.support.arguments import check_fields
from mdlm_cfg.support.by_value import exact_number
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.support.numeric import is_number, number

ALLOWED = (
    "a number, ramp(start,end), interval(w,begin,end[,outside]), calibrated, calibrated(w) or a list of D numbers such "
    "as [0.58,2.0]"
)


@dataclass(frozen=True)
class LinearRamp:
    """w(progress) going linearly from `start`, for the first coordinate, to `end`, for the last."""

    start: float
    end: float

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            object.__setattr__(self, name, number(f"{name} of a ramp", getattr(self, name)))

    def __call__(self, progress: float) -> float:
        """w at a progress in [0, 1]."""
        return self.start + (self.end - self.start) * progress

    def __str__(self) -> str:
        return f"ramp({exact_number(self.start)},{exact_number(self.end)})"


@dataclass(frozen=True)
class Interval:
    """w(progress) equal to `w` for begin <= progress <= end, and to `outside` elsewhere."""

    w: float
    begin: float
    end: float
    outside: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("w", None), ("begin", inf), ("end", inf), ("outside", None)):
            object.__setattr__(self, name, number(f"{name} of an interval", getattr(self, name), most=most))

    def __call__(self, progress: float) -> float:
        """w at a progress in [0, 1]."""
        return self.w if self.begin <= progress <= self.end else self.outside

    def __str__(self) -> str:
        numbers = [self.w, self.begin, self.end, *([self.outside] if self.outside else [])]
        return f"interval({','.join(map(exact_number, numbers))})"


@dataclass(frozen=True)
class PerCount:
    """w_0, ..., w_{D-1}: one strength for every number of coordinates that are already unmasked.

    Args:
        values: D numbers; another D is an error.

    Raises:
        UserError: the list is empty.
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        check_fields(self, "values")
        object.__setattr__(self, "values", tuple(number("a strength of a list", w) for w in self.values))
        if not self.values:
            raise UserError("a list of strengths is empty: it must hold one for each of the D coordinates")

    def of(self, num_dims: int) -> Sequence[float]:
        """All of them; raises UserError unless there are D."""
        if len(self.values) != num_dims:
            raise UserError(
                f"there are {len(self.values)} strengths in {self}, and there must be {num_dims}: one for every "
                "number of coordinates that are already unmasked"
            )
        return self.values

    def at(self, num_unmasked: int, num_dims: int) -> float:
        """w when `num_unmasked` of `num_dims` coordinates are unmasked."""
        return self.of(num_dims)[num_unmasked]

    def __call__(self, progress: float) -> float:
        """w at a progress of 0, 1/(D-1), ..., 1."""
        return self.values[round(min(progress, 1.0) * (len(self.values) - 1))]

    def __str__(self) -> str:
        return f"[{','.join(map(exact_number, self.values))}]"


@dataclass(frozen=True)
class Calibrated:
    """Strengths calibrated towards the tilted distribution of strength w, for one denoiser and one class.

    Args:
        w: strength of the tilted distribution; 0 is the class itself.
        values: w_0, ..., w_{D-1}, once they are fitted.
    """

    w: float = 0.0
    values: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "w", number("w of calibrated strengths", self.w))

    def at(self, num_unmasked: int, num_dims: int) -> float:
        """w when `num_unmasked` of `num_dims` coordinates are unmasked."""
        if not self.values:
            raise UserError(
                f"the strengths {self} have not been fitted: eval.py and mdlm_cfg.sample fit them to the network; in "
                "Python give the strengths of calibrate or calibrated_strengths"
            )
        return PerCount(self.values).at(num_unmasked, num_dims)

    def __call__(self, progress: float) -> float:
        """w at a progress of 0, 1/(D-1), ..., 1."""
        places = max(len(self.values), 1)
        return self.at(round(min(progress, 1.0) * (places - 1)), places)

    def __str__(self) -> str:
        return f"calibrated({exact_number(self.w)})"


def schedule_name(schedule: Callable[[float], float]) -> str:
    """A schedule as text: its own name, or its values at progress 0, 1/2 and 1, such as "lambda(0,2,4)".

    It never contains an object's memory address.
    """
    if type(schedule).__str__ is not object.__str__:
        return str(schedule)
    name = getattr(schedule, "__name__", type(schedule).__name__).strip("<>")
    return f"{name}({','.join(exact_number(float(schedule(progress))) for progress in (0.0, 0.5, 1.0))})"


Strength = float | Callable[[float], float]


def parse_strength(value: str | float | Sequence[float] | Tensor | Callable[[float], float]) -> Strength:
    """A strength as a user writes it: 2, "2", "ramp(0,4)", "interval(4,0.3,0.9)", "[0.58,2.0]", or [0.58, 2.0].

    Returns:
        a number, or a schedule; either is returned unchanged if it was given.

    Raises:
        UserError: anything else.
    """
    if callable(value):
        return value
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, bytes) and value and all(map(is_number, value)):
        return PerCount([float(w) for w in value])
    if is_number(value):
        return number("the strength", value)
    text = value.strip() if isinstance(value, str) else ""
    with suppress(Unreadable):
        if text.startswith("[") and text.endswith("]"):
            return PerCount([decimal(part) for part in text[1:-1].split(",")])
        return decimal(text)
    forms: Mapping[str, Callable[[str], Strength]] = {
        "ramp": with_numbers(LinearRamp),
        "interval": with_numbers(Interval),
        "calibrated": with_numbers(lambda w: Calibrated(w)),
    }
    return read_form("strength", value, {"calibrated": Calibrated}, forms, ALLOWED)


def parse_strengths(text: str) -> list[Strength]:
    """Several strengths, as in "[ramp(0,4),interval(4,0.3,0.9),[0.58,2.0],2]"; the outer brackets are optional.

    Raises:
        UserError: one that cannot be read.
    """
    text = text.strip()
    parts = parts_of(text)
    if len(parts) == 1 and text.startswith("[") and text.endswith("]"):
        parts = parts_of(text[1:-1])
    return [parse_strength(part) for part in parts]


def parts_of(text: str) -> list[str]:
    """The parts of a text between the commas outside brackets."""
    parts = [""]
    depth = 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
