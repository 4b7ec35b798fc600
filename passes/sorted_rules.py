"""What each operation makes of rows that are sorted (see `fxdevice.passes.sorted_facts`).

An operation is known to treat rows by themselves if its own rule lets it be divided along them:
that holds for pieces of one row too, and all of these are computed by the same call. The other
rules are for numbers that say where rows are: they count from the start of each piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from fxdevice.dims import Dims
from fxdevice.op_dims import op_dims
from fxdevice.op_dims.call import call_of, normal_dim, shape_of
from fxdevice.op_kinds import is_operator
from fxdevice.passes.sorted_facts import ROW, Fact, Found, Here, Role, row_dims

__all__ = ["facts_of"]

_aten = torch.ops.aten
_prims = torch.ops.prims


def facts_of(
    node: fx.Node, facts: Mapping[fx.Node, Fact], num_rows: int, num_ids: int | None, order: str
) -> Found | None:
    """Returns what follows for an operation behind a sort.

    Args:
        node: An operation that reads at least one value with a fact.
        facts: What is known of what it reads.
        num_rows: How many rows are sorted.
        num_ids: What all ids are less than; None where that is not known.
        order: Name of the sort.

    Returns:
        What follows; None where the operation could tell one order from another, or is unknown.
    """
    if not is_operator(node.target):
        return None
    here = Here(call_of(node), facts, num_rows, num_ids, order)
    rule = _RULES.get(node.target)
    if rule is None and node.target._schema.name in _NAMED:
        rule = _NAMED[node.target._schema.name]
    found = None if rule is None else rule(here)
    return found if found is not None else _by_rows(here)


def _by_rows(here: Here) -> Found | None:
    """An operation that treats each row by itself, or adds rows up."""
    node, dims = here.call.node, op_dims(here.call.node)
    read = {one: here.facts[one] for one in node.all_input_nodes if one in here.facts}
    if dims is None or any(fact.role not in (Role.IDS, Role.ROWS) for fact in read.values()):
        return None
    labels = {dims.inputs.get(one.name, (None,) * 9)[fact.dim] for one, fact in read.items()}
    label = labels.pop()
    others = [dims.inputs.get(one.name, ()) for one in node.all_input_nodes if one not in read]
    if labels or label is None or any(label in found for found in others):
        return None
    facts: list[Fact | None] = []
    for index, found in enumerate(dims.outputs):
        if label in dims.sums[index]:
            facts.append(None)
        elif (
            label not in found or here.call.result_shape(index)[found.index(label)] != here.num_rows
        ):
            return None
        else:
            facts.append(Fact(Role.ROWS, found.index(label)))

    def only(found: Dims) -> Dims:
        return tuple(ROW if one == label else None for one in found)

    inputs = {
        one: only(dims.inputs[one.name]) for one in node.all_input_nodes if one.name in dims.inputs
    }
    are_sums = [label in found for found in dims.sums]
    return Found(tuple(facts), row_dims(here.order, inputs, [*map(only, dims.outputs)], are_sums))


def _cast(here: Here) -> Found | None:
    """Sorted ids and numbers of rows stay what they are in another type."""
    [source] = here.call.node.all_input_nodes
    fact = here.facts[source]
    if fact.role in (Role.COUNTS, Role.ENDS):
        return here.found(fact, {}, (None,), is_sum=True, partial=(source,))
    is_whole = not here.call.node.meta["val"].dtype.is_floating_point
    if fact.role is Role.IDS or (is_whole and fact.role in (Role.PLACES, Role.INVERSE)):
        return here.found(fact, {source: (ROW,)}, (ROW,))
    return None


def _empty_like(here: Here) -> Found | None:
    """Only the shape is read, and what comes out has no content."""
    source = here.call["self"]
    fact = here.facts[source]
    if fact.role in (Role.COUNTS, Role.ENDS):
        return None
    dims = tuple(ROW if dim == fact.dim else None for dim in range(len(shape_of(source))))
    return here.found(None, {source: dims}, dims)


def _floor_divide(here: Here) -> Found | None:
    """Division of places by how many rows share one."""
    places, by = here.call["self"], here.call["other"]
    is_floor = here.call.arguments.get("rounding_mode", "floor") == "floor"
    if not here.has(places, Role.PLACES) or not is_floor or not isinstance(by, int) or by < 1:
        return None
    each = here.facts[places].each * by
    if here.num_rows % each:
        return None
    return here.found(Fact(Role.PLACES, each=each), {places: (ROW,)}, (ROW,))


def _rows(node: fx.Node) -> Dims:
    """Returns the labels of a value that has rows along its first dimension."""
    return (ROW, *(None for _ in shape_of(node)[1:]))


def _index(here: Here) -> Found | None:
    """x[places] orders rows; y[inverse] puts them back."""
    source = here.call["self"]
    indices = here.call["indices"] if "indices" in here.call.arguments else [here.call["index"]]
    if len(indices) != 1 or normal_dim(here.call.arguments.get("dim", 0), 1) != 0:
        return None
    [index] = indices
    out: Dims = (ROW, *(None for _ in shape_of(source)[1:]))
    inputs: dict[fx.Node, Dims] = {source: _rows(source), index: (ROW,)}
    if here.has(index, Role.PLACES) and here.is_free(source):
        if not here.has_rows(source, here.facts[index].each):
            return None
        return here.found(Fact(Role.ROWS), inputs, out)
    if here.has(index, Role.INVERSE) and here.has(source, Role.ROWS, Role.IDS):
        return here.found(None, inputs, out) if here.facts[source].dim == 0 else None
    return None


def _index_put(here: Here) -> Found | None:
    """Writes rows to places: of numbers in a row it makes `inverse`; else it is `_index` undone."""
    whole, values, adds = here.call["self"], here.call["values"], here.call["accumulate"]
    if len(here.call["indices"]) != 1 or not here.is_free(whole):
        return None
    [index] = here.call["indices"]
    if here.has(index, Role.IDS):
        return _added_by_id(here, whole, index, values) if adds else None
    each = here.facts[index].each if index in here.facts else 1
    if not here.has_rows(whole, each) or not here.has_rows(values, 1):
        return None
    if len(shape_of(values)) != len(shape_of(whole)):
        return None
    inputs = {whole: _rows(whole), index: (ROW,), values: _rows(values)}
    if here.has(index, Role.PLACES) and here.has(values, Role.ROWS, Role.IDS):
        is_back = here.facts[values].dim == 0 and (adds or each == 1)
        return here.found(None, inputs, _rows(whole)) if is_back else None
    if not here.is_free(values):
        return None
    if here.has(index, Role.INVERSE) and whole.target in _CONSTANTS:
        return here.found(Fact(Role.ROWS), inputs, _rows(whole))
    if here.has(index, Role.PLACES) and each == 1 and not adds and _is_sequence(values):
        return here.found(Fact(Role.INVERSE), inputs, (ROW,), sequence=values)
    return None


def _added_by_id(here: Here, whole: fx.Node, ids: fx.Node, values: fx.Node) -> Found | None:
    """Rows added up by their ids, onto zeros: the gradient of what has one row for each id."""
    is_zero = whole.target is _aten.full.default and whole.args[1] == 0
    if not is_zero or not here.has(values, Role.ROWS) or here.facts[values].dim != 0:
        return None
    out: Dims = (None,) * len(shape_of(whole))
    inputs = {whole: out, ids: (ROW,), values: _rows(values)}
    return here.found(None, inputs, out, is_sum=True)


_CONSTANTS = (_aten.full.default, _aten.zeros.default, _aten.empty.memory_format)
"""Values whose rows are all alike."""


def _is_sequence(node: fx.Node) -> bool:
    """Returns whether a value is 0, 1, 2 ..."""
    if node.target is _prims.iota.default:
        call = call_of(node)
        return bool(call["start"] == 0 and call["step"] == 1)
    return node.target is _aten.arange.default


def _histc(here: Here) -> Found | None:
    """Counts of ids 0, 1, 2 ... that each have a bin of their own, so that rows end with bins."""
    ids, num_bins = here.call["self"], here.call["bins"]
    is_each = here.call["min"] == 0 and here.call["max"] == num_bins - 1 and num_bins > 1
    is_all = here.num_ids is not None and here.num_ids <= num_bins
    if not here.has(ids, Role.IDS) or not is_each or not is_all:
        return None
    return here.found(Fact(Role.COUNTS), {ids: (ROW,)}, (None,), is_sum=True)


def _cumsum(here: Here) -> Found | None:
    counts = here.call["self"]
    if not here.has(counts, Role.COUNTS):
        return None
    return here.found(Fact(Role.ENDS), {}, (None,), is_sum=True, partial=(counts,))


def _grouped_mm(here: Here) -> Found | None:
    """[n, k] x [g, k, m] -> [n, m], or with the rows inside, [k, n] x [n, m] -> [g, k, m]."""
    names = ("self", "mat2") if "self" in here.call.arguments else ("input", "weight")
    first, second = (here.call[name] for name in names)
    ends = here.call["offs"]
    if not here.has(ends, Role.ENDS) or here.call.has("bias"):
        return None
    dims = [here.facts[one].dim if here.has(one, Role.ROWS) else None for one in (first, second)]
    num_dims = [len(shape_of(one)) for one in (first, second)]
    if num_dims == [2, 3] and dims == [0, None] and here.is_free(second):
        inputs: dict[fx.Node, Dims] = {first: (ROW, None), second: (None,) * 3}
        return here.found(Fact(Role.ROWS), inputs, (ROW, None), partial=(ends,))
    if num_dims == [2, 2] and dims == [1, 0]:
        inputs = {first: (None, ROW), second: (ROW, None)}
        return here.found(None, inputs, (None,) * 3, is_sum=True, partial=(ends,))
    return None


def _grouped_mm_backward(here: Here) -> Found | None:
    """[n, k], [g, k, m], [n, m] -> [n, k], [g, k, m]."""
    rows, matrices, ends, grads = (
        here.call[name] for name in ("input", "weight", "offs", "grad_output")
    )
    has_rows = all(here.has(one, Role.ROWS) and not here.facts[one].dim for one in (rows, grads))
    if not has_rows or not here.has(ends, Role.ENDS) or not here.is_free(matrices):
        return None
    inputs: dict[fx.Node, Dims] = {rows: (ROW, None), matrices: (None,) * 3, grads: (ROW, None)}
    outputs: tuple[Dims, Dims] = ((ROW, None), (None,) * 3)
    dims = row_dims(here.order, inputs, outputs, (False, True), (ends,))
    return Found((Fact(Role.ROWS), None), dims)


_RULES: Mapping[Any, Callable[[Here], Found | None]] = {
    _aten._grouped_mm.default: _grouped_mm,
    _aten._to_copy.default: _cast,
    _aten.cumsum.default: _cumsum,
    _aten.div.Tensor_mode: _floor_divide,
    _aten.empty_like.default: _empty_like,
    _aten.floor_divide.default: _floor_divide,
    _aten.histc.default: _histc,
    _aten.index.Tensor: _index,
    _aten.index_put.default: _index_put,
    _aten._unsafe_index_put.default: _index_put,
    _aten.index_select.default: _index,
    _prims.convert_element_type.default: _cast,
}

_NAMED: Mapping[str, Callable[[Here], Found | None]] = {
    "transformers::grouped_mm_fallback": _grouped_mm,
    "transformers::grouped_mm_fallback_backward": _grouped_mm_backward,
}
