"""What fxdevice put right in a captured graph: places where eager code would mix devices.

They are read off Dynamo's graph, whose nodes still are the torch functions of the user's lines.
Unified tracing gives every tensor one device, so `device=x.device` and `device="cpu"` may look
alike in the graph; then the source line tells.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import fx

from fxdevice.graph_inputs import InputHome
from fxdevice.source_line import source_line

__all__ = ["Repair", "RepairKind", "outputs_on_cpu", "repairs_in"]


class RepairKind(StrEnum):
    """What was wrong."""

    HARD_CODED = "hard-coded device"
    CREATED = "tensor created without device="
    UNREGISTERED = "unregistered tensor attribute"
    CONSTANT = "tensor kept outside of the module"
    INPUT = "input on another device than the others"


@dataclass(frozen=True, slots=True)
class Repair:
    """One thing that was put right.

    Attributes:
        kind: What was wrong.
        what: The node, attribute or input.
        where: The line, for an attribute or constant the first that uses it: "file.py:12 code";
            "" where none is known.
    """

    kind: RepairKind
    what: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}" + (f"  # {self.where}" if self.where else "")


_CREATIONS = frozenset(
    {"arange", "as_tensor", "empty", "eye", "from_numpy", "full", "linspace", "logspace", "normal"}
    | {"ones", "rand", "randint", "randn", "randperm", "tensor", "zeros", "scalar_tensor"}
    | {"tril_indices", "triu_indices", "bartlett_window", "blackman_window", "empty_strided"}
    | {"hamming_window", "hann_window"}
)
_LITERAL = re.compile(r"\bdevice\s*=\s*f?['\"]|\.to\(\s*f?['\"]|\btorch\.device\(\s*f?['\"]")
"""A device that is written down; Dynamo makes it an object like one that was read from a tensor."""

_IMPORTED = re.compile(r"G\['__import_(\w+)'\]\.|G\['(\w+)'\]")
_MOVES = frozenset({"to", "cuda", "cpu", "xpu", "npu", "mps", "type", "fxsim"})


def repairs_in(
    graph: fx.Graph, homes: Sequence[InputHome], attributes: frozenset[str]
) -> tuple[Repair, ...]:
    """Returns what eager code would get wrong in a captured graph, each once.

    Args:
        graph: Dynamo's graph.
        homes: What is known of its inputs.
        attributes: Names of the state that is neither parameter nor buffer.
    """
    lines = [_first_use(node) for node in graph.find_nodes(op="placeholder")]
    found = [*_of_inputs(homes, lines, attributes), *_of_nodes(graph)]
    return tuple(dict.fromkeys(found))


def _first_use(node: fx.Node) -> str:
    return next((line for user in node.users if (line := source_line(user))), "")


def _of_inputs(
    homes: Sequence[InputHome], lines: Sequence[str], attributes: frozenset[str]
) -> Iterator[Repair]:
    for home, line in zip(homes, lines, strict=True):
        if home.is_state and home.name in attributes:
            yield Repair(RepairKind.UNREGISTERED, home.name, line)
        elif not home.is_state and home.name.startswith("G["):
            name = _IMPORTED.sub(_global_name, home.name)
            yield Repair(RepairKind.CONSTANT, name, line)
    callers = [h for h in homes if not h.is_state and h.device and not h.name.startswith("G[")]
    devices = Counter(home.device for home in callers)
    if len(devices) > 1:
        ((most, _),) = devices.most_common(1)
        for home in callers:
            if home.device != most:
                yield Repair(RepairKind.INPUT, f"{home.name} on {home.device}")


def _of_nodes(graph: fx.Graph) -> Iterator[Repair]:
    for node in graph.nodes:
        if node.op not in ("call_function", "call_method"):
            continue
        line = source_line(node) or ""
        name = node.target if isinstance(node.target, str) else _function_name(node.target)
        if _names_device(node, name, line) and not _only_leaves(node):
            yield Repair(RepairKind.HARD_CODED, node.name, line)
        elif _is_creation(node, name) and _is_no_number(node):
            is_literal = _LITERAL.search(line) is not None
            kind = RepairKind.HARD_CODED if is_literal else RepairKind.CREATED
            yield Repair(kind, node.name, line)


def _global_name(found: re.Match[str]) -> str:
    """Returns "package.module." or "NAME" for Dynamo's expression of a global."""
    return found[2] if found[1] is None else found[1].replace("_dot_", ".") + "."


def _function_name(target: object) -> str:
    return str(getattr(target, "__name__", ""))


def _names_device(node: fx.Node, name: str, line: str) -> bool:
    """Returns whether a device is written into the user's code there."""
    given = node.kwargs.get("device")
    if node.op == "call_method" and name in _MOVES:
        if name != "to":
            return name != "type" or (len(node.args) > 1 and "Tensor" in line)
        given = node.args[1] if len(node.args) > 1 else given
    if isinstance(given, torch.device):
        return _LITERAL.search(line) is not None
    return isinstance(given, str)


def _only_leaves(node: fx.Node) -> bool:
    """Returns whether a move to the CPU is for what follows the graph, and is done: no repair."""
    return _is_moved_to_cpu(node) and not any(
        sum(map(_is_tensor, user.all_input_nodes)) > 1 for user in node.users if user.op != "output"
    )


def _is_creation(node: fx.Node, name: str) -> bool:
    return (
        node.op == "call_function"
        and name in _CREATIONS
        and node.kwargs.get("device") is None
        and not any(_is_tensor(read) for read in node.all_input_nodes)
    )


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("example_value"), torch.Tensor)


def _is_no_number(node: fx.Node) -> bool:
    """Returns whether the value has dimensions: a number on the CPU is legal everywhere."""
    value = node.meta.get("example_value")
    return not isinstance(value, torch.Tensor) or value.dim() > 0


def outputs_on_cpu(graph: fx.Graph) -> frozenset[int]:
    """Returns which outputs of a captured graph the user's code moves to the CPU on purpose."""
    outputs = graph.output_node().args[0]
    assert isinstance(outputs, (tuple, list))
    return frozenset(i for i, node in enumerate(outputs) if _is_moved_to_cpu(node))


def _is_moved_to_cpu(node: object) -> bool:
    while isinstance(node, fx.Node) and node.op == "call_method":
        if node.target == "cpu" or (node.target == "to" and node.args[1:2] == ("cpu",)):
            return True
        if node.target not in ("detach", "clone", "contiguous"):
            return False
        node = node.args[0]
    return False
