from hypothesis import given

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.placement import PlacementProblem
from fxdevice.placers.chain import build_chain, derived_from_state
from fxdevice.placers.units import UnitGraph, unit_graph
from fxdevice.topology import Slot, Topology
from tests.placers.decoder import decoder, with_backward
from tests.placers.encoder import encoder
from tests.strategies import problems


def graph_of(dag: Dag) -> UnitGraph:
    topology = Topology((Slot(0, "cuda:0"), Slot(1, "cuda:1")))
    return unit_graph(PlacementProblem(dag, topology, estimate_costs(dag, topology)))


@given(problems())
def test_every_unit_has_an_element_or_a_slot(problem: PlacementProblem) -> None:
    graph = unit_graph(problem)
    chain = build_chain(graph, [unit.pin for unit in graph.units])
    for unit, element, slot in zip(graph.units, chain.element_of, chain.fixed, strict=True):
        assert (slot is None) == (0 <= element < len(chain.elements))
        assert unit.pin is None or unit.pin == slot
    assert list(chain.elements) == sorted(set(chain.elements))


def test_state_and_its_views_go_with_their_first_reader() -> None:
    for dag in (decoder(2), with_backward(decoder(2))):
        graph = graph_of(dag)
        chain = build_chain(graph, [None] * len(graph.units))
        element = {name: chain.element_of[unit] for name, unit in graph.unit_of.items()}
        assert element["l1_q_weight"] == element["l1_q_t"] == element["l1_q_mm"]
        assert element["embed_weight"] == element["embedding"]
        assert element["head_t"] == element["logits"] != element["embedding"]


def test_only_what_reads_nothing_else_is_derived_from_state() -> None:
    graph = graph_of(decoder(1))
    names = {graph.units[unit].name for unit in derived_from_state(graph)}
    assert {"l0_q_weight", "l0_q_t", "head_t"} <= names
    assert not names & {"embedding", "l0_q_mm", "l0_norm1", "logits"}


def test_bound_units_go_with_their_guide() -> None:
    graph = graph_of(decoder(2))
    head, table = graph.unit_of["logits"], graph.unit_of["embed_weight"]
    chain = build_chain(graph, [None] * len(graph.units), {head: table})
    assert head not in chain.elements
    assert chain.element_of[head] == chain.element_of[table]
    assert chain.element_of[graph.unit_of["head_t"]] == chain.element_of[table]


def test_what_only_pinned_units_read_goes_with_them() -> None:
    graph = graph_of(decoder(2))
    fixed: list[int | None] = [None] * len(graph.units)
    fixed[graph.unit_of["l1_q_mm"]] = 1
    chain = build_chain(graph, fixed)
    assert chain.fixed[graph.unit_of["l1_q_weight"]] == 1
    assert chain.fixed[graph.unit_of["l1_q_t"]] == 1


def test_a_sum_of_gradients_goes_with_the_first_reader_of_the_value() -> None:
    graph = graph_of(encoder(3))
    chain = build_chain(graph, [None] * len(graph.units))
    element = {name: chain.element_of[unit] for name, unit in graph.unit_of.items()}
    for layer in range(3):
        assert element[f"l{layer}_mlp_sum"] == element[f"l{layer}_mlp_norm"]
        assert element[f"l{layer}_attention_sum"] == element[f"l{layer}_attention_norm"]


def test_what_only_the_backward_pass_reads_goes_with_the_forward_operation_of_its_reader() -> None:
    graph = graph_of(encoder(2))
    chain = build_chain(graph, [None] * len(graph.units))
    element = {name: chain.element_of[unit] for name, unit in graph.unit_of.items()}
    for block in ("l0_attention", "l0_mlp", "l1_attention", "l1_mlp"):
        assert element[f"{block}_detach0_again"] == element[f"{block}_relu0"]
        assert element[f"{block}_twice"] == element[f"{block}_norm"]
    assert chain.elements[-1] == graph.unit_of["l1_mlp_out"]


def test_the_seed_of_the_backward_pass_goes_with_its_readers() -> None:
    # The seed reads an input only, and what reads it follows nothing either.
    nodes = (
        DagNode("x", NodeKind.INPUT, output_bytes=8),
        DagNode("a", NodeKind.COMPUTE, ("x",), 8, flops=1),
        DagNode("b", NodeKind.COMPUTE, ("a",), 8, flops=1),
        DagNode("seed", NodeKind.COMPUTE, ("x",), 8, flops=1, is_backward=True),
        DagNode("half", NodeKind.COMPUTE, ("seed",), 8, flops=1, is_backward=True),
        DagNode("b_d", NodeKind.COMPUTE, ("half",), 8, flops=1, follows="b", is_backward=True),
    )
    graph = graph_of(Dag(nodes))
    chain = build_chain(graph, [None] * len(graph.units))
    element = {name: chain.element_of[unit] for name, unit in graph.unit_of.items()}
    assert element["seed"] == element["half"] == element["b"] == 1
