"""Topologies as JSON text, checked when they are read (no torch).

    {"format": 1,
     "specs": [{"name": "T4", "flops_per_s": {"float32": 8.1e12}, "memory_bytes_per_s": 3.2e11}],
     "slots": [{"device": "T4:0", "spec": 0}, {"device": "T4:1", "spec": 0}],
     "default_link": null,
     "links": [{"source": 0, "destination": 1,
                "link": {"latency_s": 1e-5, "bytes_per_s": 1.6e10}}]}

Slots refer to the list of specs by position, because many are alike; "alone" does so too. What is
left out has the default of `DeviceSpec`, `Slot`, `Link` or `Topology`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from fxdevice.device_spec import DeviceSpec, WorkFactors, checked_number
from fxdevice.errors import DeviceSpecError
from fxdevice.topology import Link, Slot, Topology

__all__ = ["topology_from_json", "topology_to_json"]

_FORMAT = 1
# Strict: "5" is no number and true is no 1. A key that nobody reads is a slip of the pen.
_STRICT = ConfigDict(strict=True, extra="forbid")


@dataclass(frozen=True)
class _WorkFactors:
    __pydantic_config__ = _STRICT

    arithmetic: float = 1.0
    memory: float | None = 1.0


@dataclass(frozen=True)
class _Spec:
    __pydantic_config__ = _STRICT

    name: str
    flops_per_s: dict[str, float]
    memory_bytes_per_s: float
    memory_bytes: int | None = None
    launch_s: float = 5e-6
    memory_curve: list[tuple[int, float]] = field(default_factory=list)
    mapped_bytes: int | None = None
    mapped_bytes_per_s: float = 1e12
    work_factors: dict[str, _WorkFactors] = field(default_factory=dict)
    source: str = ""


@dataclass(frozen=True)
class _Slot:
    __pydantic_config__ = _STRICT

    device: str
    spec: int
    memory_bytes: int | None = None
    queue: int | None = None
    alone: int | None = None


@dataclass(frozen=True)
class _Link:
    __pydantic_config__ = _STRICT

    latency_s: float
    bytes_per_s: float
    kind: str = "link"
    channel: str | None = None
    via_host: bool = False


@dataclass(frozen=True)
class _Pair:
    __pydantic_config__ = _STRICT

    source: int
    destination: int
    link: _Link | None


@dataclass(frozen=True)
class _Topology:
    __pydantic_config__ = _STRICT

    format: Literal[1]
    specs: list[_Spec]
    slots: list[_Slot]
    default_link: _Link | None
    links: list[_Pair]
    hand_over_s: float = 0.0


_ADAPTER = TypeAdapter(_Topology)


def topology_to_json(topology: Topology, *, indent: int | None = 2) -> str:
    """Returns a topology as JSON text; the same topology gives the same text.

    Args:
        topology: What to write.
        indent: Spaces a level; None for one line.
    """
    specs: list[dict[str, Any]] = []

    def position(spec: DeviceSpec) -> int:
        form = _spec_as_dict(spec)
        if form not in specs:
            specs.append(form)
        return specs.index(form)

    slots = []
    for slot in topology.slots:
        spec, alone = position(slot.spec), None if slot.alone is None else position(slot.alone)
        slots.append(asdict(_Slot(slot.device, spec, slot.memory_bytes, slot.queue, alone)))
    links = [
        {"source": source, "destination": destination, "link": _link_as_dict(link)}
        for (source, destination), link in sorted(topology.links.items(), key=lambda item: item[0])
    ]
    content = {
        "format": _FORMAT,
        "specs": specs,
        "slots": slots,
        "default_link": _link_as_dict(topology.default_link),
        "links": links,
        "hand_over_s": topology.hand_over_s,
    }
    return json.dumps(content, indent=indent, allow_nan=False)


def topology_from_json(text: str) -> Topology:
    """Returns the topology that `topology_to_json`, or a person, wrote.

    Raises:
        DeviceSpecError: The text is no JSON, has a part missing, unknown or of the wrong type, or
            describes slots or links that cannot be.
    """
    try:
        form = _ADAPTER.validate_json(text)
    except ValidationError as error:
        raise DeviceSpecError(f"expected a topology as JSON; found {_faults(error)}") from error
    specs = [
        DeviceSpec(
            spec.name,
            spec.flops_per_s,
            spec.memory_bytes_per_s,
            spec.memory_bytes,
            spec.launch_s,
            tuple(spec.memory_curve),
            spec.mapped_bytes,
            spec.mapped_bytes_per_s,
            {
                kind: WorkFactors(factors.arithmetic, factors.memory)
                for kind, factors in spec.work_factors.items()
            },
            spec.source,
        )
        for spec in form.specs
    ]
    slots = []
    for index, slot in enumerate(form.slots):
        spec = _at(specs, slot.spec, f"slots[{index}].spec")
        alone = None if slot.alone is None else _at(specs, slot.alone, f"slots[{index}].alone")
        if slot.memory_bytes is not None:
            where = f"slots[{index}].memory_bytes"
            checked_number(where, slot.memory_bytes, may_be_zero=True)
        slots.append(Slot(index, slot.device, slot.memory_bytes, spec, slot.queue, alone))
    links: dict[tuple[int, int], Link | None] = {}
    for pair in form.links:
        key = (pair.source, pair.destination)
        if key in links:
            raise DeviceSpecError(f"links names the pair {key} twice; name each pair once")
        links[key] = _link_of(pair.link)
    return Topology(tuple(slots), _link_of(form.default_link), links, form.hand_over_s)


def _at(specs: Sequence[DeviceSpec], position: int, where: str) -> DeviceSpec:
    """Returns the spec that a slot refers to.

    Raises:
        DeviceSpecError: There is none at this position.
    """
    if not 0 <= position < len(specs):
        raise DeviceSpecError(
            f"{where} must be a position in the {len(specs)} specs; found {position}"
        )
    return specs[position]


def _spec_as_dict(spec: DeviceSpec) -> dict[str, Any]:
    # Not asdict: it cannot copy the read-only mapping.
    return {
        "name": spec.name,
        "flops_per_s": dict(spec.flops_per_s),
        "memory_bytes_per_s": spec.memory_bytes_per_s,
        "memory_bytes": spec.memory_bytes,
        "launch_s": spec.launch_s,
        "memory_curve": [list(point) for point in spec.memory_curve],
        "mapped_bytes": spec.mapped_bytes,
        "mapped_bytes_per_s": spec.mapped_bytes_per_s,
        "work_factors": {kind: asdict(factors) for kind, factors in spec.work_factors.items()},
        "source": spec.source,
    }


def _link_as_dict(link: Link | None) -> dict[str, Any] | None:
    return None if link is None else asdict(link)


def _link_of(form: _Link | None) -> Link | None:
    if form is None:
        return None
    return Link(form.latency_s, form.bytes_per_s, form.kind, form.channel, form.via_host)


def _faults(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False)
    texts = []
    for fault in faults[:3]:
        where = ".".join(map(str, fault["loc"])) or "the text"
        texts.append(f"{where}: {fault['msg']} (it is {str(fault['input'])[:60]!r})")
    more = f" and {len(faults) - 3} more faults" if len(faults) > 3 else ""
    return "; ".join(texts) + more
