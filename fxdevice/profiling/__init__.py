"""Measured seconds: of modules before they are placed, of partitions as they run."""

from fxdevice.profiling.modules import TimeFactors, measure_modules, with_time_factors
from fxdevice.profiling.partitions import TimedCompiler, TimedPartition

__all__ = [
    "TimeFactors",
    "TimedCompiler",
    "TimedPartition",
    "measure_modules",
    "with_time_factors",
]
