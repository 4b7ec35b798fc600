"""A Dag shaped like the training graph of a pre-norm transformer encoder, as autograd lays it out.

Unlike `decoder.with_backward` it has what the tracer of autograd leaves:

* The gradient of a residual addition is no node: both of its readers read the same gradient.
* Where the two gradients of a hidden state meet, a sum follows no forward operation.
* The backward pass has views and multiples of saved values that depend on no gradient, so they are
  not marked as backward.
* The transposed weights stand before the first layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxdevice.dag import Dag
from tests.placers.decoder import HIDDEN_BYTES, STATE_BYTES, DagBuilder

__all__ = ["Block", "encoder", "residual_chain"]

STATISTICS_BYTES = 64


@dataclass(frozen=True)
class Block:
    """Operations on a branch beside the hidden state, or in line with it.

    Attributes:
        name: Prefix of its names.
        linears: FLOPs of its linear layers; a relu stands after each but the last.
        is_residual: The result is added to the hidden state that the block reads.
        num_bytes: Size of the values between its linear layers.
    """

    name: str
    linears: tuple[int, ...]
    is_residual: bool = True
    num_bytes: int = 4 * HIDDEN_BYTES


def encoder(num_layers: int) -> Dag:
    """Returns equal layers; `l0_mlp_out` is the hidden state after layer 0.

    Most of the work is in the attention, so a cut between the attention and the feed-forward block
    of a layer next to the middle is nearly balanced too.
    """
    blocks: list[Block] = []
    for layer in range(num_layers):
        blocks.append(Block(f"l{layer}_attention", (20_000_000,) * 6))
        blocks.append(Block(f"l{layer}_mlp", (20_000_000,) * 2))
    return residual_chain(blocks)


def residual_chain(blocks: Sequence[Block], has_backward: bool = True) -> Dag:
    """Returns the blocks one after the other, with the backward pass."""
    b = DagBuilder()
    hidden = b.input("x", HIDDEN_BYTES)
    for block in blocks:
        b.state(f"{block.name}_norm_weight", STATISTICS_BYTES, block.name, STATISTICS_BYTES)
        for index in range(len(block.linears)):
            b.state(f"{block.name}_weight{index}", STATE_BYTES, block.name, STATE_BYTES)
    for block in blocks:
        for index in range(len(block.linears)):
            weight = f"{block.name}_weight{index}"
            b.op(f"{weight}_t", weight, num_bytes=STATE_BYTES, traffic_bytes=0)
    sources = []
    for block in blocks:
        sources.append(hidden)
        hidden = _forward(b, block, hidden)
    if has_backward:
        gradient = b.input("tangent", HIDDEN_BYTES)
        for block, source in reversed(list(zip(blocks, sources, strict=True))):
            gradient = _backward(b, block, source, gradient)
    return Dag(tuple(b.nodes))


def _forward(b: DagBuilder, block: Block, source: str) -> str:
    at = block.name
    norm = b.op(f"{at}_norm", source, f"{at}_norm_weight", num_bytes=0)
    value = b.op(f"{at}_normed", norm, traffic_bytes=0, follows=norm, saved_bytes=HIDDEN_BYTES)
    b.op(
        f"{at}_statistics",
        norm,
        num_bytes=STATISTICS_BYTES,
        traffic_bytes=0,
        follows=norm,
        saved_bytes=STATISTICS_BYTES,
    )
    for index, flops in enumerate(block.linears):
        is_last = index == len(block.linears) - 1
        num_bytes = HIDDEN_BYTES if is_last else block.num_bytes
        weight = f"{at}_weight{index}_t"
        value = b.op(f"{at}_mm{index}", value, weight, num_bytes=num_bytes, flops=flops)
        if not is_last:
            value = b.op(f"{at}_relu{index}", value, num_bytes=num_bytes, saved_bytes=num_bytes)
            b.op(f"{at}_detach{index}", value, num_bytes=num_bytes, traffic_bytes=0)
    inputs = (source, value) if block.is_residual else (value,)
    return b.op(f"{at}_out", *inputs, saved_bytes=HIDDEN_BYTES)


def _backward(b: DagBuilder, block: Block, source: str, gradient: str) -> str:
    at, passed = block.name, gradient
    if not block.is_residual:
        gradient = b.gradient(f"{at}_out_d", gradient, follows=f"{at}_out")
    for index, flops in reversed(list(enumerate(block.linears))):
        mm, relu = f"{at}_mm{index}", f"{at}_relu{index - 1}"
        read, num_bytes = (relu, block.num_bytes) if index else (f"{at}_normed", HIDDEN_BYTES)
        b.gradient(f"{mm}_dw", gradient, read, num_bytes=STATE_BYTES, flops=flops, follows=mm)
        weight = f"{at}_weight{index}_t"
        gradient = b.gradient(
            f"{mm}_dx", gradient, weight, num_bytes=num_bytes, flops=flops, follows=mm
        )
        if index:
            saved = f"{at}_detach{index - 1}"
            view = b.op(f"{saved}_again", saved, num_bytes=num_bytes, traffic_bytes=0)
            gradient = b.gradient(f"{relu}_d", gradient, view, num_bytes=num_bytes, follows=relu)
    twice = b.op(f"{at}_twice", source)
    reads = (f"{at}_statistics", f"{at}_norm_weight", twice)
    gradient = b.gradient(f"{at}_norm_d", gradient, *reads, follows=f"{at}_norm")
    if not block.is_residual:
        return gradient
    return b.gradient(f"{at}_sum", passed, gradient, follows=None)
