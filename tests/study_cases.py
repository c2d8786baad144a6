"""Every study with small data and a plan for it: the worlds that tests of all studies share."""

from __future__ import annotations

from typing import Any

import torch
from helpers import bernoulli_mixture, data_of, hidden_markov, random_target

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.studies.benchmark import Benchmark
from mdlm_cfg.studies.best_schedule import BestScheduleStudy
from mdlm_cfg.studies.calibration import CalibrationStudy
from mdlm_cfg.studies.corpus import Corpus
from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.departure import Departures
from mdlm_cfg.studies.geometry import GeometryStudy
from mdlm_cfg.studies.image_moves import ImageMoves
from mdlm_cfg.studies.images import Images
from mdlm_cfg.studies.inpainting import Inpainting
from mdlm_cfg.studies.laws import Laws
from mdlm_cfg.studies.ledger import LedgerStudy
from mdlm_cfg.studies.likelihood import LikelihoodStudy
from mdlm_cfg.studies.mixture import Mixtures
from mdlm_cfg.studies.mixture_correction import MixtureCorrection
from mdlm_cfg.studies.mixture_moves import MixtureMoves
from mdlm_cfg.studies.plan import Plan
from mdlm_cfg.studies.policies import Policies
from mdlm_cfg.studies.profile import ProfileStudy
from mdlm_cfg.studies.samplers import Samplers
from mdlm_cfg.studies.sequences import Sequences
from mdlm_cfg.studies.table_correction import TableCorrection
from mdlm_cfg.studies.table_moves import TableMoves
from mdlm_cfg.targets.data import KnownData
from mdlm_cfg.targets.toys import toy_1d_overlap

PLAN = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 40, classes=(0,))
ALL_CLASSES = Plan((Guidance(0.0), Guidance(2.0)), Sampler(), 40)
TABLE = KnownData(random_target(3, 2, 2, seed=3), "small", (2,))
LINE = KnownData(toy_1d_overlap(), "small")
PIXELS = KnownData(bernoulli_mixture(9), "small", (3, 3))
HIDDEN = random_target(2, 6, 2, seed=5)


def images(num_test: int = 60) -> Any:
    """Training and test images of both classes of `HIDDEN`, which nothing is known of but these."""
    x, labels = HIDDEN.sample(400 + num_test, torch.Generator().manual_seed(0))
    x = x.to(torch.uint8)
    train = [x[:400][labels[:400] == k] for k in (0, 1)]
    known = {"train_examples": lambda k, generator: train[k], "test_examples": lambda: (x[400:], labels[400:])}
    about = {"grid_shape": (2, 3), "example_kind": "images", "value_names": None, "num_dims": 6}
    data = data_of(HIDDEN, **about, **known)
    data.target = None
    return data


IMAGES = images()
CASES: dict[str, tuple[Any, Any, Plan]] = {
    "Benchmark": (Benchmark(targets=["toy_1d_overlap"], calls=[1, 2]), LINE, ALL_CLASSES),
    "BestScheduleStudy": (BestScheduleStudy(), TABLE, PLAN),
    "CalibrationStudy": (CalibrationStudy(), TABLE, PLAN),
    "Corpus": (Corpus(num_classified=20, num_draws=2), IMAGES, ALL_CLASSES),
    "DecayStudy": (DecayStudy(), TABLE, PLAN),
    "Departures": (Departures(), TABLE, PLAN),
    "GeometryStudy": (GeometryStudy(), TABLE, PLAN),
    "ImageMoves": (ImageMoves(moves=[3], starts=[Sampler()], classifier=False), IMAGES, ALL_CLASSES),
    "Images": (Images(classifier=False, num_classified=20, num_draws=2), IMAGES, ALL_CLASSES),
    "Inpainting": (Inpainting(num_free=3), PIXELS, PLAN),
    "Laws": (Laws(), TABLE, PLAN),
    "LedgerStudy": (LedgerStudy(), TABLE, PLAN),
    "LikelihoodStudy": (LikelihoodStudy(num_images=4, orders=2), PIXELS, ALL_CLASSES),
    "MixtureCorrection": (MixtureCorrection(num_reference=100), PIXELS, PLAN),
    "MixtureMoves": (MixtureMoves(moves=[3], starts=[Sampler()], num_reference=100), PIXELS, PLAN),
    "Mixtures": (Mixtures(), PIXELS, PLAN),
    "Policies": (Policies(), TABLE, PLAN),
    "ProfileStudy": (ProfileStudy(), TABLE, PLAN),
    "Samplers": (Samplers((2, 16)), TABLE, PLAN),
    "Sequences": (Sequences(num_test=20, num_draws=1), KnownData(hidden_markov(), "small", (3,)), PLAN),
    "TableCorrection": (TableCorrection(), TABLE, PLAN),
    "TableMoves": (TableMoves(moves=[3], starts=[Sampler()]), TABLE, PLAN),
}
