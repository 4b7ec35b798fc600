from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxdevice.costs import estimate_costs, format_bytes, node_seconds
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.device_spec import DeviceSpec, WorkFactors
from fxdevice.topology import Slot, Topology
from tests.strategies import dags, topologies

SLOT = Slot(0, "cuda:0", spec=DeviceSpec("slow", {"float32": 1e9}, 1e6, launch_s=1e-3))


@pytest.mark.parametrize(
    ("flops", "traffic_bytes", "seconds"),
    [
        (10**9, 0, 1.001),  # bound by arithmetic
        (10**9, 10**6 // 2, 1.001),
        (10**6, 2 * 10**6, 2.001),  # bound by memory
        (0, 0, 0.0),  # a view starts no kernel
    ],
)
def test_roofline(flops: int, traffic_bytes: int, seconds: float) -> None:
    node = DagNode("n", NodeKind.COMPUTE, flops=flops, traffic_bytes=traffic_bytes)
    assert node_seconds(node, SLOT) == pytest.approx(seconds)


@pytest.mark.parametrize("kind", [NodeKind.STATE, NodeKind.INPUT])
def test_only_operations_take_time(kind: NodeKind) -> None:
    assert node_seconds(DagNode("n", kind, output_bytes=10, traffic_bytes=10), SLOT) == 0.0


@given(dags(), topologies())
def test_table_has_every_node_and_slot(dag: Dag, topology: Topology) -> None:
    table = estimate_costs(dag, topology)
    assert list(table.seconds_of) == [node.name for node in dag]
    for node in dag:
        for slot in topology.slots:
            assert table.seconds(node.name, slot.index) == node_seconds(node, slot)


@given(dags())
def test_faster_slots_take_no_longer(dag: Dag) -> None:
    fast = Slot(1, "cuda:1", spec=DeviceSpec("fast", {"float32": 2e9}, 2e6, launch_s=1e-3))
    table = estimate_costs(dag, Topology((SLOT, fast)))
    assert all(seconds[1] <= seconds[0] for seconds in table.seconds_of.values())


@given(st.integers(0, 2**50))
def test_written_bytes_are_close(num_bytes: int) -> None:
    number, unit = format_bytes(num_bytes).split()
    factor = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(float(number) * factor - num_bytes) <= 0.05 * factor


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (3 * 2**30, "3.0 GiB")]
)
def test_written_bytes(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


def test_rate_is_that_of_the_dtype() -> None:
    spec = DeviceSpec("fast", {"float32": 1e9, "bfloat16": 8e9}, 1e12, launch_s=0.0)
    node = DagNode("mm", NodeKind.COMPUTE, flops=8_000, traffic_bytes=1, dtype="bfloat16")
    assert node_seconds(node, Slot(0, "cuda:0", spec=spec)) == pytest.approx(1e-6)
    wide = replace(node, dtype="float32")
    assert node_seconds(wide, Slot(0, "cuda:0", spec=spec)) == pytest.approx(8e-6)


def test_a_fused_operation_starts_no_kernel() -> None:
    node = DagNode("relu", NodeKind.COMPUTE, flops=1_000, traffic_bytes=2, num_launches=0)
    assert node_seconds(node, SLOT) == pytest.approx(2e-6)


def test_measured_work_adds_up() -> None:
    factors = {"product": WorkFactors(2.0, 3.0), "exponential": WorkFactors(4.0, None)}
    spec = DeviceSpec(
        "cpu", {"float32": 1e9}, 1e6, launch_s=0.0, memory_curve=((10, 1e-6),), work_factors=factors
    )
    node = DagNode("n", NodeKind.COMPUTE, flops=1_000, traffic_bytes=20)
    slot = Slot(0, "cpu", spec=spec)
    assert node_seconds(node, slot) == pytest.approx(2e-6)
    product = replace(node, work_kind="product")
    assert node_seconds(product, slot) == pytest.approx(2e-6 + 3 * 20e-6)
    exponential = replace(node, work_kind="exponential")
    assert node_seconds(exponential, slot) == pytest.approx(4e-6 + 2e-6)


def test_memory_for_large_results_is_fetched() -> None:
    spec = DeviceSpec(
        "cpu", {"float32": 1e9}, 1e6, launch_s=0.0, mapped_bytes=100, mapped_bytes_per_s=1e3
    )
    node = DagNode("n", NodeKind.COMPUTE, output_bytes=100, traffic_bytes=1)
    slot = Slot(0, "cpu", spec=spec)
    assert node_seconds(node, slot) == pytest.approx(1e-6 + 0.1)
    assert node_seconds(replace(node, output_bytes=99), slot) == pytest.approx(1e-6)
    assert node_seconds(replace(node, is_internal=True), slot) == pytest.approx(1e-6)
