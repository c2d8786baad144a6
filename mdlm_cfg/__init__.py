"""mdlm_cfg: masked discrete diffusion with classifier-free guidance, judged against exact solutions."""

from mdlm_cfg.chain.denoiser import Denoiser, FunctionDenoiser
from mdlm_cfg.chain.guidance import Guidance, interval, linear_ramp
from mdlm_cfg.chain.schedules import Schedule
from mdlm_cfg.compare.ledger import error_ledger
from mdlm_cfg.laws import law_at, terminal_law, tilted_law
from mdlm_cfg.sampling import Sampler, sample, stepped_law
from mdlm_cfg.support.errors import UserError
from mdlm_cfg.targets.table import TableMixture

__version__ = "0.2.0.dev0"

__all__ = [
    "Denoiser", "FunctionDenoiser", "Guidance", "Sampler", "Schedule", "TableMixture", "UserError", "error_ledger",
    "interval", "law_at", "linear_ramp", "sample", "stepped_law", "terminal_law", "tilted_law",
]  # fmt: skip
