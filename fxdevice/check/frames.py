"""The user's own frames on the stack, and what they were evaluating (no torch).

A frame of PyTorch, Accelerate, fxdevice or the standard library is not the user's: the line to
change is the one that called it. Python keeps the columns of every instruction, so the expression
that ran is known exactly.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import linecache
import os
import sysconfig
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

from fxdevice.check.findings import SourcePlace

__all__ = [
    "Site",
    "Span",
    "assigned_expression",
    "frames_below",
    "is_library",
    "place_of",
    "site_of",
    "span_of",
    "user_frame",
]

_LIBRARIES = ("torch", "accelerate", "functorch", "fxdevice")


@dataclass(frozen=True, slots=True)
class Site:
    """An instruction of the user's: cheap to take, turned into text only when it is shown."""

    code: CodeType
    instruction: int


def user_frame(frame: FrameType | None, end: CodeType) -> FrameType | None:
    """Returns the innermost frame of the user's among `frame` and its callers below `end`."""
    frames = frames_below(frame, end)
    return next((found for found in frames if not is_library(found.f_code.co_filename)), None)


def frames_below(frame: FrameType | None, end: CodeType) -> Iterator[FrameType]:
    """Yields `frame` and its callers, up to and without the frame that runs `end`."""
    while frame is not None and frame.f_code is not end:
        yield frame
        frame = frame.f_back


def site_of(frame: FrameType) -> Site:
    """Returns where `frame` is."""
    return Site(frame.f_code, frame.f_lasti)


@functools.cache
def is_library(name: str) -> bool:
    """Returns whether a file belongs to a library whose users cannot be asked to change it."""
    if name.startswith("<") and not name.startswith(("<stdin>", "<ipython", "<string>")):
        return True
    if any(name.startswith(folder) for folder in _library_folders()):
        return True
    # Installed packages may lie inside of the standard library's folder.
    return name.startswith(_standard_folder()) and "-packages" not in name


@dataclass(frozen=True, slots=True)
class Span:
    """Where an expression stands in its file: lines from 1, columns from 0, without the end."""

    line: int
    column: int
    end_line: int
    end_column: int


@functools.cache
def span_of(site: Site) -> Span | None:
    """Returns where the expression of `site` stands; None when Python was told to forget it."""
    line, end_line, column, end_column = list(site.code.co_positions())[site.instruction // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return None
    file = site.code.co_filename
    return Span(
        line,
        _characters(linecache.getline(file, line), column),
        end_line,
        _characters(linecache.getline(file, end_line), end_column),
    )


@functools.cache
def place_of(site: Site) -> SourcePlace:
    """Returns the line and expression of `site`."""
    file, code, span = site.code.co_filename, site.code, span_of(site)
    line = code.co_firstlineno if span is None else span.line
    text = linecache.getline(file, line).strip()
    return SourcePlace(file, line, code.co_qualname, text, _expression(file, span))


def _expression(file: str, span: Span | None) -> str:
    if span is None:
        return ""
    lines = [linecache.getline(file, number) for number in range(span.line, span.end_line + 1)]
    lines[-1] = lines[-1][: span.end_column]
    lines[0] = lines[0][span.column :]
    return " ".join("".join(lines).split())


def _characters(line: str, num_bytes: int) -> int:
    """Returns how many characters the first bytes of a line are: Python counts bytes of UTF-8."""
    return len(line.encode()[:num_bytes].decode(errors="replace"))


def assigned_expression(frame: FrameType, text: str) -> str:
    """Returns what the local variable `text` was last assigned above the running line.

    Any other expression is returned as it is.
    """
    if not text.isidentifier() or text not in frame.f_code.co_varnames:
        return text
    try:
        lines, first_line = inspect.getsourcelines(frame.f_code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, SyntaxError):
        return text
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == text for target in node.targets)
        and node.lineno + first_line - 1 <= frame.f_lineno
    ]
    return ast.unparse(max(found, key=lambda node: node.lineno).value) if found else text


@functools.cache
def _library_folders() -> tuple[str, ...]:
    found: list[str] = []
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            found += spec.submodule_search_locations
    return tuple(str(Path(folder)) + os.sep for folder in found)


@functools.cache
def _standard_folder() -> str:
    return str(Path(sysconfig.get_paths()["stdlib"])) + os.sep
