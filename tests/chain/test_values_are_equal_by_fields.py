"""Kinds, policies and schedules are equal by their types and fields, and never by their names."""

from __future__ import annotations

import collections
import datetime
import enum
import fractions
import functools
import pathlib
import pickle
import types
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers import random_target

from mdlm_cfg import Guidance, UserError, terminal_law
from mdlm_cfg.chain.guidance_schedules import Interval, LinearRamp, PerCount
from mdlm_cfg.chain.kinds import KINDS, Kind, Normalized, Rate, kind_of
from mdlm_cfg.chain.policies import POLICIES, Blocks, Confidence, FixedOrder, KindPolicy, Policy, policy_of
from mdlm_cfg.chain.rules import ProductRule, Term
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.benchmark import Entry
from mdlm_cfg.studies.benchmark.judge import Bench
from mdlm_cfg.studies.benchmark.targets import of_table
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.support.by_value import ByValue, exact_number, value_key


class Power(Kind):
    """Coordinate i jumps at rate Z_i^a."""

    name = "power"

    def __init__(self, a: float) -> None:
        self.a = a

    def log_rate(self, log_z):
        return self.a * log_z


class Nameless(Rate):
    """Says nothing about itself."""


class Last(Confidence):
    """A policy with an attribute that is no field."""

    def __init__(self, a: float) -> None:
        super().__init__()
        object.__setattr__(self, "a", a)


def values() -> list[object]:
    """Values of every sort that are all different, by functions that make them anew."""
    kinds = [Rate(), Normalized(), Nameless(), Power(0.3), Power(0.7)]
    policies = [make() for make in POLICIES.values()]
    policies += [Confidence(0.5), Last(1.0), Last(2.0), FixedOrder([1, 0]), *map(KindPolicy, kinds)]
    policies += [Blocks([[0], [1]]), Blocks([[1], [0]]), Blocks([[0], [1]], "margin")]
    schedules = [LinearRamp(0, 1), LinearRamp(0, 2), Interval(1, 0, 1), PerCount([0, 1])]
    guidances = [Guidance(1.0, kind) for kind in kinds] + [Guidance(schedule) for schedule in schedules]
    guidances += [Guidance(1.0000001), Guidance(1.0, temperature=0.5), Guidance(1.0, top_p=0.5)]
    samplers = [Sampler(), Sampler("euler", 3), Sampler("euler", 4), Sampler("event_leaping", 3)]
    samplers += [Sampler("event_leaping", events=3), *(Sampler(policy=one) for one in (Confidence(0.5), Confidence()))]
    return [*kinds, *policies, *schedules, *guidances, *samplers]


def test_values_are_equal_exactly_when_types_and_fields_are() -> None:
    for i, one in enumerate(values()):
        for j, other in enumerate(values()):
            assert (one == other) is (i == j), (one, other)
            assert (value_key(one) == value_key(other)) is (i == j), (one, other)
        assert hash(one) == hash(values()[i])
        assert one != str(one) and one != getattr(one, "name", "") and " at 0x" not in value_key(one)


def test_a_kind_has_what_follows_from_its_rate() -> None:
    assert Rate().is_rho and Nameless().is_rho and not Normalized().is_rho and not Power(1.0).is_rho
    half = type("Half", (Rate,), {"log_rate": lambda self, log_z: log_z / 2})()
    assert not half.is_rho and [kind.power() for kind in (Rate(), Normalized(), half)] == [1.0, 0.0, 0.5]
    assert len({str(kind) for kind in (Nameless(), Power(0.3), Power(0.7))}) == 3


def test_no_kind_or_policy_goes_by_the_name_of_a_built_in_one() -> None:
    class Confidence_(Confidence):
        def __str__(self) -> str:
            return "confidence"

    with pytest.raises(UserError):
        policy_of(Confidence_())
    with pytest.raises(UserError):
        kind_of(type("Mine", (Rate,), {"name": "normalized"})())
    for policy in (Last(1.0), KindPolicy(KINDS["rate"]), *(make() for make in POLICIES.values())):
        assert isinstance(policy, Policy) and policy_of(policy) is policy


def test_one_law_is_never_given_for_another() -> None:
    target = of_table("random", random_target(2, 3, seed=4), 0)
    entries = [Entry(f"power {a}", Sampler(), lambda w, a=a: Guidance(w, Power(a))) for a in (0.3, 0.7)]
    bench = Bench(target, Guidance(2.0), Plan((Guidance(2.0),), Sampler()))
    together = [cell for entry in entries for cell in bench.judge(entry, [4])]
    for entry, cell in zip(entries, together, strict=True):
        alone = Bench(target, Guidance(2.0), Plan((Guidance(2.0),), Sampler()))
        assert list(alone.judge(entry, [4])) == [cell]
        law = terminal_law(target.denoiser, entry.guidance(2.0), 0)
        assert cell["tv_class"] == pytest.approx(total_variation(law, target.class_law), abs=1e-14)
        assert cell["tv_chain"] < 1e-14
    assert abs(together[0]["tv_class"] - together[1]["tv_class"]) > 1e-4


def test_a_plan_takes_what_is_equal_once_and_what_shares_a_name_never() -> None:
    assert len(Plan((Guidance(1.0), Guidance(1.0000001)), Sampler()).guidances) == 2
    for twice in ((Guidance(1.0), Guidance(1)), (Guidance([0, 1]), Guidance(PerCount((0.0, 1.0))))):
        with pytest.raises(UserError):
            Plan(twice, Sampler())

    class Labelled(Power):
        def __str__(self) -> str:
            return "mine"

    kinds = Power(0.3), Power(0.7)
    assert len(Plan((Guidance(1.0, kinds[0]), Guidance(2.0, kinds[1])), Sampler()).guidances) == 2
    with pytest.raises(UserError):
        Plan((Guidance(1.0, Labelled(0.3)), Guidance(2.0, Labelled(0.7))), Sampler())


def test_numbers_are_written_exactly() -> None:
    numbers = [0.0, -0.0, 1, 1.0, 1.0000001, 0.1, 1 / 3, 1e-7, 12345678.0, 2.5, -1.0, 1e8]
    for number in numbers:
        assert float(exact_number(number)) == number
    assert [exact_number(number) for number in (2, 2.0, 0.5, -0.0)] == ["2", "2", "0.5", "0"]


def test_values_of_tensors_and_lists_are_their_numbers() -> None:
    class Table(ByValue):
        def __init__(self, numbers) -> None:
            self.numbers = numbers

    one = Table(torch.arange(3.0))
    same = Table(torch.arange(3.0))
    other = Table(torch.arange(3.0) + 1e-7)
    assert one == same and hash(one) == hash(same) and value_key(one) == value_key(same)
    assert one != other and value_key(one) != value_key(other)


class Colour(enum.Enum):
    ONE, TWO = 1, 2


class Slots:
    __slots__ = ("a",)

    def __init__(self, a: object) -> None:
        self.a = a


class OneSlot(FixedOrder):
    """A policy whose only slot is written as a word and has a private name."""

    __slots__ = "__a"

    def __init__(self, a: object) -> None:
        super().__init__((0,))
        object.__setattr__(self, "_OneSlot__a", a)


class Attribute(torch.nn.Module):
    """A module with a number that is no parameter, and a buffer that is not saved."""

    def __init__(self, a: float, saved: float = 0.0) -> None:
        super().__init__()
        self.a = a
        self.register_buffer("saved", torch.tensor(saved), persistent=False)


@dataclass(frozen=True)
class WithTable(FixedOrder):
    """A policy as docs/extending.md writes one: the dataclass would have an equality of its own."""

    table: object = None


class Times(ProductRule):
    """The class to a power that is any sort of number."""

    def __init__(self, by: object) -> None:
        self.by = by

    def terms(self, w, target_class):
        return [Term(float(self.by), target_class)]

    def __str__(self) -> str:
        return f"times {self.by}"


Point = collections.namedtuple("Point", "a")
Other = collections.namedtuple("Other", "a")


def scaled(by: object) -> Callable[[float], object]:
    return lambda x: (x, by)


MADE: dict[str, Callable[[int], object]] = {  # of every sort that a field may hold, from a number
    "array": lambda a: np.array([0, a]),
    "array of objects": lambda a: np.array([None, a], dtype=object),
    "number of numpy": np.float32,
    "truth of numpy": lambda a: np.bool_(a == 1),
    "tensor": lambda a: torch.tensor([0, a]),
    "list of tensors": lambda a: [torch.zeros(2), torch.full((2,), float(a))],
    "sparse tensor": lambda a: torch.full((2, 2), float(a)).to_sparse(),
    "closure": scaled,
    "closure of a list": lambda a: scaled([a]),
    "default": lambda a: lambda x, by=a: (x, by),
    "partial": lambda a: functools.partial(scaled, by=a),
    "method": lambda a: Slots(a).__init__,
    "slots": Slots,
    "one slot": OneSlot,
    "module": Attribute,
    "buffer": lambda a: torch.nn.Sequential(Attribute(0.0, float(a))),
    "activation": lambda a: torch.nn.ReLU() if a == 1 else torch.nn.GELU(),
    "fraction": lambda a: fractions.Fraction(1, 1 + a),
    "path": lambda a: pathlib.Path(str(a)),
    "day": lambda a: datetime.date(2000, 1, a),
    "range": range,
    "queue": lambda a: collections.deque([a]),
    "counts": lambda a: collections.Counter({"x": a}),
    "mapping": lambda a: types.MappingProxyType({a: 0}),
    "name of a key": lambda a: {a: 0} if a == 1 else {"1": 0},
    "named tuple": lambda a: Point(0) if a == 1 else Other(0),
    "member": lambda a: list(Colour)[a - 1],
    "slice": slice,
    "cut": lambda a: slice(0, a),
    "function": lambda a: torch.exp if a == 1 else torch.log,
    "state of a generator": lambda a: torch.Generator().manual_seed(a),
}


@pytest.mark.parametrize("sort", MADE)
def test_no_two_values_of_any_sort_have_one_key(sort: str) -> None:
    make = MADE[sort]
    for inside in (make, lambda a: [make(a)], lambda a: {"x": make(a)}, lambda a: WithTable((0,), make(a))):
        one, same, other = value_key(inside(1)), value_key(inside(1)), value_key(inside(2))
        assert one == same and one != other and " at 0x" not in one
    if sort != "named tuple":  # these are equal as tuples
        assert WithTable((0,), make(1)) != WithTable((0,), make(2))
    kept = [make(1)]
    assert WithTable((0,), kept) == WithTable((0,), kept) and hash(WithTable((0,), kept)) == hash(WithTable((0,), kept))


def test_an_object_that_holds_itself_has_a_key_and_one_of_no_value_has_none() -> None:
    def around(a: int) -> list[object]:
        found: list[object] = [a]
        found.append(found)
        return found

    assert value_key(around(1)) == value_key(around(1)) != value_key(around(2))
    assert value_key(pickle) != value_key(types)
    with pytest.raises(UserError):
        value_key(WithTable((0,), (x for x in "ab")))


def test_shapes_of_arrays_and_tensors_count() -> None:
    shapes = [(), (1,), (1, 1), (0, 2), (2, 0), (2, 3), (3, 2)]
    made = [make(shape) for make in (np.zeros, torch.zeros) for shape in shapes]
    assert len({value_key(one) for one in made}) == len(made)
    assert value_key(np.ones((2, 3))) == value_key(np.ones((3, 2)).T)  # whose order in memory is another


@pytest.mark.parametrize("made", [np.int64, fractions.Fraction, lambda a: Slots(a).a])
def test_two_rules_of_one_plan_have_rows_of_their_own(made: Callable[[int], object]) -> None:
    target = random_target(2, 2, seed=1)
    keys = {Guidance(2.0, rule=Times(made(a))).key() for a in (1, 2, 3)}
    assert len(keys) == 3
    laws = [terminal_law(target.denoiser(), Guidance(2.0, rule=Times(made(a))), 0) for a in (1, 3)]
    assert total_variation(*laws) > 1e-3
