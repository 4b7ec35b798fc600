"""The text of a placed graph is stable: these are golden texts."""

from __future__ import annotations

import torch
from expecttest import assert_expected_inline
from torch import Tensor

from fxdevice.dump import describe_value, dump, dump_around
from fxdevice.passes.assign_devices import assign_devices
from fxdevice.passes.insert_transfers import insert_transfers
from tests.small_graphs import placed_graph, two_stages


def test_placed_graph_before_and_after_the_passes() -> None:
    assert_expected_inline(
        dump(two_stages()),
        """\
slots: 0 cuda:0 | 1 cuda:1 | 2 cpu (caller)
slot 2 | x_1: f32[3, 3] = placeholder
slot 0 | w_1: f32[3, 3] = placeholder
slot 0 | mm: f32[3, 3] = mm(x_1, w_1)
slot 0 | arange: i64[3] = arange(3, device=cpu, pin_memory=False)
slot 0 | gt: b8[3] = gt(arange, 0)
slot 0 | scalar_tensor: f32[] = scalar_tensor(0.0, dtype=f32, layout=torch.strided, device=cpu)
slot 1 | where: f32[3, 3] = where(gt, mm, scalar_tensor)
slot 1 | slice_1: f32[2, 3] = slice(where, 0, 0, 2)
slot 1 | expand: f32[2, 3] = expand(slice_1, [2, 3])
slot 1 | neg: f32[3, 3] = neg(mm)
slot 1 | slice_2: f32[2, 3] = slice(neg, 0, 0, 2)
slot 1 | add: f32[2, 3] = add(expand, slice_2)
slot 0 | t: f32[3, 3] = t(mm)
output | (add @ slot 2, t)
transfers: 0, 0 bytes""",
    )
    assert_expected_inline(
        dump(assign_devices(insert_transfers(two_stages()))),
        """\
slots: 0 cuda:0 | 1 cuda:1 | 2 cpu (caller)
slot 2 | x_1: f32[3, 3] = placeholder
slot 0 | x_1_to0: f32[3, 3] = transfer(x_1)
slot 0 | w_1: f32[3, 3] = placeholder
slot 0 | mm: f32[3, 3] = mm(x_1_to0, w_1)
slot 1 | mm_to1: f32[3, 3] = transfer(mm)
slot 1 | arange: i64[3] = arange(3, device=cuda:1, pin_memory=False)
slot 1 | gt: b8[3] = gt(arange, 0)
slot 1 | scalar_tensor: f32[] = scalar_tensor(0.0, dtype=f32, layout=torch.strided, device=cuda:1)
slot 1 | where: f32[3, 3] = where(gt, mm_to1, scalar_tensor)
slot 1 | slice_1: f32[2, 3] = slice(where, 0, 0, 2)
slot 1 | expand: f32[2, 3] = expand(slice_1, [2, 3])
slot 1 | neg: f32[3, 3] = neg(mm_to1)
slot 1 | slice_2: f32[2, 3] = slice(neg, 0, 0, 2)
slot 1 | add: f32[2, 3] = add(expand, slice_2)
slot 2 | add_to2: f32[2, 3] = transfer(add)
slot 0 | t: f32[3, 3] = t(mm)
output | (add_to2 @ slot 2, t)
transfers: 3, 96 bytes""",
    )


def test_symbols_tuples_and_source_lines() -> None:
    def function(x: Tensor) -> tuple[Tensor, int]:
        values, _ = x.max(dim=1)
        return values, x.shape[0] * 2

    placed = placed_graph(function, (torch.randn(3, 4),), {}, (None, None), "symbolic")
    for node in placed.graph.nodes:
        if node.name == "max_1":
            node.meta["stack_trace"] = 'File "/home/me/net.py", line 3, in forward\n  x.max(1)\n'
    assert_expected_inline(
        dump(placed),
        """\
slots: 0 cuda:0 | 1 cuda:1 | 2 cpu (caller)
slot 2 | x_1: f32[s75, s96] = placeholder
slot 0 | max_1: (f32[s75], i64[s75]) = max(x_1, 1)  # net.py:3 x.max(1)
slot 0 | getitem: f32[s75] = getitem(max_1, 0)
slot 0 | getitem_1: i64[s75] = getitem(max_1, 1)
slot 0 | sym_size_int: Sym(s75) = sym_size(x_1, 0)
slot 0 | mul: Sym(2*s75) = mul(sym_size_int, 2)
output | (getitem, mul)
transfers: 0, 0 bytes""",
    )


def test_dump_around_marks_the_node() -> None:
    assert_expected_inline(
        dump_around(two_stages(), "where", num_rows=1),
        """\
slots: 0 cuda:0 | 1 cuda:1 | 2 cpu (caller)
  slot 0 | scalar_tensor: f32[] = scalar_tensor(0.0, dtype=f32, layout=torch.strided, device=cpu)
> slot 1 | where: f32[3, 3] = where(gt, mm, scalar_tensor)
  slot 1 | slice_1: f32[2, 3] = slice(where, 0, 0, 2)""",
    )
    assert dump_around(two_stages(), "absent") == ""


def test_dtypes_are_short() -> None:
    dtypes = (torch.bfloat16, torch.bool, torch.complex64, torch.uint8, torch.float8_e5m2)
    found = [describe_value(torch.empty(2, dtype=dtype)) for dtype in dtypes]
    assert found == ["bf16[2]", "b8[2]", "c64[2]", "u8[2]", "f8_e5m2[2]"]
