"""Which coordinate comes next: every unmasking policy's exact distance to the class and to the tilted law."""

from mdlm_cfg.studies.policies.study import Policies as Policies
