"""mdlm_cfg: masked discrete diffusion with classifier-free guidance, judged against exact solutions."""

from mdlm_cfg.chain.denoiser import Denoiser, FunctionDenoiser
from mdlm_cfg.chain.guidance import Guidance, interval, linear_ramp
from mdlm_cfg.chain.policies import Blocks, Confidence, Entropy, FixedOrder, Margin, Policy, RatePolicy, Uniform
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.chain.strengths import Interval, LinearRamp, PerCount, parse_strength
from mdlm_cfg.compare.best_schedule import best_schedule
from mdlm_cfg.compare.ideal import departure, ideal_denoiser
from mdlm_cfg.compare.ledger import error_ledger
from mdlm_cfg.compare.likelihood import exact_likelihood, likelihood
from mdlm_cfg.laws import law_at, terminal_law, tilted_law
from mdlm_cfg.laws.slices import slice_denoiser
from mdlm_cfg.laws.weights import tilted_weights
from mdlm_cfg.sampling import Sampler, sample, sequential_monte_carlo, stepped_law
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.hmm import HiddenMarkovMixture
from mdlm_cfg.targets.table import TableMixture

__version__ = "0.2.0.dev0"

__all__ = [
    "Blocks", "Confidence", "Denoiser", "Entropy", "FixedOrder", "FunctionDenoiser", "Guidance",
    "HiddenMarkovMixture", "Interval", "LinearRamp", "Margin", "PerCount", "Policy", "RatePolicy", "Sampler",
    "Schedule", "TableMixture", "Uniform", "UserError", "best_schedule", "departure", "error_ledger",
    "exact_likelihood", "ideal_denoiser", "interval", "law_at", "likelihood", "linear_ramp", "parse_strength",
    "sample", "sequential_monte_carlo", "slice_denoiser", "stepped_law", "terminal_law", "tilted_law",
    "tilted_weights",
]  # fmt: skip
