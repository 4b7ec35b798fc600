import dataclasses

import pytest
from hypothesis import given

from fxdevice.dag import Dag, DagNode, NodeKind
from tests.placers import oracle
from tests.strategies import dags


def node(name: str, *inputs: str, follows: str | None = None) -> DagNode:
    return DagNode(name, NodeKind.COMPUTE, inputs, follows=follows)


def test_names_must_be_unique() -> None:
    with pytest.raises(ValueError, match="'a' occurs twice"):
        Dag((node("a"), node("a")))


@pytest.mark.parametrize("nodes", [(node("a", "b"), node("b")), (node("a", follows="a"),)])
def test_needed_nodes_come_before(nodes: tuple[DagNode, ...]) -> None:
    with pytest.raises(ValueError, match="which is not before it"):
        Dag(nodes)


@given(dags())
def test_users_are_the_reverse_of_inputs(dag: Dag) -> None:
    edges = {(name, reader.name) for reader in dag for name in reader.inputs}
    assert edges == {(name, user) for name, users in dag.users.items() for user in users}
    order = [node.name for node in dag]
    assert all(list(users) == sorted(users, key=order.index) for users in dag.users.values())


@given(dags())
def test_leaders_are_the_ends_of_what_is_followed(dag: Dag) -> None:
    found: dict[str, list[str]] = {}
    for member in dag:
        if member.kind is not NodeKind.INPUT:
            found.setdefault(dag.leader_of[member.name], []).append(member.name)
    assert list(found.values()) == oracle.classes(dag)


def test_an_input_leads_nobody() -> None:
    dag = Dag((DagNode("x", NodeKind.INPUT), node("view", "x", follows="x")))
    assert dag.leader_of["view"] == "view"


def test_lookup() -> None:
    dag = Dag((node("a"), node("b", "a")))
    assert len(dag) == 2
    assert dag["b"].inputs == ("a",)
    assert not dag["a"].has_work


def test_a_changed_node_is_what_replace_makes() -> None:
    node = DagNode("a", NodeKind.COMPUTE, ("x",), 8, flops=3, shape=(2,))
    changes = {"name": "b", "output_bytes": 4, "shape": (1,)}
    assert node.changed(**changes) == dataclasses.replace(node, **changes)  # type: ignore[arg-type]
    assert node.name == "a"


def test_a_node_cannot_be_given_a_field_that_it_does_not_have() -> None:
    with pytest.raises(TypeError, match=r"no field.*'bytes'"):
        DagNode("a", NodeKind.COMPUTE).changed(bytes=1)


def test_an_analysis_runs_once_for_each_graph() -> None:
    ran: list[int] = []

    def count(dag: Dag) -> int:
        ran.append(len(dag))
        return len(dag)

    dag = Dag((DagNode("a", NodeKind.INPUT),))
    assert [dag.derived(count), dag.derived(count)] == [1, 1]
    assert Dag(dag.nodes).derived(count) == 1
    assert ran == [1, 1]


def test_a_dag_of_nodes_that_are_in_order_is_that_of_any_nodes() -> None:
    nodes = (DagNode("a", NodeKind.COMPUTE), DagNode("b", NodeKind.COMPUTE, ("a",)))
    found = Dag.in_order(nodes)
    assert found == Dag(nodes)
    assert found.users == Dag(nodes).users
    assert found["b"] is nodes[1]
