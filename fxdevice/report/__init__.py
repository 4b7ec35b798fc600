"""What was placed where, and why: as data (`facts`) and as text (`text`)."""

from fxdevice.report.facts import BreakFacts, GraphFacts, Report, TransferFacts, make_report
from fxdevice.report.partitions import PartitionFacts

__all__ = ["BreakFacts", "GraphFacts", "PartitionFacts", "Report", "TransferFacts", "make_report"]
