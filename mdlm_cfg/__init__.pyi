"""What `from mdlm_cfg import ...` gives, and where each name is defined: `__init__.py` reads this."""

from mdlm_cfg.app.own_report import report as report
from mdlm_cfg.chain.adaptive_cfg import AdaptiveCFG as AdaptiveCFG
from mdlm_cfg.chain.classifier_rule import ByClassifier as ByClassifier
from mdlm_cfg.chain.corrections import Correction as Correction
from mdlm_cfg.chain.denoiser import Denoiser as Denoiser, FunctionDenoiser as FunctionDenoiser
from mdlm_cfg.chain.guidance import Guidance as Guidance
from mdlm_cfg.chain.guidance_schedules import (
    Interval as Interval,
    LinearRamp as LinearRamp,
    PerCount as PerCount,
    parse_strength as parse_strength,
)
from mdlm_cfg.chain.policies import (
    Blocks as Blocks,
    Confidence as Confidence,
    Entropy as Entropy,
    FixedOrder as FixedOrder,
    Margin as Margin,
    Policy as Policy,
    RatePolicy as RatePolicy,
    Uniform as Uniform,
)
from mdlm_cfg.chain.product_rules import (
    Auto as Auto,
    Compose as Compose,
    Negative as Negative,
    Tempered as Tempered,
)
from mdlm_cfg.chain.rule_names import parse_rule as parse_rule
from mdlm_cfg.chain.rules import CFG as CFG, Rule as Rule
from mdlm_cfg.chain.schedules import Schedule as Schedule
from mdlm_cfg.compare.best_schedule import best_schedule as best_schedule
from mdlm_cfg.compare.calibration import calibrate as calibrate, calibrated_strengths as calibrated_strengths
from mdlm_cfg.compare.decay import tv_decay as tv_decay
from mdlm_cfg.compare.geometry import limit_law as limit_law
from mdlm_cfg.compare.ledger import error_ledger as error_ledger
from mdlm_cfg.compare.likelihood import exact_likelihood as exact_likelihood, likelihood as likelihood
from mdlm_cfg.compare.path_kl import ideal_denoiser as ideal_denoiser, path_kl as path_kl
from mdlm_cfg.compare.profile import (
    exact_information_profile as exact_information_profile,
    information_profile as information_profile,
)
from mdlm_cfg.laws.in_time import law_at as law_at
from mdlm_cfg.laws.slices import slice_denoiser as slice_denoiser
from mdlm_cfg.laws.stationary import stationary_law as stationary_law
from mdlm_cfg.laws.terminal import terminal_law as terminal_law, tilted_law as tilted_law
from mdlm_cfg.laws.weights import tilted_weights as tilted_weights
from mdlm_cfg.nets.masked_lm import masked_lm_denoiser as masked_lm_denoiser
from mdlm_cfg.sampling.adapters import GenerateSampler as GenerateSampler, SchedulerSampler as SchedulerSampler
from mdlm_cfg.sampling.sampler import Sampler as Sampler
from mdlm_cfg.sampling.samples import sample as sample, stepped_law as stepped_law
from mdlm_cfg.sampling.smc import sequential_monte_carlo as sequential_monte_carlo
from mdlm_cfg.studies.benchmark import benchmark as benchmark
from mdlm_cfg.support.errors import UserError as UserError
from mdlm_cfg.targets.hmm import HiddenMarkovMixture as HiddenMarkovMixture
from mdlm_cfg.targets.posterior import TablePosterior as TablePosterior
from mdlm_cfg.targets.table import TableMixture as TableMixture
from mdlm_cfg.training.runs import load_run as load_run

__version__: str
