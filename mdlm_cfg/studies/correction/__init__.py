"""What it costs to sample the tilted law, where guidance does not."""

from mdlm_cfg.studies.correction.study import Correction

__all__ = ["Correction"]
