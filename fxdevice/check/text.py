"""Findings as text (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fxdevice.check.findings import Argument, Finding

__all__ = ["findings_text"]

_SHOWN_MODULES = 4


def findings_text(model: str, findings: Sequence[Finding], num_operations: int) -> str:
    """Returns one paragraph for each finding, after a line that says how many there are."""
    count = len(findings)
    if not count:
        return f"{model}: no device errors in {num_operations} operations"
    noun = "device error" if count == 1 else "device errors"
    lines = [f"{model}: {count} {noun} in {num_operations} operations"]
    for number, finding in enumerate(findings, 1):
        lines += ["", *_finding_lines(number, finding)]
    return "\n".join(lines)


def _finding_lines(number: int, finding: Finding) -> Iterator[str]:
    yield f"{number}. {finding.operation}: {finding.cause}"
    if finding.place is not None:
        place = finding.place
        yield f"   {place.file}:{place.line} in {place.function}"
        yield f"       {place.code}"
    yield f"   module: {_modules(finding)}" + (
        f", {finding.num_times} times" if finding.num_times > 1 else ""
    )
    width = max(len(argument.device) for argument in finding.arguments)
    for argument in finding.arguments:
        yield f"   {'>' if argument.is_stray else ' '} {argument.device:{width}}  {_text(argument)}"
    yield f"   {finding.advice}"
    if finding.diff:
        yield from (f"   {line}".rstrip() for line in finding.diff.splitlines())


def _modules(finding: Finding) -> str:
    shown = [name or "(the model)" for name in finding.modules[:_SHOWN_MODULES]]
    more = len(finding.modules) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _text(argument: Argument) -> str:
    shape = ", ".join(map(str, argument.shape))
    kind = "" if argument.kind in ("result", "unknown") else f" ({argument.kind})"
    return f"{argument.name}{kind}: {argument.dtype}[{shape}]"
