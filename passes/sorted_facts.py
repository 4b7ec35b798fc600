"""What is known of values between a sort of rows and the place where their old order is back.

A batch cannot be divided at a sort by the rule of that operator: a sorted piece is no piece of the
sorted whole. Yet the pieces may be right again behind it, since

    ids, places = sort(id of every row)             rows of one id stand together
    y = grouped_mm(x[places // k], w, ends)         ends = cumsum(histc(ids))
    z = y[inverse]                                  inverse[places] = arange(n)

treats each row by itself, or with its id, and undoes the order, whatever it was. So each piece may
sort its own rows: its `places` count from its own first row, its `ends` are of its own rows (those
of all pieces add up to the whole), and what comes out are pieces of the whole in the old order.

`fxdevice.passes.sorted_rules` has the operations that are known.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxdevice.dims import Dims, Label, OpDims
from fxdevice.op_dims.call import Call, shape_of

__all__ = ["ROW", "Fact", "Found", "Here", "Role", "row_dims"]

ROW: Label = 0


class Role(enum.Enum):
    """What a value is that depends on the sort."""

    IDS = "sorted ids, in rows"
    ROWS = "rows in the new order, along one dimension"
    PLACES = "for every row in the new order its place in the old one, divided by `each`"
    INVERSE = "for every row in the old order its place in the new one"
    COUNTS = "how many rows every id has; pieces add up"
    ENDS = "for every id where its rows end; pieces add up"


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known of one value.

    Attributes:
        role: What it is.
        dim: For rows their dimension.
        each: For places how many neighbouring rows share one.
    """

    role: Role
    dim: int = 0
    each: int = 1


@dataclass(frozen=True, slots=True)
class Found:
    """What follows for one operation.

    Attributes:
        facts: Of every result. None: it is as it would be without a sort, in the old order or a
            sum, once its pieces are put together.
        dims: How the operation can be divided.
        sequence: What counts 0, 1, 2 ... for it: every piece counts from 0 again.
    """

    facts: tuple[Fact | None, ...]
    dims: OpDims
    sequence: fx.Node | None = None


@dataclass(frozen=True, slots=True)
class Here:
    """One operation, with what is known of what it reads.

    Attributes:
        call: The operation.
        facts: Of the values that depend on the sort.
        num_rows: How many rows are sorted.
        num_ids: What all ids are less than; None where that is not known.
        order: Name of the sort.
    """

    call: Call
    facts: Mapping[fx.Node, Fact]
    num_rows: int
    num_ids: int | None
    order: str

    def has(self, argument: Any, *roles: Role) -> bool:
        """Returns whether an argument is a value with one of these roles."""
        return isinstance(argument, fx.Node) and self._role(argument) in roles

    def is_free(self, argument: Any) -> bool:
        """Returns whether an argument is a tensor that does not depend on the sort."""
        return isinstance(argument, fx.Node) and argument not in self.facts

    def has_rows(self, node: fx.Node, each: int) -> bool:
        """Returns whether a tensor has one row for every `each` of the rows that are sorted."""
        size = shape_of(node)[0] if shape_of(node) else 0
        return isinstance(size, int) and size * each == self.num_rows

    def _role(self, argument: fx.Node) -> Role | None:
        fact = self.facts.get(argument)
        return None if fact is None else fact.role

    def found(
        self,
        fact: Fact | None,
        inputs: Mapping[fx.Node, Dims],
        output: Dims,
        *,
        is_sum: bool = False,
        partial: Sequence[fx.Node] = (),
        sequence: fx.Node | None = None,
    ) -> Found:
        """Returns what follows for an operation with one result."""
        dims = row_dims(self.order, inputs, (output,), (is_sum,), partial)
        return Found((fact,), dims, sequence)


def row_dims(
    order: str,
    inputs: Mapping[fx.Node, Dims],
    outputs: Sequence[Dims],
    are_sums: Sequence[bool],
    partial: Sequence[fx.Node] = (),
) -> OpDims:
    """Returns how an operation of an order can be divided."""
    return OpDims(
        {node.name: dims for node, dims in inputs.items()},
        tuple(outputs),
        tuple(frozenset({ROW} if is_sum else ()) for is_sum in are_sums),
        order=order,
        partial=frozenset(node.name for node in partial),
    )
