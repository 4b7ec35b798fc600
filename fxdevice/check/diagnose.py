"""From one failed operation to a finding: names, cause, suggestion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fxdevice.alignment import written_argument
from fxdevice.check.advice import Situation, advice_for
from fxdevice.check.causes import Clues, cause_of
from fxdevice.check.failure import MISSING, Failure, operand_values, value_of
from fxdevice.check.findings import Argument, Cause, Finding
from fxdevice.check.frames import Site, assigned_expression, frames_below, place_of
from fxdevice.check.keepers import keepers, owner_class
from fxdevice.check.names import Names, TensorName

__all__ = ["Examined", "examine", "finding_of"]


@dataclass(frozen=True)
class Examined:
    """What was found out about a failure; enough to know one that came before.

    Attributes:
        failure: The failure.
        operation: The torch function.
        cause: Why it failed.
        module: Qualified name of the module that ran it.
        texts: Operands of the user's expression: source text -> value.
        found: Names of the tensors.
        position: Of the first stray among them.
        origin: Where that one was computed in this run.
    """

    failure: Failure
    operation: str
    cause: Cause
    module: str
    texts: dict[str, Any]
    found: list[TensorName]
    position: int
    origin: Site | None


def examine(failure: Failure, names: Names) -> Examined:
    """Finds out why an operation failed and where."""
    tensors = failure.tensors
    texts = operand_values(failure, names)
    found = [_named(failure, names, texts, tensor) for tensor in tensors]
    position = next(i for i, tensor in enumerate(tensors) if failure.is_stray(tensor))
    name = found[position]
    operation = getattr(failure.func, "__name__", str(failure.func))
    origin = names.site_of(tensors[position])
    owners = list(_owners(failure))
    cause = cause_of(
        Clues(
            operation=operation,
            is_in_place=written_argument(failure.func, failure.args, failure.kwargs) is not None
            and operation != "__getitem__",
            position=position,
            kind=name.kind,
            path=name.path,
            origin=name.origin if origin is None else place_of(origin).expression,
            meets_tied=any(other.is_tied for other in found),
            kept_by=keepers(names, name.path) if name.kind == "attribute" else (),
            owner_class=_plain_owner_class(owners),
        )
    )
    module = next((p for o in owners if (p := names.module_path(o)) is not None), "")
    return Examined(failure, operation, cause, module, texts, found, position, origin)


def finding_of(examined: Examined, names: Names) -> Finding:
    """Returns what is reported, with a suggestion: the source is read for it."""
    failure, origin = examined.failure, examined.origin
    tensors, texts = failure.tensors, examined.texts
    stray, name = tensors[examined.position], examined.found[examined.position]
    situation = Situation(
        cause=examined.cause,
        site=failure.site,
        origin=origin,
        stray=next((text for text, value in texts.items() if value is stray), ""),
        stray_path=name.path,
        home=_home_expression(failure, texts, stray),
        creation_home=_in_scope(failure, origin),
        owner=owner_class(names, name.path) if name.kind == "attribute" else None,
        devices=tuple(sorted({str(tensor.device) for tensor in tensors})),
        home_device=str(failure.home),
    )
    diff, advice = advice_for(situation)
    return Finding(
        operation=examined.operation,
        place=None if failure.site is None else place_of(failure.site),
        module=examined.module,
        modules=(examined.module,),
        num_times=1,
        arguments=tuple(
            Argument(
                name.text,
                name.kind,
                str(tensor.device),
                tuple(int(size) for size in tensor.shape),
                str(tensor.dtype).removeprefix("torch."),
                failure.is_stray(tensor),
            )
            for name, tensor in zip(examined.found, tensors, strict=True)
        ),
        home=str(failure.home),
        cause=examined.cause,
        error=failure.error.splitlines()[0],
        diff=diff,
        advice=advice,
    )


def _plain_owner_class(owners: list[object]) -> str:
    """Returns the class of the innermost object whose method is running, if it is no module."""
    if not owners or isinstance(owners[0], nn.Module):
        return ""
    return f"{type(owners[0]).__module__}.{type(owners[0]).__qualname__}"


def _named(
    failure: Failure, names: Names, texts: dict[str, Any], tensor: torch.Tensor
) -> TensorName:
    name = names.of(tensor)
    if name.kind != "constant":
        return name
    text = next((text for text, value in texts.items() if value is tensor), None)
    if text is None or failure.users is None:
        return name
    # What no tensor went into is not seen by the watch: `torch.from_numpy(array)`.
    origin = assigned_expression(failure.users, text)
    is_result = "(" in origin
    shown = f"result of `{origin}`" if is_result else f"`{text}`"
    return TensorName(shown, "result" if is_result else "constant", origin=origin)


def _owners(failure: Failure) -> Iterator[object]:
    """Yields the objects whose methods are running, from the user's innermost frame outward."""
    start = failure.users or failure.frame
    for frame in frames_below(start, failure.end):
        if frame.f_code.co_varnames[:1] == ("self",):
            owner = frame.f_locals.get("self", MISSING)
            if owner is not MISSING:
                yield owner


def _home_expression(failure: Failure, texts: dict[str, Any], stray: torch.Tensor) -> str:
    """Returns an expression, valid in the user's line, for the device the stray should be on."""
    for text, value in texts.items():
        is_home = isinstance(value, torch.Tensor) and value.device == failure.home
        if is_home and value is not stray and "(" not in text:  # a call is not for running twice
            return f"{text}.device"
    if failure.users is None or failure.site is None:
        return ""
    called = place_of(failure.site).expression.partition("(")[0]
    module = value_of(called, failure.users) if called else MISSING
    if isinstance(module, nn.Module):
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.device == failure.home:
                return f"{called}.{name}.device"
    return ""


def _in_scope(failure: Failure, origin: Site | None) -> str:
    """Returns an expression for the home device that holds where the stray was made."""
    if origin is None:
        return ""
    frames = frames_below(failure.users, failure.end)
    frame = next((frame for frame in frames if frame.f_code is origin.code), None)
    if frame is None:
        return ""
    code = frame.f_code
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]:
        value = frame.f_locals.get(name)
        if isinstance(value, torch.Tensor) and value.device == failure.home:
            return f"{name}.device"
    owner = frame.f_locals.get("self")
    if isinstance(owner, nn.Module):
        for name, parameter in owner.named_parameters():
            if parameter.device == failure.home and not any(p.isdigit() for p in name.split(".")):
                return f"self.{name}.device"
    return ""
