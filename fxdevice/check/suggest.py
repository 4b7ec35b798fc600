"""Suggested changes of the user's source as unified diffs (no torch).

Only what is mechanical is suggested: one line, one expression, the reference to a device that is
in scope there. Everything else gets advice in words.
"""

from __future__ import annotations

import ast
import difflib
import linecache
import re
from dataclasses import dataclass

from fxdevice.check.frames import Span

__all__ = ["Edit", "create_on", "move_operand", "operands", "register_buffer", "unified_diff"]

_DEVICE = r"(?:torch\.device\(\s*f?['\"][\w:]+['\"]\s*\)|f?['\"][a-z]+(?::\d+)?['\"]|\d+)"
_MOVES = re.compile(r"\.(?:cuda|cpu|xpu|npu|mps|fxsim)\(\s*\d*\s*\)")
_TO = re.compile(rf"\.to\(\s*(?:device\s*=\s*)?{_DEVICE}")
_KEYWORD = re.compile(rf"\bdevice\s*=\s*{_DEVICE}")


@dataclass(frozen=True)
class Edit:
    """One line of a file, changed.

    Attributes:
        file: Path of the file.
        line: Line number, from 1.
        new: The line as it should be, with its indentation.
    """

    file: str
    line: int
    new: str


def unified_diff(edit: Edit) -> str:
    """Returns `edit` as a unified diff with one line of context."""
    old = linecache.getlines(edit.file)
    new = [*old[: edit.line - 1], edit.new.rstrip("\n") + "\n", *old[edit.line :]]
    return "".join(difflib.unified_diff(old, new, edit.file, edit.file, n=1))


def create_on(file: str, span: Span | None, device: str) -> Edit | None:
    """Returns the expression at `span` with the result on `device`.

    Replaces what names a device; a creation that names none gets `device=`.

    Args:
        file: Path of the file.
        span: Where the creation stands.
        device: An expression for the device, such as "x.device".
    """
    line = _single_line(file, span)
    if line is None or span is None:
        return None
    text = line[span.column : span.end_column]
    for pattern, replacement in (
        (_KEYWORD, f"device={device}"),
        (_TO, f".to({device}"),
        (_MOVES, f".to({device})"),
    ):
        if pattern.search(text):
            return _replaced(file, line, span, pattern.sub(lambda _, r=replacement: r, text))  # type: ignore[misc]
    if not text.endswith(")") or ".type(" in text:
        return None
    inside = text[:-1].rstrip().rstrip(",")
    separator = "" if inside.endswith("(") else ", "
    return _replaced(file, line, span, f"{inside}{separator}device={device})")


def register_buffer(file: str, first_line: int, num_lines: int, name: str) -> Edit | None:
    """Returns the assignment of `self.name` in a class with a registration in its place.

    Args:
        file: Path of the file.
        first_line: Line of the class statement.
        num_lines: Lines of the class.
        name: The attribute.
    """
    lines = linecache.getlines(file)[first_line - 1 : first_line - 1 + num_lines]
    pattern = re.compile(rf"^(\s*)self\.{re.escape(name)}\s*(?::[^=]+)?=\s*(.+?)\s*$")
    for offset, line in enumerate(lines):
        found = pattern.match(line)
        if found is None or not _is_expression(found[2]):
            continue
        new = f'{found[1]}self.register_buffer("{name}", {found[2]}, persistent=False)'
        return Edit(file, first_line + offset, new)
    return None


def operands(file: str, span: Span | None) -> dict[str, Span]:
    """Returns the operands of the expression at `span`: source text and where it stands.

    Operands of `a + b`, of a comparison, a subscript, an augmented assignment, and the arguments of
    a call, with what stands before the dot of a method call.
    """
    line = _single_line(file, span)
    if line is None or span is None:
        return {}
    text = line[span.column : span.end_column]
    try:
        (statement,) = ast.parse(text).body
    except (SyntaxError, ValueError):
        return {}
    found: dict[str, Span] = {}
    for node in _operand_nodes(statement):
        segment = ast.get_source_segment(text, node)
        if segment is not None and node.end_col_offset is not None:
            start = span.column + node.col_offset
            found.setdefault(
                segment, Span(span.line, start, span.line, span.column + node.end_col_offset)
            )
    return found


def move_operand(file: str, operand: Span, device: str) -> Edit | None:
    """Returns the line with `.to(device)` after an operand."""
    line = _single_line(file, operand)
    if line is None:
        return None
    text = line[operand.column : operand.end_column]
    if not re.fullmatch(r"[\w.\[\]()'\", :-]+", text) or _is_compound(text):
        text = f"({text})"
    return _replaced(file, line, operand, f"{text}.to({device})")


def _operand_nodes(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.AugAssign):
        return [statement.target, statement.value]
    if isinstance(statement, ast.Assign):  # x[i] = value
        (target,) = statement.targets
        parts = _operands_of(target) if isinstance(target, ast.Subscript) else [target]
        return [*parts, statement.value]
    return _operands_of(statement.value) if isinstance(statement, ast.Expr) else []


def _operands_of(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp():
            return [node.left, node.right]
        case ast.Compare():
            return [node.left, *node.comparators]
        case ast.Subscript():
            return [node.value, *_elements(node.slice)]
        case ast.Call():
            method = [node.func.value] if isinstance(node.func, ast.Attribute) else []
            values = [*node.args, *(keyword.value for keyword in node.keywords)]
            return [*method, *(element for value in values for element in _elements(value))]
    return []


def _elements(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, (ast.Tuple, ast.List)) else [node]


def _single_line(file: str, span: Span | None) -> str | None:
    if span is None or span.line != span.end_line:
        return None
    return linecache.getline(file, span.line) or None


def _replaced(file: str, line: str, span: Span, text: str) -> Edit:
    return Edit(file, span.line, line[: span.column] + text + line[span.end_column :])


def _is_expression(text: str) -> bool:
    return _parsed(text) is not None


def _is_compound(text: str) -> bool:
    return isinstance(_parsed(text), (ast.BinOp, ast.Compare, ast.UnaryOp, ast.IfExp, ast.Lambda))


def _parsed(text: str) -> ast.expr | None:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
