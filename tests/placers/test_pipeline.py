"""The pipeline placer on graphs shaped like real models."""

import cProfile
import itertools
import pstats
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from fxdevice.costs import estimate_costs
from fxdevice.dag import Dag, DagNode, NodeKind
from fxdevice.errors import PlacementError
from fxdevice.placement import Placement, PlacementProblem
from fxdevice.placers.memory import needed_memory
from fxdevice.placers.pipeline import place_pipeline
from fxdevice.topology import Slot, Topology
from tests.placers import oracle
from tests.placers.decoder import decoder, with_backward
from tests.placers.encoder import encoder

SHARED = ("cos", "sin", "mask")


def problem_of(
    dag: Dag,
    limits: tuple[int | None, ...],
    pins: Mapping[str, int] | None = None,
    device: str = "cuda:{}",
) -> PlacementProblem:
    slots = [Slot(i, device.format(i), memory_bytes=limit) for i, limit in enumerate(limits)]
    topology = Topology(tuple(slots))
    return PlacementProblem(dag, topology, estimate_costs(dag, topology), pins or {})


def place(dag: Dag, num_slots: int, pins: Mapping[str, int] | None = None) -> Placement:
    return place_pipeline(problem_of(dag, (None,) * num_slots, pins))


def module_pins(dag: Dag, slot_of_module: Callable[[str], int | None]) -> dict[str, int]:
    """Returns the pins of a device map that names every module of the decoder."""
    pins = {}
    for node in dag:
        slot = slot_of_module(node.module) if node.module and not node.is_backward else None
        if node.kind is not NodeKind.INPUT and slot is not None:
            pins[node.name] = slot
    return pins


def by_layer(layer_slots: list[int], others: int) -> Callable[[str], int]:
    def slot(module: str) -> int:
        is_layer = module.startswith("model.layers.")
        return layer_slots[int(module.split(".")[2])] if is_layer else others

    return slot


def is_hidden(name: str) -> bool:
    return name.endswith(("_add1", "_add2"))


@pytest.mark.parametrize("num_slots", [2, 3])
@pytest.mark.parametrize("mask_is_recomputable", [False, True])
def test_untied_decoder_transfers_one_hidden_state_a_boundary(
    num_slots: int, mask_is_recomputable: bool
) -> None:
    dag = decoder(6, is_tied=False, mask_is_recomputable=mask_is_recomputable)
    found = oracle.transfers(dag, place(dag, num_slots).slot_of)
    shared = SHARED[:2] if mask_is_recomputable else SHARED
    later = range(1, num_slots)
    assert {row for row in found if not is_hidden(row[0])} == {
        (name, 0, slot) for name in shared for slot in later
    }
    hidden = [row[1:] for row in found if is_hidden(row[0])]
    assert sorted(hidden) == [(slot - 1, slot) for slot in later]


@pytest.mark.parametrize("num_slots", [2, 3])
def test_tied_head_goes_back_to_a_large_table_that_is_sent_on_every_call(num_slots: int) -> None:
    dag = with_changing_state(decoder(6, embedding_bytes=3_000_000))
    slot_of = place(dag, num_slots).slot_of
    found = oracle.transfers(dag, slot_of)
    assert slot_of["logits"] == slot_of["embed_weight"] == 0
    assert ("norm", num_slots - 1, 0) in found
    assert len(found) == len(SHARED) * (num_slots - 1) + num_slots


@pytest.mark.parametrize("num_slots", [2, 3])
def test_tied_head_has_a_copy_of_a_table_that_stays(num_slots: int) -> None:
    dag = decoder(6, embedding_bytes=3_000_000)
    slot_of = place(dag, num_slots).slot_of
    found = oracle.transfers(dag, slot_of)
    assert (slot_of["embed_weight"], slot_of["logits"]) == (0, num_slots - 1)
    assert ("embed_weight", 0, num_slots - 1) in found
    assert len([row for row in found if is_hidden(row[0])]) == num_slots - 1


def with_changing_state(dag: Dag) -> Dag:
    """Every call changes the state, so that no copy of it stays."""
    return Dag(tuple(replace(n, may_change=n.kind is NodeKind.STATE) for n in dag))


def test_small_tied_table_is_transferred() -> None:
    dag = decoder(6, embedding_bytes=3_000)
    found = oracle.transfers(dag, place(dag, 2).slot_of)
    assert {row for row in found if not is_hidden(row[0])} == {
        (name, 0, 1) for name in (*SHARED, "embed_weight")
    }


@pytest.mark.parametrize("is_tied", [False, True])
def test_backward_doubles_the_hidden_transfers_only(is_tied: bool) -> None:
    dag = with_backward(decoder(6, is_tied=is_tied))
    slot_of = place(dag, 2).slot_of
    found = {row for row in oracle.transfers(dag, slot_of) if row[0] not in SHARED}
    # With tied weights one more activation crosses to or from the slot of the table, and its
    # gradient back.
    assert len(found) == (4 if is_tied else 2)
    assert sum(dag[name].is_backward for name, _, _ in found) == len(found) // 2
    assert all(dag[name].kind is NodeKind.COMPUTE for name, _, _ in found)


@pytest.mark.parametrize(("num_layers", "num_slots"), [(4, 2), (6, 2), (6, 3)])
def test_encoder_is_cut_between_layers_with_one_transfer_each_way(
    num_layers: int, num_slots: int
) -> None:
    problem = problem_of(encoder(num_layers), (None,) * num_slots)
    slot_of = place_pipeline(problem).slot_of
    per_stage = num_layers // num_slots
    expected: set[tuple[str, int, int]] = set()
    for slot in range(1, num_slots):
        expected.add((f"l{slot * per_stage - 1}_mlp_out", slot - 1, slot))
        expected.add((f"l{slot * per_stage}_attention_sum", slot, slot - 1))
    assert oracle.transfers(problem.dag, slot_of) == expected
    load_s = oracle.loads_s(problem, slot_of)
    assert load_s == pytest.approx([sum(load_s) / num_slots] * num_slots)


LAYOUTS = [
    ([0, 0, 1, 1], 0, 2),
    ([0, 0, 1, 1], 1, 2),
    ([1, 1, 2, 2], 0, 3),
    ([0, 1, 1, 2], 0, 3),
    ([0, 1, 0, 1], 0, 2),
]


@pytest.mark.parametrize(("layers", "others", "num_slots"), LAYOUTS)
def test_device_map_gives_one_hidden_transfer_a_change(
    layers: list[int], others: int, num_slots: int
) -> None:
    dag = decoder(4)
    pins = module_pins(dag, by_layer(layers, others))
    slot_of = place(dag, num_slots, pins).slot_of
    assert all(slot_of[name] == slot for name, slot in pins.items())
    path = [others, *layers, others]
    changes = sum(a != b for a, b in itertools.pairwise(path))
    found = oracle.transfers(dag, slot_of)
    assert len([row for row in found if row[0] not in SHARED]) == changes
    users = set(layers)
    assert len([row for row in found if row[0] in ("cos", "sin")]) == 2 * len(users - {others})
    assert len([row for row in found if row[0] == "mask"]) == len(users) - 1


@pytest.mark.parametrize(("layers", "others", "num_slots"), LAYOUTS)
@pytest.mark.parametrize("device", ["cuda:{}", "cpu"])
def test_pinned_state_draws_its_readers(
    layers: list[int], others: int, num_slots: int, device: str
) -> None:
    # As in a later graph of a module whose state is already placed: nothing else is pinned.
    dag = decoder(4)
    pins = {
        name: slot
        for name, slot in module_pins(dag, by_layer(layers, others)).items()
        if dag[name].kind is NodeKind.STATE
    }
    problem = problem_of(dag, (None,) * num_slots, pins, device)
    found = oracle.transfers(dag, place_pipeline(problem).slot_of)
    path = [others, *layers, others]
    changes = sum(a != b for a, b in itertools.pairwise(path))
    moved = {row for row in found if row[0] not in (*SHARED, "inv_freq")}
    assert len(moved) == changes
    assert all(dag[name].kind is NodeKind.COMPUTE for name, _, _ in moved)


def test_same_stages_when_the_state_of_the_first_graph_is_pinned() -> None:
    dag = decoder(6)
    first = place(dag, 3).slot_of
    pins = {node.name: first[node.name] for node in dag if node.kind is NodeKind.STATE}
    again = place(dag, 3, pins).slot_of
    found = oracle.transfers(dag, again)
    assert len(found) <= len(oracle.transfers(dag, first))
    assert all(dag[name].kind is NodeKind.COMPUTE for name, _, _ in found)


def test_small_graph_without_state_stays_whole() -> None:
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=64)]
    for index in range(4):
        source = nodes[-1].name
        nodes.append(DagNode(f"n{index}", NodeKind.COMPUTE, (source,), 64, traffic_bytes=128))
    assert set(place(Dag(tuple(nodes)), 2).slot_of.values()) == {0}


def test_small_model_is_divided() -> None:
    nodes = [DagNode("x", NodeKind.INPUT, output_bytes=64)]
    for index in range(2):
        source = nodes[-1].name
        nodes.append(DagNode(f"w{index}", NodeKind.STATE, (), 64))
        nodes.append(DagNode(f"mm{index}", NodeKind.COMPUTE, (source, f"w{index}"), 64, 512, 192))
    slot_of = place(Dag(tuple(nodes)), 2).slot_of
    assert slot_of == {"w0": 0, "mm0": 0, "w1": 1, "mm1": 1}


def test_reasons_can_be_read() -> None:
    dag = with_backward(decoder(4))
    reason_of = place(dag, 2, {"l3_norm2": 1}).reason_of
    assert reason_of["l0_norm1"] == "stage 1 of 2"
    assert reason_of["l3_norm1"] == "stage 2 of 2"
    assert reason_of["l3_norm2"] == "pinned to slot 1"
    assert reason_of["l0_q_weight"] == "stage 1 of 2, with its reader l0_q_t"
    assert reason_of["l0_norm1_d_embedding"] == "follows forward node l0_norm1"
    assert reason_of["l3_norm2_d_l3_add1"] == "follows forward node l3_norm2"


def test_limits_shift_the_stages() -> None:
    dag = decoder(6)
    problem = problem_of(dag, (3_500_000, 3_500_000))
    placement = place_pipeline(problem)
    free = needed_memory(problem, place(dag, 2).slot_of)
    assert free[0].total_bytes > 3_500_000
    needed = needed_memory(problem, placement.slot_of)
    assert all(memory.total_bytes <= 3_500_000 for memory in needed)


def test_message_names_a_limit_that_is_enough() -> None:
    dag = decoder(6)
    with pytest.raises(PlacementError, match="missing on slot 0") as caught:
        place_pipeline(problem_of(dag, (3_100_000, 3_100_000)))
    text = str(caught.value)
    assert "slot 0 (cuda:0) allows 3.0 MiB and needs" in text
    enough = int(text.split("raise max_memory of slot 0 to ")[1].split(" bytes")[0])
    assert enough < 4_000_000
    problem = problem_of(dag, (enough, 3_100_000))
    assert needed_memory(problem, place_pipeline(problem).slot_of)[0].total_bytes <= enough


def test_message_names_state_larger_than_every_slot() -> None:
    with pytest.raises(PlacementError, match=r"'embed_weight' takes 2\.9 MiB, more than any slot"):
        place_pipeline(problem_of(decoder(2), (2_000_000, 1_000_000)))


def test_message_names_pins_that_do_not_fit() -> None:
    problem = problem_of(decoder(2), (None, 2_000_000), {"embed_weight": 1})
    with pytest.raises(PlacementError, match=r"pinned to slot 1 .* needs 2\.9 MiB") as caught:
        place_pipeline(problem)
    assert "raise max_memory of slot 1 to 3000000 bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("pins", "message"),
    [
        ({"nothing": 0}, "'nothing', which is no node"),
        ({"norm": 2}, "pinned to slot 2, but the slots are 0 to 1"),
    ],
)
def test_unusable_pins(pins: dict[str, int], message: str) -> None:
    with pytest.raises(PlacementError, match=message):
        place(decoder(1), 2, pins)


def test_no_slots() -> None:
    with pytest.raises(PlacementError, match="at least one slot"):
        place(decoder(1), 0)


def num_calls(num_layers: int) -> int:
    """Returns the number of function calls that placing a decoder takes."""
    dag = with_backward(decoder(num_layers))
    problem = problem_of(dag, (None,) * 4)
    profile = cProfile.Profile()
    profile.runcall(place_pipeline, problem)
    calls: int = pstats.Stats(profile).total_calls  # type: ignore[attr-defined]
    return calls


def test_work_grows_about_linearly() -> None:
    small, large = num_calls(8), num_calls(32)
    assert large < 4 * small * 1.6
