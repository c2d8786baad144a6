"""What the studies of correction moves share: their settings as they are checked, and how a move is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mdlm_cfg.chain.corrections import Correction
from mdlm_cfg.sampling.sampler import Sampler
from mdlm_cfg.studies.plan import refuse_namesakes
from mdlm_cfg.support.errors import UserError

Started = Sampler | Mapping[str, Any]


def check_sizes(sizes: Sequence[int] | None) -> None:
    """Raise UserError unless sizes are whole numbers of at least 1, each given once, or None."""
    if sizes is not None and (not sizes or len(set(sizes)) < len(sizes) or not all(_is_whole(k, 1) for k in sizes)):
        raise UserError(f"study.sizes = {list(sizes)} must be whole numbers of at least 1, each given once")


def check_moves(moves: Sequence[int]) -> tuple[int, ...]:
    """Numbers of moves, rising, with 0 among them.

    Raises:
        UserError: none, or what is not a whole number of at least 0.
    """
    if not moves or not all(_is_whole(m, 0) for m in moves):
        raise UserError(f"study.moves = {list(moves)} must be whole numbers of at least 0, such as [0,10,40]")
    return tuple(sorted({0, *moves}))


def starts_of(starts: Sequence[Started]) -> tuple[Sampler, ...]:
    """The samplers that moves follow.

    Raises:
        UserError: none, what is no sampler, or one with a correction of its own.
    """
    if isinstance(starts, str | Mapping) or not starts:
        raise UserError(f"study.starts = {starts!r} must be a list of samplers, such as [{{name:threshold}}]")
    found = []
    for one in starts:
        found.append(one if isinstance(one, Sampler) else _sampler(one))
        if found[-1].correction is not None:
            raise UserError(
                f"study.starts has {found[-1].label}, which has moves of its own: leave its correction away"
            )
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
    """A move for people by its size and how it is made, such as "k = 2, accept/reject"."""
    parts = [f"k = {correction.size}"]
    parts += ["accept/reject"] if correction.accept else []
    parts += ["in parallel"] if correction.parallel else []
    parts += [correction.scan.replace("_", " ")] if correction.scan != "random" else []
    parts += [f"policy {correction.policy}"] if correction.policy is not None else []
    return ", ".join(parts)


def phrase(number: int, move: str) -> str:
    """So many moves, for people."""
    return f"{number} single refills" if move == name_of_move(Correction()) else f"{number} moves of {move}"


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
