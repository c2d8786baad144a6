"""mdlm_cfg: masked discrete diffusion with classifier-free guidance, judged against exact solutions."""

from mdlm_cfg.guidance import Guidance
from mdlm_cfg.laws import law_at, terminal_law, tilted_law
from mdlm_cfg.ledger import error_ledger
from mdlm_cfg.samplers import sample
from mdlm_cfg.stepped import stepped_law
from mdlm_cfg.targets.table import TableMixture

__all__ = ["Guidance", "TableMixture", "error_ledger", "law_at", "sample", "stepped_law", "terminal_law", "tilted_law"]
