"""Filling between pinned weights, by each of the rules."""

from collections.abc import Mapping

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag
from fxdevice.placement import PlacementProblem
from fxdevice.placers.fill import Rule, fill, state_pins
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.placers.units import unit_graph
from fxdevice.topology import Slot, Topology
from tests.placers import oracle
from tests.placers.decoder import DagBuilder, with_backward


def normed_layers(num_layers: int) -> Dag:
    """Returns layers whose norm takes a mean before its weight, and whose activation has no state.

    The mean is as large as the hidden state, so that it is worth no transfer of its own.
    """
    b = DagBuilder()
    hidden = b.input("x", 4_000)
    for layer in range(num_layers):
        at, module = f"l{layer}", f"layers.{layer}"
        weight = b.state(f"{at}_norm_weight", 64, f"{module}.norm")
        mean = b.op(f"{at}_mean", hidden, module=f"{module}.norm")
        value = b.op(f"{at}_scaled", mean, weight, module=f"{module}.norm")
        value = b.linear(f"{at}_mm", value, f"{module}.linear")
        value = b.op(f"{at}_act", value, module=f"{module}.act")
        hidden = b.op(f"{at}_add", *([] if layer == 0 else [hidden]), value, module=module)
    return Dag(tuple(b.nodes))


def pinned(dag: Dag) -> PlacementProblem:
    """Returns the problem with the weights of layer i on slot i."""
    slots = tuple(Slot(index, f"cuda:{index}") for index in range(2))
    topology = Topology(slots)
    pins = {node.name: int(node.name[1]) for node in dag if node.name.endswith("_weight")}
    return PlacementProblem(dag, topology, estimate_costs(dag, topology), pins)


def filled(rule: Rule) -> Mapping[str, int]:
    graph = unit_graph(pinned(normed_layers(2)))
    return graph.slot_of(fill(graph, state_pins(graph), rule))


def test_by_bytes_and_by_order_leave_the_mean_with_the_hidden_state_that_it_reads() -> None:
    for rule in (Rule.BY_BYTES, Rule.BY_ORDER):
        slot_of = filled(rule)
        assert slot_of["l0_add"] == slot_of["l1_mean"] == 0
        assert slot_of["l1_scaled"] == 1


def test_by_module_places_every_operation_with_the_state_of_its_module() -> None:
    slot_of = filled(Rule.BY_MODULE)
    assert slot_of == {name: int(name[1]) for name in slot_of}


def test_pinned_layers_are_cut_between_them() -> None:
    problem = pinned(with_backward(normed_layers(2)))
    found = oracle.transfers(problem.dag, place_pipeline(problem).slot_of)
    assert found == {("l0_add", 0, 1), ("l0_add_sum0", 1, 0)}
