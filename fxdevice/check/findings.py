"""What `fxdevice.check` finds, as plain data (no torch)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Argument", "Cause", "Finding", "SourcePlace"]


class Cause(StrEnum):
    """Why a tensor was on another device than the operation that used it."""

    UNREGISTERED = "unregistered tensor attribute"
    CACHED = "tensor cached on the module by an earlier step"
    CREATED = "tensor created in forward without device="
    HARD_CODED = "hard-coded device"
    MODULE_CONSTANT = "tensor kept outside of the module"
    KV_CACHE = "key-value cache"
    LABEL = "labels on another device than the loss"
    TIED_WEIGHT = "tied weight"
    IN_PLACE_TARGET = "target of an in-place operation on another device than its source"
    INDEX = "index on another device than the tensor it selects from"
    OTHER_STAGE = "output of another stage"
    INPUT = "input on another device than the module"
    STATE = "parameter or buffer on another device than its input"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class SourcePlace:
    """A place in the user's program.

    Attributes:
        file: Path of the file.
        line: Line number, from 1.
        function: Qualified name of the function.
        code: The line itself, without indentation.
        expression: The part of it that ran, such as "x + self.position".
    """

    file: str
    line: int
    function: str
    code: str
    expression: str = ""

    def __str__(self) -> str:
        name = self.file.replace("\\", "/").rsplit("/", 1)[-1]
        return f"{name}:{self.line}"


@dataclass(frozen=True)
class Argument:
    """One tensor argument of an operation.

    Attributes:
        name: A parameter's, buffer's, attribute's or input's name, or "result of `...` at
            file:line".
        kind: "parameter", "buffer", "attribute", "input", "result", "constant" or "unknown".
        device: Where it was.
        shape: Its shape.
        dtype: Its type, such as "float32".
        is_stray: Whether it had to be moved for the operation to run.
    """

    name: str
    kind: str
    device: str
    shape: tuple[int, ...]
    dtype: str
    is_stray: bool


@dataclass(frozen=True)
class Finding:
    """One place where an operation met tensors on several devices.

    Attributes:
        operation: The torch function, such as "scatter_".
        place: The user's line; None when no frame of the user's is involved.
        module: Qualified name of the module that ran it; "" for the model itself.
        modules: All modules in which the same line failed; layers of one class, for instance.
        num_times: How often it failed.
        arguments: The tensor arguments.
        home: The device on which the others were brought together.
        cause: Why.
        error: PyTorch's own message.
        diff: A suggested change as a unified diff, or "" where none is mechanical.
        advice: What to do in words, with the pin or call that makes the change unneeded.
    """

    operation: str
    place: SourcePlace | None
    module: str
    modules: tuple[str, ...]
    num_times: int
    arguments: tuple[Argument, ...]
    home: str
    cause: Cause
    error: str
    diff: str
    advice: str

    @property
    def stray(self) -> Argument:
        """The first argument that was on another device than the rest."""
        return next(argument for argument in self.arguments if argument.is_stray)
