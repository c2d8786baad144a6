"""Every study with small data and a plan for it: the worlds that tests of all studies share."""

from __future__ import annotations

from typing import Any

from helpers import bernoulli_mixture, hidden_markov, random_target

from mdlm_cfg import Guidance, Sampler
from mdlm_cfg.studies.benchmark import Benchmark
from mdlm_cfg.studies.best_schedule import BestScheduleStudy
from mdlm_cfg.studies.calibration import CalibrationStudy
from mdlm_cfg.studies.decay import DecayStudy
from mdlm_cfg.studies.departure import Departures
from mdlm_cfg.studies.geometry import GeometryStudy
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
CASES: dict[str, tuple[Any, Any, Plan]] = {
    "Benchmark": (Benchmark(targets=["toy_1d_overlap"], calls=[1, 2]), LINE, ALL_CLASSES),
    "BestScheduleStudy": (BestScheduleStudy(), TABLE, PLAN),
    "CalibrationStudy": (CalibrationStudy(), TABLE, PLAN),
    "DecayStudy": (DecayStudy(), TABLE, PLAN),
    "Departures": (Departures(), TABLE, PLAN),
    "GeometryStudy": (GeometryStudy(), TABLE, PLAN),
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
    "TableMoves": (TableMoves(), TABLE, PLAN),
}
