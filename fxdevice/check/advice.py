"""What to do about a finding: a diff where the change is mechanical, and words (no torch)."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from fxdevice.check.findings import Cause
from fxdevice.check.frames import Site, span_of
from fxdevice.check.suggest import (
    Edit,
    create_on,
    move_operand,
    operands,
    register_buffer,
    unified_diff,
)

__all__ = ["Situation", "advice_for"]


@dataclass(frozen=True)
class Situation:
    """What a suggestion depends on.

    Attributes:
        cause: The cause.
        site: The user's expression that failed.
        origin: The user's expression that computed the stray, if one did in this run.
        stray: The stray's text in the failed expression, "" when unknown.
        stray_path: Its qualified name, "" when it has none.
        home: An expression for the device it should be on, valid in the failed line, or "".
        creation_home: The same, valid where the stray was computed, or "".
        owner: Class of the module that keeps it as a plain attribute.
        devices: Names of the devices that met.
        home_device: The one on which they were brought together.
    """

    cause: Cause
    site: Site | None
    origin: Site | None
    stray: str
    stray_path: str
    home: str
    creation_home: str
    owner: type | None
    devices: tuple[str, ...]
    home_device: str


_WORDS = {
    Cause.UNREGISTERED: "`.to()` and device maps move parameters and buffers only: register it as "
    "a buffer",
    Cause.CACHED: "what is kept from an earlier call stays where that call ran: move it where it "
    "is used, or keep one for each device",
    Cause.CREATED: "it is made on the default device: make it where it is used",
    Cause.HARD_CODED: "the device is written down: take it from a tensor that is at hand",
    Cause.MODULE_CONSTANT: "nothing moves tensors that no module owns: move it where it is used, "
    "or register it as a buffer",
    Cause.KV_CACHE: "each layer's cache has to be on that layer's device: let the model make it "
    "(past_key_values=None), or build it layer by layer",
    Cause.LABEL: "the loss is computed where the logits are: move the labels there",
    Cause.TIED_WEIGHT: "modules that share a weight have to be on one device: give them the same "
    "entry in device_map",
    Cause.IN_PLACE_TARGET: "an in-place operation runs where its target is: move the source there",
    Cause.INDEX: "an index has to be on the CPU or where the tensor is",
    Cause.OTHER_STAGE: "the value crosses from one part of a split model to another: move it, or "
    "put both parts on one device in device_map",
    Cause.INPUT: "inputs have to be where the module that reads them is",
    Cause.STATE: "the module was not moved with what feeds it: give both the same entry in "
    "device_map",
    Cause.UNKNOWN: "bring the arguments to one device",
}


def advice_for(situation: Situation) -> tuple[str, str]:
    """Returns a unified diff, "" where none is mechanical, and the advice."""
    edit = _edit(situation)
    diff = "" if edit is None else unified_diff(edit)
    devices = ", ".join(f'"{device}"' for device in situation.devices if device != "cpu")
    call = f"fxdevice.compile(model, devices=[{devices}])" if devices else "fxdevice.compile(model)"
    return diff, f"{_WORDS[situation.cause]}{_pin(situation)}; {call} makes the change unneeded"


def _pin(situation: Situation) -> str:
    """Returns the entry of a device map that keeps the stray state with what feeds it."""
    if situation.cause is not Cause.STATE:
        return ""
    owner = situation.stray_path.rpartition(".")[0] or situation.stray_path
    return f', device_map={{"{owner}": "{situation.home_device}"}}'


def _edit(situation: Situation) -> Edit | None:
    cause = situation.cause
    if cause in (Cause.KV_CACHE, Cause.TIED_WEIGHT, Cause.STATE):
        return None
    if cause is Cause.UNREGISTERED:
        return _registered(situation)
    if cause in (Cause.CREATED, Cause.HARD_CODED):
        return _made_there(situation)
    return _moved(situation)


def _registered(situation: Situation) -> Edit | None:
    if situation.owner is None:
        return None
    name = situation.stray_path.rpartition(".")[2]
    for base in situation.owner.__mro__:
        try:
            file = inspect.getsourcefile(base)
            lines, first_line = inspect.getsourcelines(base)
        except (OSError, TypeError):
            continue
        edit = register_buffer(file or "", first_line, len(lines), name)
        if edit is not None:
            return edit
    return None


def _made_there(situation: Situation) -> Edit | None:
    origin = situation.origin
    if origin is None:
        return None
    # In one line, what the failed operation reads is at hand as well.
    device = situation.creation_home or (situation.home if origin == situation.site else "")
    return create_on(origin.code.co_filename, span_of(origin), device) if device else None


def _moved(situation: Situation) -> Edit | None:
    site = situation.site
    if site is None or not situation.stray or not situation.home:
        return None
    file = site.code.co_filename
    operand = operands(file, span_of(site)).get(situation.stray)
    return None if operand is None else move_operand(file, operand, situation.home)
