"""What every operation of a graph costs as a part of the kernel that it runs in.

A kernel reads every value from outside once, and writes what something outside of it reads. Its
operations share this traffic: the first one that reads a value pays for it, the one that makes a
value pays for writing it. The first operation of a kernel pays for its launch. So sums over a
kernel are right, and every operation has a share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import fx

from fxdevice.op_kinds import is_getitem, view_base
from fxdevice.passes.flops import compute_dtype, num_flops
from fxdevice.passes.fusion import fusion_groups, makers
from fxdevice.passes.graph_outputs import storage_root
from fxdevice.passes.traffic import (
    ALLOCATIONS,
    IN_PLACE_SCATTERS,
    is_kernel,
    op_packet,
    read_bytes,
    value_bytes,
    written_bytes,
)
from fxdevice.passes.work_kinds import work_kind

__all__ = ["NO_WORK", "Work", "kernel_work"]


@dataclass(frozen=True, slots=True)
class Work:
    """What one operation costs.

    Attributes:
        flops: Floating-point operations.
        traffic_bytes: Its share of what its kernel reads and writes in device memory.
        num_launches: 1 for the first operation of a kernel, else 0.
        dtype: Type that it computes in.
        kind: Kind of work, see `work_kinds`.
    """

    flops: int = 0
    traffic_bytes: int = 0
    num_launches: int = 0
    dtype: str = "float32"
    kind: str = ""


NO_WORK = Work()
"""What a view, an element or a number costs."""


def kernel_work(
    graph: fx.Graph, late: frozenset[fx.Node], *, fuses: bool
) -> tuple[Mapping[fx.Node, Work], frozenset[fx.Node]]:
    """Returns the work of every operation, and the values that never reach memory.

    Args:
        graph: A graph with a fake value on every node.
        late: Its nodes that are compiled as the backward graph.
        fuses: Whether the inner compiler joins operations into kernels. Without, every operation
            is a kernel of its own and writes all that it makes.

    Returns:
        Work by node, for nodes that start a kernel or are part of one; nodes whose value all of
        its readers take from inside the kernel that makes it.
    """
    work: dict[fx.Node, Work] = {}
    internal: set[fx.Node] = set()
    maker_of = makers(graph)
    groups = (
        fusion_groups(graph, late) if fuses else [[node] for node in graph.nodes if is_kernel(node)]
    )
    for group in groups:
        kernel = _Kernel(group, maker_of, fuses=fuses)
        for index, node in enumerate(group):
            traffic_bytes = kernel.read(node) + kernel.write(node)
            num_launches = 1 if index == 0 and op_packet(node) not in ALLOCATIONS else 0
            work[node] = Work(
                num_flops(node),
                traffic_bytes,
                num_launches,
                compute_dtype(node),
                work_kind(node),
            )
        internal |= kernel.internal
    return work, frozenset(internal)


class _Kernel:
    """The traffic of one kernel, operation by operation."""

    def __init__(
        self, nodes: Sequence[fx.Node], maker_of: Mapping[fx.Node, fx.Node], *, fuses: bool
    ) -> None:
        self._members = frozenset(nodes)
        self._maker_of = maker_of
        self._fuses = fuses
        self._read_bytes: dict[fx.Node, int] = {}
        self.internal: set[fx.Node] = set()

    def read(self, node: fx.Node) -> int:
        """Returns the bytes that `node` reads and no earlier operation of the kernel has read."""
        total = 0
        for value, num_bytes in read_bytes(node, in_place=self._is_in_place(node)).items():
            if self._maker_of.get(value) in self._members:
                continue
            root = storage_root(value)
            known = self._read_bytes.get(root, 0)
            # Views of one value: together they cannot be more than all of it.
            fresh = min(num_bytes, max(0, max(value_bytes(root), num_bytes) - known))
            self._read_bytes[root] = known + fresh
            total += fresh
        return total

    def write(self, node: fx.Node) -> int:
        """Returns the bytes that `node` writes; notes its values that stay inside."""
        sizes = written_bytes(node, in_place=self._is_in_place(node))
        if not self._fuses or len(self._members) == 1:
            return sum(sizes)
        elements = [user for user in node.users if is_getitem(user)]
        if not elements:
            if node.users and not self._escapes(node):
                self.internal.add(node)
                return 0
            return sum(sizes)
        staying = [element for element in elements if not self._escapes(element)]
        self.internal.update(staying)
        return sum(value_bytes(element) for element in elements if element not in staying)

    def _escapes(self, value: fx.Node) -> bool:
        """Returns whether anything outside of the kernel reads `value`, through views too."""
        return any(reader not in self._members for reader in _readers(value))

    def _is_in_place(self, node: fx.Node) -> bool:
        """Returns whether the inner compiler lets a scatter write into its argument.

        It does so when nothing else reads that value, which the graph must have made.
        """
        if not self._fuses or op_packet(node) not in IN_PLACE_SCATTERS:
            return False
        base = node.all_input_nodes[0]
        return is_kernel(base) and len(base.users) == 1


def _readers(value: fx.Node) -> Iterator[fx.Node]:
    """Yields what reads the elements of a value, looking through views and elements of tuples."""
    for user in value.users:
        if is_getitem(user) or view_base(user) is not None:
            yield from _readers(user)
        else:
            yield user
