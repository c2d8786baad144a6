"""Which strengths, one for each number of unmasked coordinates, bring the guided chain nearest to the tilted law."""

from mdlm_cfg.studies.best_schedule.study import BestScheduleStudy

__all__ = ["BestScheduleStudy"]
