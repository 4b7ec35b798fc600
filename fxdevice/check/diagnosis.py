"""The result of a check (no torch)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from fxdevice.check.findings import Finding
from fxdevice.check.text import findings_text

__all__ = ["Diagnosis"]


@dataclass(frozen=True)
class Diagnosis:
    """All device errors of one run.

    Attributes:
        model: Class name of the model.
        findings: In the order in which they were met.
        num_operations: Torch functions that ran.
    """

    model: str
    findings: tuple[Finding, ...]
    num_operations: int

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_json(self) -> str:
        """Returns the findings as JSON: the fields of the classes here, `ok` beside them."""
        return json.dumps({"ok": self.ok, **dataclasses.asdict(self)}, indent=2)

    def __str__(self) -> str:
        return findings_text(self.model, self.findings, self.num_operations)
