"""Mask-and-refill moves on samples of a table, exactly (theory, section 19)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.metrics import total_variation
from mdlm_cfg.laws.corrections import correction_kernel
from mdlm_cfg.laws.stationary import NotSettled, spectral_gap, stationary_law
from mdlm_cfg.laws.terminal import tilted_law
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling.sampler import FIRST_HITTING, Sampler
from mdlm_cfg.studies.common import TABLE, calls_of
from mdlm_cfg.studies.findings import Block, Curve, Findings, Table, col, in_tv
from mdlm_cfg.studies.moves import MOVE, WHAT_MOVES_ARE, Moves, Started, name_of_move, own_move, phrase, verb_of
from mdlm_cfg.studies.protocol import EXACT, LEARNED, Case, Made, Needs, Piece, Rows, wholes
from mdlm_cfg.studies.rows import OfDenoiser, by, strongest, where
from mdlm_cfg.support.numbers import apart, percent, short

MOVES = (0, 2, 5, 10, 20, 40)
STARTS: tuple[Mapping[str, Any], ...] = (
    {"name": "first_hitting"},
    {"name": "sampled_confidence", "events": 1},
    {"name": "threshold", "threshold": 0.9},
    {"name": "entropy_bound", "gamma": 0.1},
    {"name": "remdm", "steps": 16, "remasking": "cap(0.2)"},
)
SMALL_SIZES = (1, 2, 3)  # coordinates in a move, besides all of them
MOST_ORDERS = 5000  # C(D, k) k!, up to which moves with accept/reject are among the default ones
NOTHING = 1e-9  # TV that is rounding
CONNECTED = 1e-9  # a spectral gap below which moves do not reach every state
WORTH = 0.5  # share of the distance that moves must remove to be recommended
SHOWN = 0.005  # a smaller share is 0 in whole percent
READING = f"""\
{WHAT_MOVES_ARE} With exact conditionals and k = 1 this is Gibbs sampling: it converges to the tilted distribution \
from any samples. With larger k it converges to another distribution, unless moves are accepted or rejected by a \
Metropolis rule, which would change nothing for k = 1. Moves of k = D draw new samples of the guided chain.

All distributions are exact: nothing is sampled."""


@dataclass(frozen=True)
class MoveRow(OfDenoiser):
    """The exact distribution after a number of moves, compared with the tilted distribution."""

    start: str = col("start", "sampler that the moves follow", index=True)
    move: str = col("move", MOVE, index=True)
    moves: int = col("moves", "number of moves", index=True)
    calls: float = col("calls", "expected calls of the denoiser, for each of the two conditionals", digits=2)
    tv_tilted: float = in_tv("TV to tilted", "total variation to the tilted distribution of the data")
    tv_own: float = in_tv(
        "TV to own tilted", "TV to the tilted distribution of the same conditionals, averaged over orders"
    )


STATIONARY = "TV of the distribution that the moves leave invariant; absent if they mix too slowly to find it"


@dataclass(frozen=True)
class EndRow(OfDenoiser):
    """The distribution that the moves converge to, and how fast."""

    move: str = col("move", MOVE, index=True)
    invariant: bool = col(
        "invariant at every w", "whether a move leaves the tilted distribution invariant, with exact conditionals"
    )
    calls: int = col("calls per move", "calls of the denoiser, for each of the two conditionals")
    gap: float | None = col(
        "spectral gap",
        "1 - |second eigenvalue| of a move, or of a sweep for a sequential scan; absent if it was not found",
    )
    tv_tilted: float | None = in_tv("stationary TV to tilted", STATIONARY)
    tv_own: float | None = in_tv(
        "stationary TV to own tilted", "TV of the same distribution to the tilted one of the same conditionals"
    )


@dataclass(frozen=True)
class TableMoves(Moves):
    """The exact distance to the tilted distribution after moves, from several samplers, by size and number of moves.

    Args:
        sizes, moves, starts: as in `Moves`; sizes of None are 1, 2, 3 and all coordinates.

    Raises:
        UserError: numbers out of range, or an entry that is not a sampler.
    """

    moves: Sequence[int] | None = wholes(MOVES, least=0)
    starts: Sequence[Started] = STARTS
    name: ClassVar[str] = "correction_moves"
    needs: ClassVar[Needs] = Needs(**TABLE, one_class=True, numbers=True, guided=True)
    rows: ClassVar[Rows] = {"moves": MoveRow, "ends": EndRow}

    def corrections(self, case: Case) -> list[Correction]:
        """The moves that are compared: every size, with accept/reject where that has few orders; and the plan's own."""
        d = case.target.num_dims
        sizes = self.sizes or sorted({k for k in SMALL_SIZES if k < d} | {d})
        found = [Correction(size=k) for k in sizes]
        found += [Correction(size=k, accept=True) for k in sizes if k > 1 and _orders(d, k) <= MOST_ORDERS]
        return list(dict.fromkeys([*found, *own_move(case.plan.sampler)]))

    def pieces(self, case: Case) -> Iterable[Piece]:
        """For each strength and denoiser: the distributions of all starts, and the effect of every move on them."""
        for g, who in case.by_denoiser():
            about = f"{who} conditionals, w = {g.label}"
            for start in self.compared_starts(case):
                yield case.piece(_started, g, who, start, label=f"distribution of {start.label}, {about}")
            for one in self.corrections(case):
                yield case.piece(self._moved, g, who, one, label=f"moves of {name_of_move(one)}, {about}", cost=2.0)

    def _moved(self, case: Case, guidance: Guidance, who: str, correction: Correction) -> dict[str, Any]:
        """TV to both tilted laws after each number of moves, by start; the limit of the moves, and the spectral gap."""
        denoiser = case.denoiser(who)
        z = case.one_class
        tilted, own = _references(case, guidance, who)
        kernel = correction_kernel(denoiser, guidance, z, correction)
        found = []
        for start in self.compared_starts(case):
            law, _ = case.made.of(_started, guidance, who, start)
            after = []
            for number in range(self.stages(case)[-1] + 1):
                if number in self.stages(case):
                    after.append((total_variation(tilted, law), total_variation(own, law)))
                law = kernel.move(law, number)
            found.append(after)
        ends: tuple[float, float] | tuple[None, None] = (None, None)
        with suppress(NotSettled):
            end = stationary_law(denoiser, guidance, z, correction)
            ends = (total_variation(tilted, end), total_variation(own, end))
        gap = None
        with suppress(NotSettled):
            gap = spectral_gap(denoiser, guidance, z, correction)
        return {"after": found, "end": ends, "gap": gap}

    def findings(self, case: Case, made: Made) -> Findings:
        """A row for each strength, denoiser, start, move and number of moves; and the limits of the moves."""
        rows: list[MoveRow] = []
        ends: list[EndRow] = []
        for g, who in case.by_denoiser():
            for correction in self.corrections(case):
                found = made.of(self._moved, g, who, correction)
                rows += self._rows_of(case, made, g, who, correction, found["after"])
                one = replace(correction, moves=1)
                calls = one.calls(case.target.num_dims)
                about = (g, who, name_of_move(one), one.is_invariant, calls, found["gap"])
                ends.append(EndRow(*about, *found["end"]))
        text = READING + self._left_out(case)
        facts = {"target_class": case.one_class}
        return Findings(case.plan, blocks_of(rows, ends, text), verdict_of(rows, ends), facts)

    def _rows_of(
        self, case: Case, made: Made, g: Guidance, who: str, correction: Correction, found: Sequence[Any]
    ) -> list[MoveRow]:
        rows = []
        for start, after in zip(self.compared_starts(case), found):
            _, before = made.of(_started, g, who, start)
            for number, (tilted, own) in zip(self.stages(case), after):
                calls = before + replace(correction, moves=number).calls(case.target.num_dims)
                index = (g, who, start.label, name_of_move(correction), number)
                rows.append(MoveRow(*index, calls, tilted, own))
        return rows

    def _left_out(self, case: Case) -> str:
        """A sentence about moves that are not among the default ones."""
        d = case.target.num_dims
        given = self.corrections(case)
        left = [k for k in dict.fromkeys(one.size for one in given) if k > 1 and _orders(d, k) > MOST_ORDERS]
        if not left:
            return ""
        return (
            f"\n\nWith accept/reject k = {', '.join(map(str, left))} is left out: its exact distribution needs all "
            "orders of the coordinates, which are too many."
        )


def _orders(num_dims: int, size: int) -> int:
    """The number of ordered sets of `size` coordinates."""
    return math.perm(num_dims, size)


def _started(case: Case, guidance: Guidance, who: str, start: Sampler) -> tuple[Tensor, float]:
    """The exact law of a sampler, and its expected calls."""
    arguments = (case.denoiser(who), guidance, case.one_class)
    return start.law(*arguments), start.expected_calls(*arguments)


def _references(case: Case, guidance: Guidance, who: str) -> tuple[Tensor, Tensor]:
    """The tilted law of the data, and that of the conditionals themselves, averaged over orders."""
    tilted = tilted_law(case.target, guidance.constant, case.one_class)
    if who == EXACT:
        return tilted, tilted
    return tilted, tilted_weights(case.denoiser(who), guidance, case.one_class, "uniform").law


def blocks_of(rows: Sequence[MoveRow], ends: Sequence[EndRow], text: str) -> list[Block]:
    """Curves against calls, a panel for each start; and the limits of the moves."""
    caption = "Exact total variation to the tilted distribution, against all calls; one panel for each sampler."
    curve = Curve("calls", "tv_tilted", ["move", "denoiser"], caption, "start", log_x=True, log_y=True)
    end = Table(["denoiser", "move"], ["invariant", "calls", "gap", "tv_tilted", "tv_own"])
    return [
        Block("moves", rows, "Corrections", text, ["w"], [curve], ["tv_tilted"], group=""),
        Block("ends", ends, "The limit of the moves", "", ["w"], [end], ["gap"], group="Limits", printed=True),
    ]


def verdict_of(rows: Sequence[MoveRow], ends: Sequence[EndRow]) -> list[str]:
    """Whether corrections are worth their calls at the largest strength, which ones, and the remaining distance."""
    top = strongest(rows)
    ended = where(ends, w=top)
    said = []
    for who, here in by(where(rows, w=top), "denoiser"):
        said += _of_starts(f"At w = {top.label}, with {who} conditionals,", here)
        said += _of_moves(here, where(ended, denoiser=who))
    return said + _of_learned(ended)


def _of_starts(head: str, rows: Sequence[MoveRow]) -> list[str]:
    """The distance removed by the largest number of moves of the first size: after the guided chain, and at best."""
    most = max(row.moves for row in rows)
    own = where(rows, move=rows[0].move)
    distances: dict[str, list[float]] = {}
    for row in own:
        if row.moves in (0, most):
            distances.setdefault(row.start, []).append(row.tv_tilted)
    removed = {start: 1 - after / before for start, (before, after) in distances.items() if before > NOTHING}
    if not removed:
        return [f"{head} every sampler already samples the tilted distribution: there is nothing to correct."]
    best = max(removed, key=lambda start: removed[start])
    said = []
    for start in dict.fromkeys(one for one in (FIRST_HITTING, best) if one in removed):
        before, after = distances[start]
        tvs = "total variation {} before, {} after".format(*apart(before, after))
        said.append(f'{_removed(removed[start], most)} the distance of "{start}" ({tvs})')
    judged = "can bring samples nearer to the tilted distribution" if removed[best] >= WORTH else "help little"
    return [f"{head} corrections {judged}: {phrase(most, rows[0].move)} {', and '.join(said)}."]


def _removed(share: float, moves: int) -> str:
    """The effect of `moves` moves as text, from the share of a distance that they remove (negative if it grows)."""
    if share <= -SHOWN:
        return f"{verb_of(moves, 'add')} to"
    return f"{verb_of(moves, 'remove')} {f'{percent(share)} of' if share >= SHOWN else 'nothing of'}"


def _of_moves(rows: Sequence[MoveRow], ends: Sequence[EndRow]) -> list[str]:
    """The best moves for their calls, and those that mix too slowly."""
    said = []
    start = next((row.start for row in rows if not row.moves and row.tv_tilted > NOTHING), None)
    chain = where(rows, start=start)
    if chain:
        calls = max(row.calls for row in where(chain, move=chain[0].move))
        able = [row for row in chain if row.calls <= calls]
        least = min(row.tv_tilted for row in able)
        best = min((row for row in able if row.tv_tilted - least < NOTHING), key=lambda row: row.calls)
        said.append(
            f'After "{start}" and within {calls_of(calls)}, nothing ends nearer to the tilted distribution than '
            f"{phrase(best.moves, best.move)} ({short(best.tv_tilted)})."
        )
    slow = [row.move for row in ends if row.tv_tilted is None or (row.gap is not None and row.gap < CONNECTED)]
    if slow:
        said.append(f"Moves of {'; '.join(slow)} mix too slowly, or do not connect all states: use a larger k.")
    return said


def _of_learned(ends: Sequence[EndRow]) -> list[str]:
    """The remaining distance of moves of the first size with learned conditionals, if exact ones leave less."""
    first = {row.denoiser: row for row in reversed(ends)}
    learned, exact = (getattr(first.get(who), "tv_tilted", None) for who in (LEARNED, EXACT))
    if learned is None or exact is None or learned <= exact + NOTHING:
        return []
    its_own, of_exact = apart(learned, exact)
    return [
        f"With learned conditionals, moves of {first[LEARNED].move} end {its_own} from the tilted distribution "
        f"of the data, with exact ones {of_exact}: corrections do not repair the network."
    ]
