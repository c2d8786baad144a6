"""study=correction_moves: how far mask-and-refill moves bring samples towards the tilted distribution (theory, 19).

For a table everything is exact. With samples, `MixtureMoves` is for a Bernoulli mixture in many dimensions and
`ImageMoves` for a network of images. `CorrectionMoves` chooses among them by the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mdlm_cfg.studies.image_moves import ImageMoves
from mdlm_cfg.studies.mixture_moves import MixtureMoves
from mdlm_cfg.studies.moves import Started
from mdlm_cfg.studies.protocol import ByCase, Needs
from mdlm_cfg.studies.table_moves import TableMoves

KINDS: tuple[Any, ...] = (TableMoves, MixtureMoves, ImageMoves)


@dataclass(frozen=True)
class CorrectionMoves(ByCase):
    """The effect of mask-and-refill moves on samples of a table, of a Bernoulli mixture, or of images by a network.

    Args:
        sizes, moves, starts: see `TableMoves` and `MovedSets`; None is the default for the data.
        num_reference: see `MixtureMoves`. classifier: see `ImageMoves`.
    """

    sizes: Sequence[int] | None = None
    moves: Sequence[int] | None = None
    starts: Sequence[Started] | None = None
    num_reference: int = MixtureMoves.num_reference
    classifier: bool = True
    needs: ClassVar[Needs] = Needs(
        what="tables, Bernoulli mixtures and images",
        example="data=tiny_mnist_3x3, data=bernoulli_mnist or data=mnist",
        accepts=lambda data: any(kind.needs.fits(data) for kind in KINDS),
    )
    kinds = KINDS
