"""State of a module: found once, placed all or nothing, restored exactly."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import fxdevice.state as state_module
from fxdevice import PlacementError, StateError, sim
from fxdevice.state import ModuleState, state_tensors
from fxdevice.tensor_content import set_content
from tests.two_slots import DEVICES, Snapshot, TwoLayers, assert_same, on_cpu


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


@pytest.fixture(autouse=True)
def without_limits() -> Iterator[None]:
    yield
    for index in range(8):
        sim.set_memory_limit(index, None)


class Everything(nn.Module):
    """Every kind of tensor that a module can hold, and aliases of some."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 2)
        self.head = nn.Linear(2, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(6.0))
        self.register_buffer("hidden", torch.ones(2), persistent=False)
        self.register_buffer("absent", None)
        assert isinstance(self.table, Tensor)
        self.window = self.table[1:3]
        self.plain = torch.full((3,), 2.0)
        self.nested = {"list": [torch.zeros(1), (torch.ones(4), "text")], 3: torch.ones(5)}
        self.derived = self.embed.weight * 2


def make(module: nn.Module, pins: dict[str, int] | None = None) -> ModuleState:
    return ModuleState(module, DEVICES, pins or {}, (None, None))


def test_every_tensor_is_found_once() -> None:
    found = {(s.name, s.kind, s.num_bytes) for s in state_tensors(Everything())}
    assert found == {
        ("embed.weight", "parameter", 48),
        ("table", "buffer", 24),
        ("hidden", "buffer", 8),
        ("window", "attribute", 8),
        ("plain", "attribute", 12),
        ("nested.list.0", "attribute", 4),
        ("nested.list.1.0", "attribute", 16),
        ("nested.3", "attribute", 20),
    }


def test_names_agree_with_the_module() -> None:
    module = Everything()
    by_name = {s.name: s.tensor for s in state_tensors(module)}
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        assert by_name[name] is tensor


def test_place_and_restore() -> None:
    module = Everything()
    before = {s.name: (id(s.tensor), on_cpu(s.tensor)) for s in state_tensors(module)}
    state = make(module)
    assert len(state.unplaced()) == 8
    state.place([(module.embed.weight, 0), (module.plain, 1)])
    assert module.head.weight is module.embed.weight
    assert module.head.weight.device == DEVICES[0]
    assert module.plain.device == DEVICES[1]
    assert (state.slot_of(module.plain), state.slot_of(module.head.weight)) == (1, 0)
    assert state.resident_bytes() == (48, 12)
    assert {s.name for s in state.unplaced()} == set(before) - {"embed.weight", "plain"}
    for found in state_tensors(module):
        assert id(found.tensor) == before[found.name][0]
        assert torch.equal(on_cpu(found.tensor), before[found.name][1])
    state.restore()
    assert {s.tensor.device.type for s in state_tensors(module)} == {"cpu"}
    assert len(state.unplaced()) == 8


def test_the_first_placement_decides() -> None:
    module = TwoLayers()
    state = make(module)
    state.place([(module.first.weight, 1)])
    state.place([(module.first.weight, 0), (module.second.weight, 0)])
    assert module.first.weight.device == DEVICES[1]
    assert module.second.weight.device == DEVICES[0]


def test_what_shares_storage_moves_along_and_goes_on_sharing() -> None:
    module = Everything()
    state = make(module)
    table = module.get_buffer("table")
    state.place([(module.window, 1)])
    assert table.device == module.window.device == DEVICES[1]
    table[1] = 50.0
    assert module.window.tolist() == [50.0, 2.0]
    state.restore()
    table[2] = 60.0
    assert module.window.tolist() == [50.0, 60.0]


@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("layers.1.attention.weight", 1),
        ("layers.1", 1),
        ("layers.1.mlp.weight", 0),
        ("layers.10.weight", 0),
        ("head.weight", None),
    ],
)
def test_the_longest_pin_wins(name: str, slot: int | None) -> None:
    state = make(nn.Module(), {"layers": 0, "layers.1": 1, "layers.1.mlp": 0})
    assert state.pins.slot_of(name) == slot


def test_the_whole_model_can_be_pinned() -> None:
    state = make(nn.Module(), {"": 1, "head": 0})
    assert (state.pins.slot_of("embed.weight"), state.pins.slot_of("head.weight")) == (1, 0)


def test_state_in_order_is_cut_once_by_bytes() -> None:
    module = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    state = make(module, {"3.bias": 0})
    slots = [state.slot_in_order(name) for name, _ in module.named_parameters()]
    assert slots == [0, 0, 0, 0, 1, 1, 1, 0]
    # What is pinned takes its part of the limit, and of nothing else.
    tight = ModuleState(module, DEVICES, {"3": 0}, (80, 240))
    assert [tight.slot_in_order(f"{layer}.weight") for layer in range(4)] == [1, 1, 1, 0]
    limited = ModuleState(module, DEVICES, {}, (100, 100))
    with pytest.raises(PlacementError, match="bytes"):
        limited.slot_in_order("0.weight")


def test_out_of_memory_in_place_changes_nothing() -> None:
    module = TwoLayers()
    before = Snapshot.of(module)
    state = make(module)
    wanted = [(p, index // 2) for index, p in enumerate(module.parameters())]
    sim.set_memory_limit(1, sim.memory_allocated(1) + 65)
    with pytest.raises(torch.OutOfMemoryError):
        state.place(wanted)
    before.assert_unchanged(module)
    assert state.resident_bytes() == (0, 0)
    sim.set_memory_limit(1, None)
    state.place(wanted)
    assert [p.device for p in module.parameters()] == [*DEVICES[:1] * 2, *DEVICES[1:] * 2]
    assert_same(dict(module.named_parameters()), {k: v[-1] for k, v in before.tensors.items()})


def test_a_tensor_that_refuses_undoes_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    module = TwoLayers()
    module.first.weight.grad = torch.ones(5, 4)
    before = Snapshot.of(module)
    state = make(module)

    def refuse_one(tensor: Tensor, content: Tensor, *others: object) -> None:
        if tensor is module.second.weight and content.device != torch.device("cpu"):
            raise RuntimeError("it refuses")
        set_content(tensor, content)

    monkeypatch.setattr(state_module, "set_content", refuse_one)
    with pytest.raises(StateError, match=r"'second\.weight': it refuses; nothing was changed"):
        state.place((p, 0) for p in module.parameters())
    before.assert_unchanged(module)
    assert module.first.weight.grad.device.type == "cpu"
    assert state.resident_bytes() == (0, 0)


def test_restore_returns_to_where_each_tensor_was_found() -> None:
    module = TwoLayers()
    module.first.to("fxsim:3")
    before = on_cpu(module.state_dict())
    state = make(module)
    state.place((p, 1) for p in module.parameters())
    state.restore()
    assert [str(p.device) for p in module.parameters()] == ["fxsim:3"] * 2 + ["cpu"] * 2
    assert_same(module.state_dict(), before)


def test_restore_keeps_what_training_has_changed() -> None:
    module = TwoLayers()
    state = make(module)
    state.place((p, 1) for p in module.parameters())
    with torch.no_grad():
        module.first.bias.fill_(3.0)
    state.restore()
    assert module.first.bias.tolist() == [3.0] * 5


def test_refresh_follows_the_module() -> None:
    module = TwoLayers()
    state = make(module)
    old = module.first.weight
    state.place([(old, 1)])
    module.first.weight = nn.Parameter(torch.zeros(5, 4))
    module.extra = nn.Parameter(torch.zeros(2))
    state.refresh()
    assert state.find(old) is None
    assert state.slot_of(old) is None
    assert state.slot_of(module.first.weight) is None
    assert {s.name for s in state} == {*dict(module.named_parameters())}


def test_meta_tensors_are_refused() -> None:
    module = TwoLayers()
    module.second.to("meta")
    with pytest.raises(StateError, match=r"2 tensors are on the meta device.*'second\.weight'"):
        make(module)


def test_what_cannot_move_is_not_found_for_placing() -> None:
    module = nn.Module()
    module.sparse = torch.eye(2).to_sparse()
    state = make(module)
    assert state.find(module.sparse) is None
    assert state.find(torch.zeros(1)) is None
