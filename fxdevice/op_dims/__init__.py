"""How every ATen operation can be divided along a dimension, and what one piece of it computes.

Data parallelism, micro-batches and tensor parallelism are one rewrite: a node becomes several
pieces, each of which computes a part of its value. `op_dims` says along what that is possible;
`local_call` writes one piece.

A label is given only where it is right for every input: an operator without a rule, and a
dimension along which elements are mixed, have none. Each family of operators has a module with one
small function for each shape of operation and one visible table; `dispatch` merges the tables.

Symbolic sizes: a dimension whose size is a symbol has a label in operators that carry no sizes
among their arguments, and none in those that do (`view`, `expand`, `full`).
"""

from fxdevice.op_dims.dispatch import op_dims
from fxdevice.op_dims.emit import local_call

__all__ = ["local_call", "op_dims"]
