"""Every study that takes minutes, stopped after some of its work: it goes on, and finds what it would have found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import Blurred, bernoulli_mixture, random_target

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.studies.benchmark.study import Benchmark
from mdlm_cfg.studies.best_schedule import BestScheduleStudy
from mdlm_cfg.studies.correction import Correction
from mdlm_cfg.studies.inpainting import Inpainting
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.mixture import Mixtures
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.protocol import Case, Study, run as run_study
from mdlm_cfg.studies.report import TableReport
from mdlm_cfg.studies.sequences import Sequences
from mdlm_cfg.support.cache import Cache, no_cache
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.toys import toy_1d_overlap

DRAWN = ("samples", "compared")
PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 40, seed=3, classes=(1,))
EVEN = torch.full((2, 2), 0.5).double()
HMM = HiddenMarkovMixture(
    EVEN,
    torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.4, 0.6]]]).double(),
    torch.tensor([[[0.7, 0.3], [0.1, 0.9]], [[0.5, 0.5], [0.6, 0.4]]]).double(),
    torch.tensor([0.4, 0.6]),
    num_dims=4,
)


def data_of(target: Any, grid: tuple[int, ...]) -> Any:
    """As much of a data module as studies ask for."""
    x, classes = target.sample(60, torch.Generator().manual_seed(1))
    return SimpleNamespace(
        target=target,
        name="small",
        grid_shape=grid,
        num_tokens=target.num_tokens,
        num_classes=target.num_classes,
        class_names=None,
        test_examples=lambda: (x, classes),
    )


PIXELS = bernoulli_mixture(9)
TABLE = random_target(2, 3, seed=2)
EVERY = Plan(PLAN.guidances, PLAN.sampler, PLAN.num_samples, PLAN.seed)
STUDIES: dict[str, tuple[Study, Any, tuple[int, ...], Plan, int]] = {  # and how many pieces are kept
    "table": (TableReport(), TABLE, (3,), PLAN, 3 * 2 + 2 + 2 * 2),
    "mixture": (Mixtures(), PIXELS, (3, 3), PLAN, 2 + 2 + 4 * 2),
    "sequences": (Sequences(num_test=20, num_draws=1), HMM, (4,), PLAN, 3 * 2 + 2 * 2 * 4),
    "inpainting": (Inpainting(num_free=3), PIXELS, (3, 3), PLAN, 2 + 1 + 2),
    "likelihood": (LikelihoodStudy(num_images=4, orders=2), PIXELS, (3, 3), EVERY, 2 + 2 * 3),
    "correction": (Correction(num_reference=100), PIXELS, (3, 3), PLAN, 3 * 2),
    "best_schedule": (BestScheduleStudy(), TABLE, (3,), PLAN, 2 * 2 + 1),
    "benchmark": (Benchmark(targets=["toy_1d_overlap"], calls=[1, 2]), toy_1d_overlap(), (1,), EVERY, 2),
}


class Stop(Exception):
    """In place of an interrupt."""


def stopped_after(pieces: int, kept: Cache) -> Callable[[object, Callable[[], Any]], Any]:
    """What is kept, until so many pieces were made anew."""
    made: list[object] = []

    def keep(key: object, make: Callable[[], Any]) -> Any:
        def counted() -> Any:
            if len(made) >= pieces:  # a piece that needs another makes two
                raise Stop
            value = make()  # it may need another piece
            made.append(key)
            return value

        return kept(key, counted)

    return keep


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "table" else name for name in STUDIES]
)
def test_a_study_goes_on_from_what_it_has(name: str, tmp_path: Path) -> None:
    study, target, grid, plan, pieces = STUDIES[name]
    data = data_of(target, grid)
    kept = Cache(tmp_path / "kept", "about")

    def run(keep: Any) -> Any:
        learned = None if name == "benchmark" else Blurred(target, 0.3)
        return run_study(study, Case.of(data, learned, plan, keep))

    stops = 0
    resumed = None
    while resumed is None:
        try:
            resumed = run(stopped_after(max(1, pieces // 3), kept))
        except Stop:
            stops += 1
            assert stops < 2 * pieces
    assert stops >= 1 and len(kept) > 0
    again = run(stopped_after(0, kept))  # nothing of it is made twice
    alone = run(no_cache)
    assert resumed.to_dict() == alone.to_dict() == again.to_dict()
    assert set(alone.arrays) == set(resumed.arrays)
    assert all((alone.arrays[key] == value).all() for key, value in resumed.arrays.items())


@pytest.mark.parametrize("name", ["mixture", "sequences", "inpainting"])
@pytest.mark.parametrize("is_learned", [True, False])
def test_a_study_says_beforehand_what_it_draws(name: str, is_learned: bool) -> None:
    """So that several processes can draw it: it then finds every piece, and no piece was drawn in vain."""
    study, target, grid, plan, _ = STUDIES[name]
    data = data_of(target, grid)
    learned = Blurred(target, 0.3) if is_learned else None
    seen = []

    def keep(key: Any, make: Callable[[], Any]) -> Any:
        seen.append(key)
        return make()

    run_study(study, Case.of(data, learned, plan, keep))
    shared = [piece.key for piece in study.pieces(Case.of(data, learned, plan)) if piece.shared]
    assert shared == [key for key in seen if key[0] in DRAWN] and len(shared) >= (2 if name == "inpainting" else 4)
