"""Topologies from devices and links by name, and a check that nothing is cut off (no torch).

    uniform("8xH100-80GB", "nvlink4")
    islands("8xA100-40GB", 4, inside="nvlink3", between="host")
    ring(["T4", "T4", "L4"], "pcie3", otherwise="host")
    custom("2xT4", {(0, 1): "pcie3", (1, 0): Link(2e-5, 9e9)})

Devices may differ. Every slot is a device of its own, "H100-80GB:0", "H100-80GB:1", ..., with the
memory of its data sheet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

from fxdevice.device_spec import DeviceSpec
from fxdevice.errors import DeviceSpecError
from fxdevice.known_links import link_names, named_link
from fxdevice.topology import Link, Slot, Topology, check_connected
from fxdevice.topology_json import topology_from_json, topology_to_json

__all__ = [
    "Devices",
    "LinkLike",
    "LinkTable",
    "check_connected",
    "custom",
    "islands",
    "link_names",
    "named_link",
    "ring",
    "slots_of",
    "topology_from_json",
    "topology_to_json",
    "uniform",
]

Devices: TypeAlias = str | DeviceSpec | Sequence[str | DeviceSpec]
"""Devices as a caller writes them: specs, names, counted names ("8xT4"), or "2xA100-40GB,4xT4"."""

LinkLike: TypeAlias = Link | str | None
"""A link, the name of one, or None for no connection."""

LinkTable: TypeAlias = Mapping[tuple[int, int], LinkLike] | Sequence[Sequence[LinkLike]]
"""Links by (source, destination), or a square table of them with None on its diagonal."""

MAX_SLOTS = 1024
"""More are a slip of the pen; the cost of a placement grows with their square."""

_COUNTED = re.compile(r"(?P<count>[0-9]+)\s*[xX*]\s*(?P<name>.+)")


def uniform(devices: Devices, link: LinkLike) -> Topology:
    """Returns devices of which each reaches every other one over a link of the same kind.

    Args:
        devices: One slot each; see `Devices`.
        link: The link of every pair, in each direction.

    Raises:
        DeviceSpecError: A device or link is unknown or impossible.
    """
    return Topology(slots_of(devices), _link("link", link))


def islands(devices: Devices, size: int, inside: LinkLike, between: LinkLike) -> Topology:
    """Returns groups of devices with a faster link inside each than between them.

    Args:
        devices: One slot each; the first `size` are the first island, and so on.
        size: Devices in an island.
        inside: Link of every pair of one island.
        between: Link of every other pair.

    Raises:
        DeviceSpecError: A device or link is unknown or impossible, or `size` does not divide the
            number of devices.
    """
    slots = slots_of(devices)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or len(slots) % size:
        raise DeviceSpecError(
            f"size must be a number of devices that divides the {len(slots)} devices into equal "
            f"islands; found {size!r}"
        )
    near = _link("inside", inside)
    pairs = _pairs(len(slots))
    links = {(i, j): near for i, j in pairs if i // size == j // size}
    return Topology(slots, _link("between", between), links)


def ring(devices: Devices, link: LinkLike, *, otherwise: LinkLike = None) -> Topology:
    """Returns devices of which each is linked with the next and the last with the first.

    Args:
        devices: One slot each, in the order of the ring.
        link: Link of neighbours, in each direction.
        otherwise: Link of every other pair; None: they are not connected.

    Raises:
        DeviceSpecError: A device or link is unknown or impossible.
    """
    slots = slots_of(devices)
    num_slots = len(slots)
    near = _link("link", link)
    neighbours = {1, num_slots - 1}
    links = {(i, j): near for i, j in _pairs(num_slots) if (j - i) % num_slots in neighbours}
    return Topology(slots, _link("otherwise", otherwise), links)


def custom(devices: Devices, links: LinkTable, *, otherwise: LinkLike = None) -> Topology:
    """Returns devices with links that the caller lists.

    Args:
        devices: One slot each.
        links: By (source slot, destination slot), or a square table, `links[source][destination]`,
            with None on its diagonal.
        otherwise: Link of every pair that a mapping does not name; None: they are not connected.

    Raises:
        DeviceSpecError: A device or link is unknown or impossible, a pair names a slot that there
            is not or one slot twice, or the table is not square.
    """
    slots = slots_of(devices)
    pairs = links if isinstance(links, Mapping) else _from_square(links, len(slots))
    found: dict[tuple[int, int], Link | None] = {}
    for pair, link in pairs.items():
        _check_pair(pair, len(slots))
        found[pair] = _link(f"links[{pair}]", link)
    return Topology(slots, _link("otherwise", otherwise), found)


def slots_of(devices: Devices) -> tuple[Slot, ...]:
    """Returns one slot for each device, with a name and the memory of its own.

    Raises:
        DeviceSpecError: There is no device, too many, or an unknown one.
    """
    specs = _specs(devices)
    if not specs:
        raise DeviceSpecError("devices must name at least one device; found none")
    if len(specs) > MAX_SLOTS:
        raise DeviceSpecError(f"expected at most {MAX_SLOTS} devices; found {len(specs)}")
    seen: Counter[str] = Counter()
    slots = []
    for index, spec in enumerate(specs):
        slots.append(Slot(index, f"{spec.name}:{seen[spec.name]}", spec.memory_bytes, spec))
        seen[spec.name] += 1
    return tuple(slots)


def _specs(devices: Devices) -> list[DeviceSpec]:
    if isinstance(devices, DeviceSpec):
        return [devices]
    if isinstance(devices, str):
        return [spec for entry in devices.split(",") for spec in _counted(entry)]
    if not isinstance(devices, Sequence):
        raise DeviceSpecError(
            "devices must be a DeviceSpec, a name, or a list of those, such as '8xH100-80GB' or "
            f"['T4', 'L4']; found {devices!r}"
        )
    return [spec for entry in devices for spec in _specs_of_entry(entry)]


def _specs_of_entry(entry: object) -> list[DeviceSpec]:
    if isinstance(entry, DeviceSpec):
        return [entry]
    if isinstance(entry, str):
        return _counted(entry)
    raise DeviceSpecError(f"a device must be a DeviceSpec or a name; found {entry!r}")


def _counted(text: str) -> list[DeviceSpec]:
    match = _COUNTED.fullmatch(text.strip())
    if match is None:
        return [DeviceSpec.named(text)]
    # Not int() of any length: Python refuses more than 4300 digits with an error of its own.
    if len(match["count"]) > 6 or not 1 <= int(match["count"]) <= MAX_SLOTS:
        raise DeviceSpecError(f"expected 1 to {MAX_SLOTS} devices in {text[:80]!r}")
    return [DeviceSpec.named(match["name"])] * int(match["count"])


def _link(where: str, link: LinkLike) -> Link | None:
    if link is None or isinstance(link, Link):
        return link
    if isinstance(link, str):
        return named_link(link)
    raise DeviceSpecError(
        f"{where} must be a Link, the name of one ({', '.join(link_names())}) or None; "
        f"found {link!r}"
    )


def _pairs(num_slots: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(num_slots) for j in range(num_slots) if i != j]


def _from_square(rows: object, num_slots: int) -> dict[tuple[int, int], LinkLike]:
    if not _is_row(rows, num_slots) or not all(_is_row(row, num_slots) for row in rows):
        raise DeviceSpecError(
            f"links must be a mapping by (source, destination) or a square table of {num_slots} "
            f"rows of {num_slots} links, one for each device; found {_shape(rows)}"
        )
    for index in range(num_slots):
        if rows[index][index] is not None:
            raise DeviceSpecError(
                f"links[{index}][{index}] must be None: a slot has no link to itself; found "
                f"{rows[index][index]!r}"
            )
    return {(i, j): rows[i][j] for i, j in _pairs(num_slots)}


def _is_row(value: object, length: int) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == length


def _shape(rows: object) -> str:
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        return repr(rows)
    lengths = [str(len(row)) if isinstance(row, Sequence) else repr(row) for row in rows]
    return f"{len(rows)} rows of lengths {', '.join(lengths[:8])}"


def _check_pair(pair: tuple[int, int], num_slots: int) -> None:
    is_pair = isinstance(pair, tuple) and len(pair) == 2
    if not is_pair or not all(type(slot) is int and 0 <= slot < num_slots for slot in pair):
        raise DeviceSpecError(
            f"links must name pairs (source, destination) of slots 0 to {num_slots - 1}; found "
            f"{pair!r}"
        )
    if pair[0] == pair[1]:
        raise DeviceSpecError(f"links must not name {pair}: a slot has no link to itself")
