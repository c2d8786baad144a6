"""All samplers, with the options and the steps of each (theory, sections 6 and 16 to 18)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, cast

import torch

from mdlm_cfg.chain.corrections import Correction, parse_correction
from mdlm_cfg.chain.decoders import (
    AboveThreshold,
    ByFactor,
    DrawFirstStep,
    EntropyBoundStep,
    Keeping,
    MostConfident,
    as_blocks,
)
from mdlm_cfg.chain.nucleus import noise_temperature
from mdlm_cfg.chain.policies import Blocks, Policy, RatePolicy
from mdlm_cfg.chain.policy_names import parse_policy
from mdlm_cfg.chain.remasking import Cap, Remasking, parse_remasking
from mdlm_cfg.chain.schedules import (
    Grid,
    Schedule,
    Steps,
    check_steps,
    cosine,
    event_counts,
    linear,
    schedule_of,
    step_fractions,
)
from mdlm_cfg.chain.steps import JUMPS, EventStep, JumpRule, Step, TimeStep
from mdlm_cfg.support.by_value import exact_number, value_key
from mdlm_cfg.support.errors import UserError, one_of, shown
from mdlm_cfg.support.instantiate import calling
from mdlm_cfg.support.numeric import is_whole, number

FIRST_HITTING = "first_hitting"
EVENT_LEAPING = "event_leaping"
SAMPLED_CONFIDENCE = "sampled_confidence"
REMDM = "remdm"
PROBES = ((-3.0, -0.5, 0.0, 0.7, 4.0), (0.01, 0.3, 0.9, 1.0))  # log Z and u at which a jump rule is checked
SHOWN_TIMES = 6  # of a grid, in a label


@dataclass(frozen=True)
class Options:
    """The options of a sampler; `mdlm_cfg.sampling.sampler.Sampler` documents them."""

    name: str = FIRST_HITTING
    steps: int | Grid | None = None
    schedule: Schedule | None = None
    jump: JumpRule | None = None
    policy: Policy | None = None
    events: int | tuple[int, ...] | None = None
    choice_temperature: float | None = None
    annealed: bool | None = None
    threshold: float | None = None
    factor: float | None = None
    gamma: float | None = None
    remasking: Remasking | None = None
    correction: Correction | None = None

    def __post_init__(self) -> None:
        if self.jump is None:
            one_of("sampler", self.name, FAMILIES)
        elif not callable(self.jump) or not isinstance(self.name, str):
            raise UserError(
                f"jump = {shown(self.jump)} of the sampler {shown(self.name)} is not allowed: it must be a function "
                "(log Z, u) -> J, given together with a name"
            )
        if self.jump is not None and (self.family is not OWN or JUMPS.get(self.name, self.jump) != self.jump):
            raise UserError(f"{self.name} takes no jump rule of your own: give your sampler a different name")
        if self.jump is not None and self.name not in FAMILIES:
            _check_jump(self.name, self.jump)
        for name, read in READ.items():
            if getattr(self, name) is not None:
                self._set(name, read(getattr(self, name)))
        for name, default in self.family.defaults.items():
            if getattr(self, name) is None:
                self._set(name, default)
        for name in OPTIONS:
            if getattr(self, name) is not None and name not in self.family.takes:
                because = OF_EVENTS if name in ("policy", "events") and self.family is OWN else self.family.because
                raise UserError(f"{self.name} takes no {name} (got {shown(getattr(self, name))}){because}")
        if self.annealed and not self.choice_temperature:
            raise UserError("annealed = True needs a choice_temperature above 0, which then falls to 0")
        if self.events is not None and (self.steps is not None or self.schedule is not None):
            raise UserError(
                f"events = {self.events} replaces steps and a schedule, since it gives the number of coordinates that "
                "each step unmasks: leave them out"
            )
        if isinstance(self.events, tuple) and self.family.blocks_alone and self.policy is not None:
            raise UserError(
                f"events = {list(self.events)} is not allowed with blocks, because a step of {self.name} stays within "
                "one block: give one number"
            )
        self._settle_steps()
        if self.family.blocks_alone:
            as_blocks(self.policy, self.name)
        if self.name == SAMPLED_CONFIDENCE and self.policy is not None and self.events is None:
            raise UserError(
                f"{self.name} with blocks takes events, the number of coordinates per step, instead of steps"
            )

    def _settle_steps(self) -> None:
        """Read the steps, a number or a grid, and set the schedule of a number of steps."""
        if "steps" not in self.family.takes or self.events is not None:
            return
        if self.steps is None:
            raise UserError(f"{self.name} needs steps: a number of steps, or a grid of clock times from 0 to inf")
        self._set("steps", check_steps(cast(Steps, self.steps)))
        if not isinstance(self.steps, int):
            if self.name == REMDM:
                raise UserError(f"{self.name} takes no grid of clock times: give a number of steps, and a schedule")
            if self.schedule is not None:
                raise UserError(
                    f"schedule {self.schedule} cannot be combined with a grid of clock times, which already sets the "
                    "steps"
                )
        elif self.remasking is not None and not self.remasking.takes_schedule:
            if self.schedule is not None:
                raise UserError(f"{self.remasking} has its own times and takes no schedule (got {self.schedule})")
        elif self.schedule is None:
            self._set("schedule", self.family.schedule())
        if self.jump is None and self.name in JUMPS:
            self._set("jump", JUMPS[self.name])

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def family(self) -> Family:
        """The family of its name."""
        return FAMILIES.get(self.name, OWN)

    @property
    def set_options(self) -> dict[str, Any]:
        """Its options that are not None, except steps, schedule and correction."""
        names = [name for name in OPTIONS if name not in ("steps", "schedule")]
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def label(self) -> str:
        """The sampler as text, such as "tau_leaping, 8 steps, cosine"."""
        if self.correction is not None:
            return f"{replace(self, correction=None).label}, {self.correction}"
        if self.policy is not None:
            return f"{replace(self, policy=None).label}, {self.policy}"
        parts = [self.name]
        if self.events is not None:
            each = self.events if isinstance(self.events, tuple) else (self.events,)
            parts.append(f"{'+'.join(map(str, each))} a step")
        elif isinstance(self.steps, int):
            parts.append(f"{self.steps} step{'s' if self.steps > 1 else ''}")
            parts += [] if self.schedule is None else [str(self.schedule)]
        elif self.steps is not None:
            parts.append(f"{len(self.steps) - 1} steps on the grid {_grid_name(self.steps)}")
        return ", ".join([*parts, *self.traits])

    @property
    def traits(self) -> list[str]:
        """What determines its steps besides their number, schedule, policy and correction, as text."""
        found = []
        if self.choice_temperature:
            found.append(f"choice temperature {exact_number(self.choice_temperature)}")
            found += ["annealed"] if self.annealed else []
        found += [exact_number(value) for value in (self.threshold, self.factor, self.gamma) if value is not None]
        return found if self.remasking is None else [*found, str(self.remasking)]

    def describe(self) -> dict[str, Any]:
        """The sampler as plain values: `sampler`, `schedule` and `steps` (a number, a list of clock times, or None).

        The other options that are set are included.
        """
        steps = list(self.steps) if isinstance(self.steps, tuple) else self.steps
        more = {
            name: str(value) if name in ("policy", "remasking") else value for name, value in self.set_options.items()
        }
        if isinstance(self.events, tuple):
            more["events"] = list(self.events)
        if self.correction is not None:
            more["correction"] = self.correction.describe()
        return {
            "sampler": self.name,
            "schedule": None if self.schedule is None else str(self.schedule),
            "steps": steps,
            **more,
        }

    @property
    def key(self) -> str:
        """The values that identify the sampler, the same in every process: seeds and caches depend on them.

        A user-defined jump rule is identified by its values, whatever its function is called.
        """
        key = value_key({one.name: value for one in fields(self) if (value := getattr(self, one.name)) is not None})
        if self.jump is None or self.name in FAMILIES:
            return key
        log_z, u = torch.meshgrid(*(torch.tensor(values, dtype=torch.float64) for values in PROBES), indexing="ij")
        return f"{key}, J = {value_key(self.jump(log_z, u).tolist())}"

    @property
    def blocks(self) -> Blocks | None:
        """The blocks of a decoder that has an order of its own within them."""
        return cast("Blocks | None", self.policy)

    def counts(self, num_dims: int) -> list[int]:
        """The most coordinates that each event step unmasks; a decoder in blocks keeps to one block at a time.

        Raises:
            UserError: numbers of events that do not sum to D.
        """
        if self.steps is not None:
            return event_counts(self.steps, num_dims, self.schedule)
        if isinstance(self.events, tuple):
            if sum(self.events) != num_dims:
                raise UserError(
                    f"events = {list(self.events)} sum to {sum(self.events)}, and must sum to {num_dims}, the number "
                    "of masked coordinates"
                )
            return list(self.events)
        each = self.events or 1
        if self.family.blocks_alone and self.blocks is not None:
            # a step takes what is left of its block; how much is unmasked at the start is not known here
            return [each for block in self.blocks.blocks for _ in range(0, len(block), each)]
        # a policy may continue with the next block within a step
        return [min(each, num_dims - done) for done in range(0, num_dims, each)]


def _grid_name(grid: Grid) -> str:
    """A grid of clock times as text: a short one in full, a long one by its first and last times and a digest."""
    times = [exact_number(time) for time in grid]
    if len(times) <= SHOWN_TIMES:
        return ",".join(times)
    digest = hashlib.sha256(",".join(times).encode()).hexdigest()[:8]
    return f"{','.join(times[:2])},...,{times[-1]} (#{digest})"


def _check_jump(name: str, jump: JumpRule) -> None:
    """Raise UserError unless a user-defined jump rule gives probabilities at a few points, always the same, 1 at u = 1.

    It must treat every log Z by itself, since laws and draws pass different coordinates and states together. Otherwise
    the law and the draws would differ, or masks would be left.
    """
    log_z, u = torch.meshgrid(*(torch.tensor(values, dtype=torch.float64) for values in PROBES), indexing="ij")
    with calling(name):
        found, again = (jump(log_z.clone(), u.clone()) for _ in range(2))
    is_float = isinstance(found, torch.Tensor) and found.is_floating_point()
    if not (is_float and found.shape in (log_z.shape, ())):
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, torch.Tensor) else shown(found)
        raise UserError(
            f"the jump rule of {name} must return a tensor of floats, one for each log Z, and returns {got} for log Z "
            f"of shape {tuple(log_z.shape)}"
        )
    if not torch.equal(found, again):
        raise UserError(
            f"the jump rule of {name} returns different values when it is called again: it must not be random"
        )
    found = found.expand_as(log_z).double()
    with calling(name):
        pairs = zip(log_z.reshape(-1, 1), u.reshape(-1, 1))
        alone = torch.cat([jump(z.clone(), at[0].clone()).expand(1).double() for z, at in pairs])
    if not torch.allclose(found.flatten(), alone, rtol=0, atol=1e-6, equal_nan=True):
        raise UserError(
            f"the jump rule of {name} must compute each probability from its own log Z: it changes with the other "
            "coordinates or states in the call"
        )
    for wrong, must in (
        (~((found >= 0) & (found <= 1)), "be a probability, from 0 to 1"),
        ((found < 1 - 1e-6) & (u == 1), "be 1 at u = 1, in the last step, which leaves no mask"),
    ):
        if bool(wrong.any()):
            j, z, at = (float(one[wrong][0]) for one in (found, log_z, u))
            raise UserError(f"the jump rule of {name} returns {j:g} for log Z = {z:g} and u = {at:g}: it must {must}")


Plan = Callable[[Options, int], Sequence[Step]]


@dataclass(frozen=True)
class Family:
    """The samplers of one name.

    Attributes:
        plan: the steps for D coordinates; of an adaptive sampler the largest number of them, all equal.
        takes: options that it takes, besides a correction.
        adaptive: whether the number of steps depends on what is drawn.
        blocks_alone: whether blocks are the only policy it takes. because: added to the error for a refused option.
        schedule: the default. defaults: of its other options.
    """

    plan: Plan
    takes: tuple[str, ...]
    adaptive: bool = False
    blocks_alone: bool = False
    because: str = ""
    schedule: Callable[[], Schedule] = linear
    defaults: dict[str, Any] = field(default_factory=dict)


def _time_steps(options: Options, num_dims: int) -> Sequence[Step]:
    assert options.steps is not None and options.jump is not None  # since __post_init__
    return [TimeStep(options.jump, u) for u in step_fractions(options.steps, options.schedule).tolist()]


def _event_steps(options: Options, num_dims: int) -> Sequence[Step]:
    return [EventStep(count, options.policy or RatePolicy()) for count in options.counts(num_dims)]


def _most_confident(options: Options, num_dims: int) -> Sequence[Step]:
    counts = options.counts(num_dims)
    temperature = options.choice_temperature or 0.0
    last = len(counts)
    left = [(last - 1 - k) / last if options.annealed else 1.0 for k in range(last)]
    return [
        DrawFirstStep(MostConfident(count, temperature * share), options.blocks) for count, share in zip(counts, left)
    ]


def _keeping(make: Callable[[Options], Keeping]) -> Plan:
    return lambda options, num_dims: [DrawFirstStep(make(options), options.blocks)] * num_dims


def _entropy_bounds(options: Options, num_dims: int) -> Sequence[Step]:
    return [EntropyBoundStep(cast(float, options.gamma), options.blocks)] * num_dims


def _remasking_steps(options: Options, num_dims: int) -> Sequence[Step]:
    return cast(Remasking, options.remasking).steps(cast(int, options.steps), options.schedule)


def _read_events(value: Any) -> int | tuple[int, ...]:
    each = tuple(value) if isinstance(value, list | tuple) else (value,)
    if not each or not all(is_whole(one) and one >= 1 for one in each):
        raise UserError(
            f"events = {shown(value)} is not allowed: it must be a whole number of at least 1, or a list of them such "
            "as [1,1,2]"
        )
    return tuple(map(int, each)) if isinstance(value, list | tuple) else int(value)


def _read_annealed(value: Any) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"annealed = {shown(value)} is not allowed: it must be true or false")
    return value


READ: dict[str, Callable[[Any], Any]] = {
    "policy": parse_policy,
    "schedule": schedule_of,
    "events": _read_events,
    "choice_temperature": partial(noise_temperature, "choice_temperature"),
    "annealed": _read_annealed,
    "threshold": partial(number, "threshold", least=0, most=1, above=True),
    "factor": partial(number, "factor", least=0, above=True),
    "gamma": partial(number, "gamma", least=0),
    "remasking": parse_remasking,
    "correction": parse_correction,
}
OPTIONS = ("steps", "schedule", *(name for name in READ if name not in ("schedule", "correction")))
SETTINGS = (*OPTIONS, "correction")  # every option that has a name on the command line
OF_EVENTS = ": only steps of a number of events do, such as those of event_leaping"
OWN = Family(_time_steps, ("steps", "schedule"))
FAMILIES: dict[str, Family] = {
    FIRST_HITTING: Family(
        _event_steps, ("policy",), because=": it unmasks one coordinate at a time; leave it out, or take event_leaping"
    ),
    **dict.fromkeys(JUMPS, OWN),
    EVENT_LEAPING: Family(_event_steps, ("steps", "schedule", "policy", "events"), schedule=cosine),
    SAMPLED_CONFIDENCE: Family(
        _most_confident,
        ("steps", "schedule", "policy", "events", "choice_temperature", "annealed"),
        blocks_alone=True,
        schedule=cosine,
    ),
    "threshold": Family(
        _keeping(lambda options: AboveThreshold(cast(float, options.threshold))),
        ("threshold", "policy"),
        adaptive=True,
        blocks_alone=True,
        defaults={"threshold": 0.9},
    ),
    "factor": Family(
        _keeping(lambda options: ByFactor(cast(float, options.factor))),
        ("factor", "policy"),
        adaptive=True,
        blocks_alone=True,
        defaults={"factor": 1.0},
    ),
    "entropy_bound": Family(
        _entropy_bounds, ("gamma", "policy"), adaptive=True, blocks_alone=True, defaults={"gamma": 0.1}
    ),
    REMDM: Family(_remasking_steps, ("steps", "schedule", "remasking"), defaults={"remasking": Cap(0.2)}),
}
SAMPLERS = tuple(FAMILIES)
WITH_STEPS = tuple(name for name, family in FAMILIES.items() if "steps" in family.takes)
