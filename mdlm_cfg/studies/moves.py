"""What the studies of correction moves share: checked settings, names of moves, sets after moves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.denoiser import device_of
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.common import CALLS, draw_pieces, samples_of
from mdlm_cfg.studies.findings import col
from mdlm_cfg.studies.plan import refuse_namesakes
from mdlm_cfg.studies.protocol import Case, Made, Piece, Settings, wholes
from mdlm_cfg.support.errors import UserError

Started = Sampler | Mapping[str, Any]
SetIndex = tuple[str, str, int, int]  # start, move, number of moves, calls
MOVE = "number of coordinates that a move masks, and how they are chosen and refilled"
WHAT_MOVES_ARE = """\
A move masks k coordinates of a finished sample and refills them by the same guided chain. Calls are those of the \
sampler and of all moves, for each of the two conditionals: equal calls need the same number of network rows."""


@dataclass(frozen=True)
class AfterMoves:
    """A set of samples after a number of moves, or the reference that such sets are compared with."""

    start: str = col("start", "sampler that the moves follow, or the name of the reference", index=True)
    move: str = col("move", MOVE, index=True)
    moves: int = col("moves", "number of moves", index=True)
    calls: int = col("calls", CALLS)


def components_column() -> Any:
    """The column of the number of mixture components in use."""
    return col("components", "number of components in use: exp of the entropy of the usage", digits=2)


def starts_of(starts: Sequence[Started]) -> tuple[Sampler, ...]:
    """The samplers that moves follow.

    Raises:
        UserError: an empty list, an entry that is not a sampler, or one with a correction of its own.
    """
    if isinstance(starts, str | Mapping) or not starts:
        raise UserError(f"study.starts = {starts!r} must be a list of samplers, such as [{{name:threshold}}]")
    found = []
    for one in starts:
        found.append(one if isinstance(one, Sampler) else _sampler(one))
        if found[-1].correction is not None:
            raise UserError(f"study.starts has {found[-1].label}, which has moves of its own: leave its correction out")
    refuse_namesakes("samplers of study.starts", {one: one.label for one in found})
    return tuple(found)


def _sampler(given: Any) -> Sampler:
    if not isinstance(given, Mapping) or "name" not in given:
        raise UserError(f"study.starts has {given!r}, not a sampler: write {{name:threshold,threshold:0.9}}")
    try:
        return Sampler(**given)
    except TypeError:
        raise UserError(f"study.starts has {dict(given)!r}, with an option that no sampler takes") from None


def own_move(sampler: Sampler) -> list[Correction]:
    """The moves of a sampler's own correction: one of them, in a list; empty without one."""
    return [] if sampler.correction is None else [replace(sampler.correction, moves=1)]


def name_of_move(correction: Correction) -> str:
    """A move as text, with its size and its type, such as "k = 2, accept/reject"."""
    parts = [f"k = {correction.size}"]
    parts += ["accept/reject"] if correction.accept else []
    parts += ["in parallel"] if correction.parallel else []
    parts += [correction.scan.replace("_", " ")] if correction.scan != "random" else []
    parts += [f"policy {correction.policy}"] if correction.policy is not None else []
    return ", ".join(parts)


def phrase(number: int, move: str) -> str:
    """A number of moves as text."""
    if not number:
        return "no moves"
    plural = "" if number == 1 else "s"
    if move == name_of_move(Correction()):
        return f"{number} single refill{plural}"
    return f"{number} move{plural} of {move}"


def verb_of(number: int, verb: str) -> str:
    """A verb that agrees with a number of moves: "end", or "ends" for one."""
    return f"{verb}s" if number == 1 else verb


@dataclass(frozen=True)
class Moves(Settings):
    """Moves of several sizes after several samplers, with the numbers of moves after which they are measured.

    Args:
        sizes: k, the numbers of coordinates that a move masks; None is the subclass's default.
        moves: the numbers of moves after which sets are measured, from 0; None is a quarter of D, and D.
        starts: the samplers that moves follow: each a `Sampler`, or its arguments as a mapping. The plan's own sampler
            is one of them, and the moves of its own correction are compared too.

    Raises:
        UserError: numbers out of range, or an entry that is not a sampler.
    """

    sizes: Sequence[int] | None = wholes(None)
    moves: Sequence[int] | None = wholes(None, least=0)
    starts: Sequence[Started] = ({"name": "first_hitting"},)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moves is not None and not any(self.moves):
            raise UserError(f"study.moves = {list(self.moves)} compares nothing: give numbers above 0, such as [10,40]")
        object.__setattr__(self, "starts", starts_of(self.starts))

    def check(self, case: Case) -> None:
        """Refuse moves and samplers that do not fit the data, and accepted moves without a tilted distribution."""
        moved = [Sampler(correction=correction) for correction in self.corrections(case)]
        for sampler in [*self.compared_starts(case), *moved]:
            sampler.check(case.num_dims)
            for guidance in case.plan.guidances:
                sampler.check_guidance(guidance)

    def compared_starts(self, case: Case) -> list[Sampler]:
        """The samplers that moves follow, each once; the plan's own is last."""
        return list(dict.fromkeys([*starts_of(self.starts), replace(case.plan.sampler, correction=None)]))

    def corrections(self, case: Case) -> list[Correction]:
        """The moves that are compared: every size, and the plan's own."""
        own = own_move(case.plan.sampler)
        return list(dict.fromkeys([*map(self.move_of, self.sizes or self.default_sizes(case.num_dims)), *own]))

    def stages(self, case: Case) -> tuple[int, ...]:
        """The numbers of moves after which sets are measured, rising from 0."""
        d = case.num_dims
        return tuple(sorted({0, *((d // 4, d) if self.moves is None else self.moves)}))

    def default_sizes(self, num_dims: int) -> Sequence[int]:
        """The sizes that are compared by default."""
        return (1,)

    def move_of(self, size: int) -> Correction:
        """A move of `size` coordinates."""
        return Correction(size=size)


class MovedSets(Moves):
    """Sets of samples after a number of moves. A subclass says how a set is evaluated."""

    def judged(self, case: Case, guidance: Guidance, z: int, x: Tensor) -> Any:
        """The statistics of samples, int64 (n, D) on the CPU, as plain values and tensors."""
        raise NotImplementedError

    def pieces_of_sets(self, case: Case, guidance: Guidance, z: int, who: str) -> Iterator[Piece]:
        """The samples of all starts, which any process may draw, and their statistics after the moves."""
        for start in self.compared_starts(case):
            yield from _draws(case, guidance, z, who, start)
            for correction in self.corrections(case):
                yield self._move_piece(case, guidance, z, who, start, correction)

    def _move_piece(
        self, case: Case, guidance: Guidance, z: int, who: str, start: Sampler, correction: Correction
    ) -> Piece:
        d = case.num_dims
        label = f"moves of {name_of_move(correction)} after {start.label}, class {z}, {who}, w = {guidance.label}"
        last = replace(correction, moves=self.stages(case)[-1])
        cost = case.plan.num_samples * last.calls(d) * guidance.rows(d)
        return case.piece(self._moved, guidance, z, who, start, correction, label=label, cost=cost)

    def _moved(
        self, case: Case, guidance: Guidance, z: int, who: str, start: Sampler, correction: Correction
    ) -> list[Any]:
        """The statistics after each number of moves."""
        denoiser = case.denoisers[who]
        generator = case.plan.generator("moves", guidance, z, who, start.key, str(correction), of=denoiser)
        x = samples_of(case.made, _draws(case, guidance, z, who, start)).long().to(device_of(denoiser))
        found = []
        done = 0
        for number in self.stages(case):
            more = replace(correction, moves=number - done)
            x = more.draw(denoiser, guidance, z, x, generator=generator, made=done)
            done = number
            found.append(self.judged(case, guidance, z, x.cpu()))
        return found

    def each_set(self, case: Case, made: Made, guidance: Guidance, who: str) -> Iterator[tuple[SetIndex, list[Any]]]:
        """Every set by its index, with the statistics of each class."""
        d = case.num_dims
        for start in self.compared_starts(case):
            for correction in self.corrections(case):
                found = [made.of(self._moved, guidance, z, who, start, correction) for z in case.classes]
                for k, number in enumerate(self.stages(case)):
                    calls = start.calls(d) + replace(correction, moves=number).calls(d)
                    index = (start.label, name_of_move(correction), number, calls)
                    yield index, [of_class[k] for of_class in found]


def _draws(case: Case, guidance: Guidance, z: int, who: str, start: Sampler) -> list[Piece]:
    return draw_pieces(case, who, guidance, z, name=who, sampler=start)
