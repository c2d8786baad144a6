"""mdlm_cfg: masked discrete diffusion with classifier-free guidance, judged against exact solutions."""

from mdlm_cfg.chain.guidance import Guidance
from mdlm_cfg.compare.ledger import error_ledger
from mdlm_cfg.laws.push import law_at, terminal_law, tilted_law
from mdlm_cfg.laws.stepped import stepped_law
from mdlm_cfg.sampling.sampler import sample
from mdlm_cfg.targets.table import TableMixture

__all__ = ["Guidance", "TableMixture", "error_ledger", "law_at", "sample", "stepped_law", "terminal_law", "tilted_law"]
