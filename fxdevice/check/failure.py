"""One operation that met tensors on several devices, and what its source text says."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn

from fxdevice.alignment import is_number, tensors_in
from fxdevice.check.frames import Site, place_of, site_of, span_of, user_frame
from fxdevice.check.names import Names
from fxdevice.check.suggest import operands

__all__ = ["MISSING", "Failure", "operand_values", "value_of"]

MISSING = object()
"""Stands for the value of an expression that is not looked up."""


@dataclass(frozen=True)
class Failure:
    """An operation that met tensors on several devices.

    Attributes:
        func: The torch function.
        args: Its positional arguments, as they were.
        kwargs: Its keyword arguments.
        home: Where the arguments were brought together.
        error: PyTorch's message.
        frame: The frame that called the function.
        end: Code of the frame that started the run.
    """

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    home: torch.device
    error: str
    frame: FrameType
    end: CodeType

    @cached_property
    def users(self) -> FrameType | None:
        """The innermost frame of the user's."""
        return user_frame(self.frame, self.end)

    @cached_property
    def site(self) -> Site | None:
        """Where the user's frame is."""
        return None if self.users is None else site_of(self.users)

    @cached_property
    def tensors(self) -> list[torch.Tensor]:
        """The tensor arguments, in order."""
        return list(tensors_in((self.args, self.kwargs)))

    def is_stray(self, tensor: torch.Tensor) -> bool:
        """Returns whether `tensor` had to be moved."""
        return tensor.device != self.home and not is_number(tensor)


def operand_values(failure: Failure, names: Names) -> dict[str, Any]:
    """Returns the operands of the user's expression: source text -> value, where that is safe.

    Names and attributes are looked up; a call is not run again, but its result may be known. One
    operand that is left must be the one tensor that no other operand is.
    """
    if failure.users is None or failure.site is None:
        return {}
    found = operands(failure.site.code.co_filename, span_of(failure.site))
    values = {text: value_of(text, failure.users) for text in found}
    computed = {
        place_of(site).expression: tensor
        for tensor in failure.tensors
        if (site := names.site_of(tensor)) is not None and site.code is failure.site.code
    }
    values |= {t: computed[t] for t, v in values.items() if v is MISSING and t in computed}
    unknown = [text for text, value in values.items() if value is MISSING]
    known = [id(value) for value in values.values()]
    left = [tensor for tensor in failure.tensors if id(tensor) not in known]
    if len(unknown) == 1 and len(left) == 1:
        values[unknown[0]] = left[0]
    return {text: value for text, value in values.items() if value is not MISSING}


def value_of(text: str, frame: FrameType) -> Any:
    """Returns what a name or attribute in `frame` is, or MISSING for any other expression."""
    try:
        return _looked_up(ast.parse(text, mode="eval").body, frame)
    except (SyntaxError, ValueError):
        return MISSING


def _looked_up(node: ast.expr, frame: FrameType) -> Any:
    if isinstance(node, ast.Name):
        for scope in (frame.f_locals, frame.f_globals):
            if node.id in scope:
                return scope[node.id]
        return MISSING
    if isinstance(node, ast.Attribute):
        owner = _looked_up(node.value, frame)
        is_plain = isinstance(owner, (nn.Module, types.ModuleType))
        return getattr(owner, node.attr, MISSING) if is_plain else MISSING
    return MISSING
