"""What is known of the inputs of one captured graph: state, caches, the caller's tensors.

AOTAutograd describes every input and output of its graphs (`node.meta["desc"]`, see
torch/_functorch/_aot_autograd/descriptors.py). This module is the only reader of descriptors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import fx
from torch._functorch._aot_autograd.descriptors import (
    GradAOTOutput,
    InputMutationAOTOutput,
    PlainAOTInput,
    TangentAOTInput,
)

from fxdevice.dag import Dag, NodeKind
from fxdevice.module_paths import ModulePaths
from fxdevice.passes.estimate_costs import GraphInput
from fxdevice.pins import Pins, pinned_operations
from fxdevice.placed_graph import NodeInfo, PlacedSlot, node_info
from fxdevice.placement import Placement

__all__ = ["GraphInputs", "InputHome", "input_index"]


@dataclass(frozen=True, slots=True)
class InputHome:
    """Where one input of a captured graph lives.

    Attributes:
        name: Qualified name of state, or how the caller names the input.
        expression: How the traced frame reaches it.
        is_state: Whether fxdevice decides where it lives.
        slot: Slot where it is or must be; None when the placer decides, or for a caller's input.
        device: Device where it is now; None when it is no tensor.
        stays_with_caller: State that is not ours to move: it is copied to its slot instead.
        needs_gradient: Whether a gradient may be asked of it.
        storage_key: Equal for inputs in the same storage; None when it has none.
        shares_storage: Whether other state of the model is in its storage.
    """

    name: str
    expression: str = ""
    is_state: bool = False
    slot: int | None = None
    device: torch.device | None = None
    stays_with_caller: bool = False
    needs_gradient: bool = False
    storage_key: int | None = None
    shares_storage: bool = False


class GraphInputs:
    """The inputs of one captured graph.

    Args:
        homes: One entry an input.
        devices: Device of every slot.
        pins: The caller's device map.
    """

    def __init__(
        self,
        homes: Sequence[InputHome],
        devices: tuple[torch.device, ...],
        pins: Pins,
    ) -> None:
        self._homes = tuple(homes)
        self._devices = devices
        self._pins = pins
        self.module_paths = ModulePaths(
            (home.expression, home.name) for home in homes if home.is_state
        )

    @cached_property
    def slots(self) -> tuple[PlacedSlot, ...]:
        """The slots that compute, then one caller slot for each device of a caller's input."""
        outside = dict.fromkeys(
            home.device
            for home in self._homes
            if home.device is not None and self._is_callers(home)
        )
        outside.setdefault(torch.device("cpu"))
        found = [*self._devices, *outside]
        return tuple(
            PlacedSlot(i, device, computes=i < len(self._devices)) for i, device in enumerate(found)
        )

    def by_placeholder(self, graph: fx.Graph) -> dict[str, GraphInput]:
        """Returns what the cost pass must know of each placeholder, by node name."""
        known: dict[str, GraphInput] = {}
        first_in_storage: dict[int, str] = {}
        written = _written_inputs(graph)
        num_in_storage = Counter(home.storage_key for home in self._homes if home.is_state)
        # A graph without a backward pass computes no gradient of what could have one.
        has_backward = any(
            isinstance(node.meta.get("desc"), TangentAOTInput)
            for node in graph.find_nodes(op="placeholder")
        )
        for node, home in self._placeholders(graph):
            is_placed = home.is_state or home.slot is not None
            shares, num_sharing = None, 0
            if home.is_state and home.storage_key is not None:
                shares = first_in_storage.setdefault(home.storage_key, node.name)
                num_sharing = num_in_storage[home.storage_key]
            known[node.name] = GraphInput(
                name=home.name,
                kind=NodeKind.STATE if is_placed else NodeKind.INPUT,
                slot=home.slot,
                needs_gradient=home.needs_gradient and has_backward,
                is_argument=not home.is_state,
                # A write to one tensor does not show in the version of others in its storage.
                may_change=input_index(node) in written or num_sharing > 1 or home.shares_storage,
                shares_storage_with=shares if shares != node.name else None,
            )
        return known

    def pinned_nodes(self, dag: Dag) -> dict[str, int]:
        """Returns the slot of operations whose module the caller pinned, by node name."""
        return pinned_operations(dag, self._pins)

    def located(self, graph: fx.Graph, placement: Placement) -> dict[str, NodeInfo]:
        """Returns the places of placeholders that the placer does not decide, by node name."""
        found: dict[str, NodeInfo] = {}
        for node, home in self._placeholders(graph):
            if self._is_callers(home):
                found[node.name] = NodeInfo(self._caller_slot(home.device), "the caller's")
        output = graph.output_node()
        (values,) = output.args
        assert isinstance(values, (tuple, list))
        made_by = dict(zip(output.meta.get("desc", ()), values, strict=False))
        placeholders = graph.find_nodes(op="placeholder")
        by_index = {i: node for node in placeholders if (i := input_index(node)) is not None}
        for node in placeholders:
            if node.name in found or input_index(node) is not None:
                continue
            slot = self._caller_slot(None)
            desc = node.meta.get("desc")
            result = desc.output if isinstance(desc, TangentAOTInput) else None
            source = made_by.get(result)
            if isinstance(result, InputMutationAOTOutput):
                # The new value of an input is brought to where the input is.
                index = _input_index(result.mutated_input)
                source = source if index is None else by_index.get(index, source)
            if isinstance(source, fx.Node):
                known = found.get(source.name)
                slot = placement.slot_of[source.name] if known is None else known.slot
            found[node.name] = NodeInfo(slot, "where its output is")
        return found

    def output_slots(
        self, graph: fx.Graph, state_slots: Mapping[int, int]
    ) -> tuple[int | None, ...]:
        """Returns where each output must end: gradients and updated inputs with their input.

        Args:
            graph: A forward, backward or inference graph.
            state_slots: Slot of placed state, by input position.
        """
        output = graph.output_node()
        (values,) = output.args
        assert isinstance(values, (tuple, list))
        descs = output.meta.get("desc") or [None] * len(values)
        return tuple(
            self._output_slot(value, desc, state_slots) if isinstance(value, fx.Node) else None
            for value, desc in zip(values, descs, strict=True)
        )

    def resident_state(self, graph: fx.Graph, label: str) -> dict[str, str | None]:
        """Returns the state whose transfers are kept between calls.

        That is state of which the graph asks no gradient: an optimizer would change it after each
        call, and some do so unseen. State that stays with the caller is kept in training as well.
        What the graph itself changes is not kept, nor what shares its storage with other state, for
        a change of the one need not show in the other.

        Args:
            graph: A forward, backward or inference graph.
            label: Which of them: "forward", "backward" or "inference".

        Returns:
            Its qualified name by placeholder; None for state that stays with the caller.
        """
        changed = _written_inputs(graph)
        return {
            node.name: None if home.stays_with_caller else home.name
            for node, home in self._placeholders(graph)
            if _stays_the_same(home, label) and input_index(node) not in changed
        }

    def drops_trainable(self, label: str) -> bool:
        """Returns whether kept copies of state that can be trained are dropped before a graph runs.

        They are before a backward graph, for an optimizer may change that state unseen, and before
        a forward graph, to make room; but what stays with the caller is kept for forward itself.

        Args:
            label: As for `resident_state`.
        """
        if label == "forward":
            return not any(home.stays_with_caller for home in self._homes)
        return label == "backward"

    def _output_slot(
        self, value: fx.Node, desc: object, state_slots: Mapping[int, int]
    ) -> int | None:
        home = self._home_slot(desc, state_slots)
        if home is not None:
            return home
        # What forward saves for backward is saved where the partitioner found it.
        info = node_info(value)
        return None if info is None else info.slot

    def _home_slot(self, desc: object, state_slots: Mapping[int, int]) -> int | None:
        if isinstance(desc, GradAOTOutput):
            index = _input_index(desc.grad_of)
        elif isinstance(desc, InputMutationAOTOutput):
            index = _input_index(desc.mutated_input)
        else:
            return None
        if index is None:
            return None
        home = self._homes[index]
        if self._is_callers(home):
            return self._caller_slot(home.device)
        return home.slot if home.slot is not None else state_slots.get(index)

    def _placeholders(self, graph: fx.Graph) -> list[tuple[fx.Node, InputHome]]:
        found = []
        for node in graph.find_nodes(op="placeholder"):
            index = input_index(node)
            if index is not None:
                found.append((node, self._homes[index]))
        return found

    def _is_callers(self, home: InputHome) -> bool:
        return home.stays_with_caller or not (home.is_state or home.slot is not None)

    def _caller_slot(self, device: torch.device | None) -> int:
        device = device or torch.device("cpu")
        return next(s.index for s in self.slots if not s.computes and s.device == device)


def _stays_the_same(home: InputHome, label: str) -> bool:
    """Returns whether what an input holds is the same in most calls of a graph."""
    if home.stays_with_caller:
        return not (home.needs_gradient and label == "backward")
    if not home.is_state or home.shares_storage:
        return False
    return label == "inference" or not home.needs_gradient


def input_index(node: fx.Node) -> int | None:
    """Returns the position of the input that a placeholder stands for, or None."""
    return _input_index(node.meta.get("desc"))


def _written_inputs(graph: fx.Graph) -> frozenset[int | None]:
    """Returns the positions of the inputs that a call of the graph gives new values."""
    descs = graph.output_node().meta.get("desc") or ()
    return frozenset(
        _input_index(desc.mutated_input)
        for desc in descs
        if isinstance(desc, InputMutationAOTOutput)
    )


def _input_index(desc: object) -> int | None:
    """Returns the position of the captured graph's input that a descriptor leads to."""
    while desc is not None and not isinstance(desc, PlainAOTInput):
        desc = getattr(desc, "base_of", None) or getattr(desc, "base", None)
        if isinstance(desc, (tuple, list)):
            desc = desc[0] if desc else None
    return None if desc is None else desc.idx
