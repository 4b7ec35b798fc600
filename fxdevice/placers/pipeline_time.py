"""How long the stages of a pipeline take for a number of micro-batches: an estimate.

Let t[j] be the seconds of stage j for a piece, h[j] those of the transfers into it, and T the most
that the stages of one slot take together for a piece. With m pieces and v stages on every slot,
forward takes about

    max(sum(t + h) + (m - 1) * max(t),  m * T + sum(t + h) / v - max(t))

and backward likewise. The first is the way of the first piece through all stages, with the others
behind it. The second is a slot that is never idle but for a first and a last part of a round. For
v = 1 both are the same; for equal stages that wait for nothing the share of idle time is
(p - 1) / (v * m) with p slots.

Source: Huang et al., "GPipe: efficient training of giant neural networks using pipeline
parallelism", NeurIPS 2019, section 2.3; Narayanan et al., "Efficient large-scale language model
training on GPU clusters using Megatron-LM", SC 2021, section 2.2 (several stages for each slot).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from fxdevice.costs import node_seconds
from fxdevice.dag import DagNode
from fxdevice.dims import Along
from fxdevice.divisible import undivided_bytes
from fxdevice.placement import PlacementProblem
from fxdevice.placers.node_kinds import node_kinds
from fxdevice.topology import Slot

__all__ = ["PipelineWork", "piece_share"]


@dataclass(frozen=True, slots=True)
class _Stage:
    """A stage in one pass.

    Attributes:
        queue: Name of its queue: slots with one queue take turns, so that they are as one stage.
        is_backward: Which pass.
    """

    queue: str
    is_backward: bool


@dataclass(slots=True)
class _Alike:
    """Nodes of a stage that take the same time, whole or in pieces.

    Attributes:
        stage: The stage.
        node: One of them.
        slot: Its slot.
        whole_bytes: Bytes that every piece of it reads whole.
        whole_s: Seconds of the whole node.
        count: How many they are.
    """

    stage: _Stage
    node: DagNode
    slot: Slot
    whole_bytes: int
    whole_s: float
    count: int = 0

    @property
    def key(self) -> Hashable:
        """What is equal for nodes that are counted together."""
        node = self.node
        work = (node.dtype, node.work_kind, node.num_launches, node.flops, node.traffic_bytes)
        return self.stage, self.whole_s, self.whole_bytes, work


class PipelineWork:
    """The work of all stages, gathered once for any number of pieces."""

    def __init__(
        self,
        problem: PlacementProblem,
        slot_of: Mapping[str, int],
        label_of: Mapping[str, Along],
        stages_per_slot: int = 1,
    ) -> None:
        """Gathers the work. Complexity: linear in the number of edges.

        Args:
            problem: What was placed.
            slot_of: Slot of every node.
            label_of: Labels of the nodes that are divided when there are several pieces.
            stages_per_slot: Number of stages on every slot in this placement.
        """
        self._topology = problem.topology
        self._stages_per_slot = stages_per_slot
        self._undivided_s = 0.0
        self._whole_s: defaultdict[_Stage, float] = defaultdict(float)
        # Nodes of a stage that take the same time, whole or in pieces, are counted together.
        self._divided: dict[Hashable, _Alike] = {}
        # Stage, slots and bytes of the transfers, which are alike from stage to stage.
        self._moves: Counter[tuple[_Stage, int, int, int]] = Counter()
        seconds_of, dag, slots = problem.costs.seconds_of, problem.dag, problem.topology.slots
        stages = {
            (slot.index, late): _Stage(slot.queue_name, late)
            for slot in slots
            for late in (False, True)
        }
        # What `_divided` holds of the nodes of one kind, for a label, slot and pass.
        known: dict[tuple[int, Along, int, bool], _Alike] = {}
        stage_of: dict[str, _Stage] = {}
        moved: set[tuple[str, int, bool]] = set()
        for node, kind in zip(dag, node_kinds(problem), strict=True):
            name, is_backward = node.name, node.is_backward
            slot = slot_of.get(name)
            if slot is None:
                continue
            stage = stage_of[name] = stages[slot, is_backward]
            label, seconds = label_of.get(name), seconds_of[name][slot]
            if seconds:
                self._whole_s[stage] += seconds
                if label is None:
                    self._undivided_s += seconds
                else:
                    place = (kind, label, slot, is_backward)
                    alike = known.get(place)
                    if alike is None:
                        whole_bytes = undivided_bytes(node, label, dag)
                        alike = _Alike(stage, node, slots[slot], whole_bytes, seconds)
                        alike = known[place] = self._divided.setdefault(alike.key, alike)
                    alike.count += 1
            for name in node.inputs:
                if name in label_of and slot_of[name] != slot:
                    moved.add((name, slot, node.is_backward))
        for name, slot, is_backward in moved:
            if stage_of[name].is_backward is is_backward:
                stage, num_bytes = stages[slot, is_backward], dag[name].output_bytes
                self._moves[stage, slot_of[name], slot, num_bytes] += 1

    def seconds(
        self, num_pieces: int, *, stages_per_slot: int | None = None, num_replicas: int = 1
    ) -> float:
        """Estimates the seconds when the stages work on equal pieces.

        Args:
            num_pieces: Number of pieces; what cannot be divided runs alone. One: nothing is.
            stages_per_slot: Number of equal stages that every slot is to have of the same work;
                None: as many as it has.
            num_replicas: Number of equal pipelines that share the pieces.
        """
        if num_pieces == 1:
            piece_s, alone_s = dict(self._whole_s), 0.0
        else:
            piece_s, alone_s = self._piece_seconds(num_pieces), self._undivided_s
        move_s = {False: 0.0, True: 0.0}
        for (stage, source, slot, num_bytes), count in self._moves.items():
            transfer_s = self._topology.transfer_s(num_bytes // num_pieces, source, slot)
            move_s[stage.is_backward] += count * transfer_s
        total_s = alone_s
        for is_backward, moves_s in move_s.items():
            found_s = [s for stage, s in piece_s.items() if stage.is_backward is is_backward]
            num_slots, has = len(found_s), self._stages_per_slot
            count = has if stages_per_slot is None else stages_per_slot
            if num_slots > 1:
                moves_s *= (count * num_slots - 1) / (has * num_slots - 1)
            total_s += _pass_seconds(found_s, moves_s, num_pieces / num_replicas, count)
        return total_s

    def _piece_seconds(self, num_pieces: int) -> dict[_Stage, float]:
        found: defaultdict[_Stage, float] = defaultdict(float)
        for alike in self._divided.values():
            share = piece_share(alike.node, alike.slot, alike.whole_bytes, num_pieces)
            found[alike.stage] += alike.count * alike.whole_s * share
        return found


def piece_share(node: DagNode, slot: Slot, whole_bytes: int, num_pieces: int) -> float:
    """Returns the time of a piece of a node in that of the whole node.

    Args:
        node: The node.
        slot: Where it runs.
        whole_bytes: Bytes that every piece reads whole.
        num_pieces: Number of equal pieces.
    """
    traffic_bytes = whole_bytes + (node.traffic_bytes - whole_bytes) // num_pieces
    piece = node.changed(flops=node.flops // num_pieces, traffic_bytes=traffic_bytes)
    total_s = node_seconds(node, slot)
    return node_seconds(piece, slot) / total_s if total_s else 1.0


def _pass_seconds(
    piece_s: Sequence[float], moves_s: float, num_pieces: float, stages_per_slot: int
) -> float:
    """Returns the seconds of one pass; see the module.

    Args:
        piece_s: Seconds of every slot for a piece.
        moves_s: Seconds of the transfers of a piece.
        num_pieces: Number of pieces that each slot gets.
        stages_per_slot: Number of stages on every slot.
    """
    if not piece_s:
        return 0.0
    longest_s = max(piece_s) / stages_per_slot
    way_s = sum(piece_s) + moves_s
    return max(
        way_s + (num_pieces - 1) * longest_s,
        num_pieces * max(piece_s) + way_s / stages_per_slot - longest_s,
    )
