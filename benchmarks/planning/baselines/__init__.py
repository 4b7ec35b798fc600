"""Placers that the planner is measured against: peers, re-implemented or called, and two sanities.

All have the signature `Placer`: a problem in, the slot of every STATE and COMPUTE node out,
PlacementError when there is none. Nodes that must share a slot do, and pins are kept, which the
originals do not know. `accelerate_auto` needs the model too and is not among `baselines`.

What a baseline believes about time and memory does not count: `benchmarks.planning.judge` does.
"""

from __future__ import annotations

from benchmarks.planning.baselines.accelerate_auto import accelerate_auto
from benchmarks.planning.baselines.accelerator_partitioner import (
    cost_aware_partitioner,
    kl_partitioner,
    size_partitioner,
)
from benchmarks.planning.baselines.even_layers import even_layers
from benchmarks.planning.baselines.heft import heft
from benchmarks.planning.baselines.m_etf import m_etf
from benchmarks.planning.baselines.m_sct import m_sct
from benchmarks.planning.baselines.m_topo import m_topo
from benchmarks.planning.baselines.room import Placer
from benchmarks.planning.baselines.round_robin import round_robin
from benchmarks.planning.baselines.single_device import single_device

__all__ = ["Placer", "accelerate_auto", "baselines"]


def baselines() -> tuple[tuple[str, Placer], ...]:
    """Returns name and function of every baseline that needs nothing but the problem."""
    return (
        ("single_device", single_device),
        ("round_robin", round_robin),
        ("even_layers", even_layers),
        ("m_topo", m_topo),
        ("m_etf", m_etf),
        ("m_sct", m_sct),
        ("heft", heft),
        ("size_partitioner", size_partitioner),
        ("cost_aware_partitioner", cost_aware_partitioner),
        ("kl_partitioner", kl_partitioner),
    )
