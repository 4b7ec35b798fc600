"""What `device_map="auto"` of transformers does, with Accelerate's own functions.

    (1) `get_balanced_memory` divides the parameters evenly over the devices, with a margin.
    (2) `infer_auto_device_map` fills them in the order of the modules; classes in the model's
        `_no_split_modules` stay whole.
    (3) State is where the map says. An operation runs where its module is, because hooks move the
        inputs of a module to its device. An operation of a module that is on several devices, such
        as the model's own code between its layers, runs where its first input is.

Accelerate knows sizes of parameters and nothing of time, activations and gradients. All slots
count as GPUs to it: what it puts on a CPU runs on a GPU all the same, which has no counterpart
here. Where it wants to offload to disk, it fails.

Source: Accelerate, `accelerate.utils.modeling`; transformers, `PreTrainedModel.from_pretrained`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from accelerate import infer_auto_device_map
from accelerate.utils import get_balanced_memory
from torch import nn

from benchmarks.planning.baselines.room import within_limits
from fxdevice.dag import DagNode, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import PlacementProblem
from fxdevice.placers.memory import memory_limits
from fxdevice.placers.units import UnitGraph, unit_graph

__all__ = ["accelerate_auto"]

_UNLIMITED_BYTES = 2**60


def accelerate_auto(
    problem: PlacementProblem, model: nn.Module, state_name_of: Mapping[str, str]
) -> Mapping[str, int]:
    """Places as Accelerate does.

    Args:
        problem: What is to be placed. The paths in `DagNode.module` are those of `model`.
        model: The model, best on the meta device.
        state_name_of: Qualified name of the parameter or buffer of every STATE node.

    Returns:
        Slot of every STATE and COMPUTE node.

    Raises:
        PlacementError: Accelerate fails or offloads, or a slot needs more memory than it has.
    """

    def place(attempt: PlacementProblem) -> Mapping[str, int]:
        return _place(attempt, device_map(attempt, model), state_name_of)

    return within_limits("accelerate_auto", problem, place)


def device_map(problem: PlacementProblem, model: nn.Module) -> dict[str, int]:
    """Returns Accelerate's map from module paths to slots; see (1) and (2).

    Raises:
        PlacementError: It fails, or puts something on disk.
    """
    resident = problem.resident_bytes or (0,) * len(problem.topology.slots)
    max_memory = {
        slot: _UNLIMITED_BYTES if limit is None else max(0, limit - taken)
        for slot, (limit, taken) in enumerate(zip(memory_limits(problem), resident, strict=True))
    }
    classes = list(getattr(model, "_no_split_modules", None) or []) or None
    try:
        with _quiet():
            balanced = get_balanced_memory(model, max_memory, classes)
            found = infer_auto_device_map(model, balanced, classes)
    except (AttributeError, IndexError, KeyError, RuntimeError, ValueError) as error:
        raise PlacementError(f"accelerate_auto: Accelerate failed: {error!r}") from error
    offloaded = [path for path, device in found.items() if not isinstance(device, int)]
    if offloaded:
        raise PlacementError(
            f"accelerate_auto: expected all modules on slots, but Accelerate offloads "
            f"{', '.join(map(repr, offloaded))}; raise the memory limits"
        )
    return dict(found)


def _place(
    problem: PlacementProblem, slot_of_path: Mapping[str, int], state_name_of: Mapping[str, str]
) -> Mapping[str, int]:
    graph = unit_graph(problem, joins_recomputable=False)
    slots: list[int | None] = [unit.pin for unit in graph.units]
    for index, unit in enumerate(graph.units):
        if slots[index] is None:
            paths = (_path(node, state_name_of) for node in unit.nodes)
            known = (_longest_match(slot_of_path, path) for path in paths)
            slots[index] = next((slot for slot in known if slot is not None), None)
    for index, unit in enumerate(graph.units):
        if slots[index] is None:
            slots[index] = _slot_of_first_input(graph, slots, unit.nodes)
    return graph.slot_of([0 if slot is None else slot for slot in slots])


def _path(node: DagNode, state_name_of: Mapping[str, str]) -> str:
    return state_name_of.get(node.name, "") if node.kind is NodeKind.STATE else node.module


def _longest_match(slot_of_path: Mapping[str, int], path: str) -> int | None:
    """Returns the slot of the innermost listed module around a path; None when there is none."""
    while path not in slot_of_path:
        if not path:
            return None
        path = path.rpartition(".")[0]
    return slot_of_path[path]


def _slot_of_first_input(
    graph: UnitGraph, slots: list[int | None], nodes: tuple[DagNode, ...]
) -> int | None:
    units = (graph.unit_of.get(name) for node in nodes for name in node.inputs)
    homes = (slots[unit] for unit in units if unit is not None)
    return next((slot for slot in homes if slot is not None), None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Accelerate from saying that this machine lacks the devices of the plan."""
    logger = logging.getLogger("accelerate.utils.modeling")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
