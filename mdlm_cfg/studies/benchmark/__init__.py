"""The benchmark: samplers ranked by their exact distributions on fixed targets (docs/benchmark.md)."""

from mdlm_cfg.studies.benchmark.entries import Entry
from mdlm_cfg.studies.benchmark.study import Benchmark, benchmark
from mdlm_cfg.studies.benchmark.targets import TARGETS, Target

__all__ = ["TARGETS", "Benchmark", "Entry", "Target", "benchmark"]
