"""Where each guidance rule departs from the ideal guided conditionals."""

from mdlm_cfg.studies.departure.study import Departures as Departures
