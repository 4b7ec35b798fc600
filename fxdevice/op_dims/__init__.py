"""How every ATen operation can be divided along a dimension, and what one piece of it computes.

Data parallelism, micro-batches and tensor parallelism are one rewrite: a node becomes several
pieces, each of which computes a part of its value. `op_dims` says along what that is possible;
`local_call` writes one piece.

A label is given only where it is right for every input: an operator without a rule, and a
dimension along which elements are mixed, have none. Each family of operators has a module with one
small function for each shape of operation and one visible table; `dispatch` merges the tables.

Symbolic sizes: a dimension whose size is a symbol has no label, for shares that cut one size in
whole numbers do not cut the next one. The other dimensions of such a value have labels.
"""

from fxdevice.op_dims.dispatch import OWN_DIMS, op_dims
from fxdevice.op_dims.emit import local_call, view_target

__all__ = ["OWN_DIMS", "local_call", "op_dims", "view_target"]
