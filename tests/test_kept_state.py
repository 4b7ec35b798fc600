"""State that several slots read is sent once, as the devices count, and is right after a change."""

from __future__ import annotations

import copy
import gc
import io
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.model import compiled_model_of
from fxdevice.runtime.kept_copies import KeptCopies
from tests.two_slots import assert_same

WIDTH, BATCH = 64, 8
SLOTS = [f"fxsim:{index}" for index in range(8)]
PAIR = SLOTS[:2]
ACTIVATIONS_BYTES = 8 * BATCH * WIDTH * 8
"""More than all activations of `Net` in one call, and less than its smallest weight."""


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


class Net(nn.Module):
    """A feed-forward layer: inputs and results `[batch, WIDTH]`."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.down(torch.relu(self.up(x)))
        return result


def net() -> Net:
    return Net().double()


def compiled(model: nn.Module, strategy: str = "data", **options: Any) -> nn.Module:
    devices = SLOTS[:4] if strategy == "data_pipeline" else PAIR
    return fxdevice.compile(
        copy.deepcopy(model), devices, inner="eager", strategy=strategy, **options
    )


def x_of(batch: int = BATCH) -> Tensor:
    return torch.randn(batch, WIDTH, dtype=torch.float64)


def copies_of(model: object) -> KeptCopies:
    found = compiled_model_of(model)
    assert found is not None
    return found.compiler.copies


def bytes_between_slots(call: Callable[[], object]) -> int:
    """Returns how many bytes a call sends from one slot to another."""
    with sim.record() as recording:
        call()
    copies = recording.stats.copies.items()
    return sum(count.num_bytes for pair, count in copies if "cpu" not in pair)


def weight_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("strategy", ["data", "tensor", "data_pipeline"])
def test_the_second_call_sends_no_state(strategy: str, mode: Callable[[], Any]) -> None:
    plain, x = net().eval(), x_of()
    model = compiled(plain, strategy)
    with mode():
        first, second, third = (bytes_between_slots(lambda: model(x)) for _ in range(3))
        assert_same(model(x), plain(x))
    assert first > 0.4 * weight_bytes(plain) > ACTIVATIONS_BYTES
    assert second == third < ACTIVATIONS_BYTES
    kept = [t for t in fxdevice.report(model).transfers() if t.is_resident]
    assert first - second == sum(t.num_bytes for t in kept)


# What changes state: each is done to the placed model and to a plain one.


def added(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)


def stepped(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.Adam(model.parameters()).step()


def given_contents(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.5


def replaced(model: nn.Module) -> None:
    for layer in model.children():
        assert isinstance(layer.weight, nn.Parameter)
        layer.weight = nn.Parameter(layer.weight.detach() + 0.5)


def loaded(model: nn.Module) -> None:
    model.load_state_dict({name: value + 0.5 for name, value in model.state_dict().items()})


def loaded_by_assignment(model: nn.Module) -> None:
    state = {name: value + 0.5 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def written_in_inference_mode(model: nn.Module) -> None:
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.add_(0.5)


def written_through_data(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.data.add_(0.5)
    if compiled_model_of(model) is not None:
        fxdevice.refresh(model)


CHANGES = [
    added,
    stepped,
    given_contents,
    replaced,
    loaded,
    loaded_by_assignment,
    written_in_inference_mode,
    written_through_data,
]


@pytest.mark.parametrize("strategy", ["data", "tensor"])
@pytest.mark.parametrize("change", CHANGES)
def test_changed_state_is_sent_again(change: Callable[[nn.Module], None], strategy: str) -> None:
    plain, x = net(), x_of()
    model = compiled(plain, strategy)
    with torch.no_grad():
        before = bytes_between_slots(lambda: model(x))
        old = model(x)
    for each in (plain, model):
        change(each)
    with torch.no_grad():
        sent = bytes_between_slots(lambda: model(x))
        assert_same(model(x), plain(x))
        assert not torch.equal(model(x), old)
        again = bytes_between_slots(lambda: model(x))
    assert again < ACTIVATIONS_BYTES < sent <= before


def test_another_dtype() -> None:
    plain, x = Net(), x_of()
    model = compiled(plain)
    with torch.no_grad():
        model(x.float())
        for each in (plain, model):
            each.to(torch.float64)
        assert_same(model(x), plain(x))
        assert bytes_between_slots(lambda: model(x)) < ACTIVATIONS_BYTES


class Tied(nn.Module):
    """The table that embeds is also the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.head = nn.Linear(WIDTH, 256, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.embed(ids))
        return scores


def test_tied_weights_are_sent_once() -> None:
    plain, ids = Tied().double().eval(), torch.arange(BATCH)
    model = compiled(plain)
    with torch.no_grad():
        first, second = (bytes_between_slots(lambda: model(ids)) for _ in range(2))
        assert first - second == weight_bytes(plain)
        for each in (plain, model):
            added(each)
        assert_same(model(ids), plain(ids))


def tied_by_storage() -> Tied:
    torch.manual_seed(1)
    model = Tied().double().eval()
    model.head.weight = nn.Parameter(torch.empty(0, dtype=torch.float64))
    model.head.weight.data = model.embed.weight.data
    return model


def test_weights_tied_by_their_storage_follow_each_other() -> None:
    """Each has a version of its own: what is written through one does not show in the other."""
    plain, model, ids = tied_by_storage(), tied_by_storage(), torch.arange(BATCH)
    fxdevice.compile(model, PAIR, inner="eager", strategy="data")
    with torch.no_grad():
        assert_same(model(ids), plain(ids))
        for each in (plain, model):
            each.embed.weight.add_(0.5)
        assert_same(model(ids), plain(ids))


class DataSGD(torch.optim.Optimizer):
    """Writes through `.data`, which PyTorch does not count as a change."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(parameter.grad.data, alpha=-0.5)


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.5), DataSGD])
@pytest.mark.parametrize("strategy", ["data", "tensor"])
def test_evaluation_between_training_steps(strategy: str, make: Callable[[Any], Any]) -> None:
    plain, x = net(), x_of()
    model = compiled(plain, strategy)
    optimizers = [make(each.parameters()) for each in (plain, model)]
    for _ in range(3):
        with torch.no_grad():
            assert_same(model(x), plain(x))
        for each, optimizer in zip((plain, model), optimizers, strict=True):
            result = each(x)
            with torch.no_grad():
                each(x)  # makes copies between forward and backward
            optimizer.zero_grad()
            result.square().mean().backward()
            optimizer.step()


def test_training_drops_the_copies_of_evaluation() -> None:
    model, x = compiled(net()), x_of()
    with torch.no_grad():
        model(x)
    copies = copies_of(model)
    assert copies.num_bytes()
    model(x)
    assert not copies.num_bytes()


def test_in_training_frozen_weights_stay_and_others_are_sent() -> None:
    plain, x = net(), x_of()
    plain.up.requires_grad_(False)
    model = compiled(plain)
    optimizers = [torch.optim.SGD(each.down.parameters(), 0.1) for each in (plain, model)]  # type: ignore[union-attr]

    def step(index: int) -> Tensor:
        each = (plain, model)[index]
        optimizers[index].zero_grad()
        loss: Tensor = each(x).square().mean()
        loss.backward()
        optimizers[index].step()
        return loss

    counts = []
    for _ in range(3):
        losses: list[Tensor] = []
        counts.append(bytes_between_slots(lambda found=losses: found.append(step(1))))  # type: ignore[misc]
        assert_same(losses[0], step(0))
    frozen_bytes, trained_bytes = weight_bytes(plain.up), weight_bytes(plain.down)
    assert counts[1] == counts[2] == counts[0] - frozen_bytes
    # Its weights one way, their gradients the other.
    assert counts[1] >= 2 * trained_bytes


class Normed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(super().forward(x))
        return result


def test_running_statistics() -> None:
    plain, x = Normed().double(), x_of()
    model = compiled(plain)
    for _ in range(2):
        for each in (plain, model):
            each.train()
            each(x).sum().backward()
            each.eval()
        with torch.no_grad():
            assert_same(model(x), plain(x))
            assert_same(model(x), plain(x))


def test_another_batch_size_shares_the_copies() -> None:
    model = compiled(net().eval())
    held = []
    with torch.no_grad():
        for batch in (8, 6, 8, 4):
            model(x_of(batch))
            gc.collect()
            held.append(sim.memory_allocated(1))
    assert len(fxdevice.report(model).graphs) == 3
    assert len(set(held)) == 1


def test_a_later_graph_counts_state_once() -> None:
    """With room for one replica and its activations, a second batch size was refused."""
    plain = net().eval()
    limit = weight_bytes(plain) + 4 * ACTIVATIONS_BYTES
    model = compiled(plain, max_memory={0: limit, 1: limit})
    with torch.no_grad():
        for batch in (8, 6):
            x = x_of(batch)
            assert_same(model(x), plain(x))


def test_restore_frees_the_copies() -> None:
    plain, x = net().eval(), x_of()
    gc.collect()
    before = [sim.memory_allocated(slot) for slot in PAIR]
    model = compiled(plain)
    with torch.no_grad():
        model(x)
        fxdevice.restore(model)
        gc.collect()
        assert [sim.memory_allocated(slot) for slot in PAIR] == before
        assert_same(model(x), plain(x))


def test_the_copies_go_with_the_model(no_collector: None) -> None:
    model, x = compiled(net().eval()), x_of()
    with torch.no_grad():
        model(x)
    copies = copies_of(model)
    assert copies.num_bytes()
    gone = [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()  # a module and its calls refer to each other
    assert not any(reference() is not None for reference in gone)
    assert not copies.num_bytes()


def test_the_copies_of_a_replaced_parameter_make_room_for_the_new_ones() -> None:
    model, x = compiled(net().eval()), x_of()
    with torch.no_grad():
        model(x)
        gc.collect()
        before = sim.memory_allocated(1)
        old = list(model.parameters())  # as an optimizer holds them
        replaced(model)
        model(x)
        gc.collect()
    assert sim.memory_allocated(1) == before
    assert len(old) == 4


def test_copies_and_pickles_of_the_model_do_not_see_them() -> None:
    plain, x = net().eval(), x_of()
    model = compiled(plain)
    with torch.no_grad():
        model(x)
        assert list(model.state_dict()) == list(plain.state_dict())
        twin = copy.deepcopy(model).cpu()
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        read = torch.load(file, weights_only=False).cpu()
        for each in (twin, read):
            added(each)
            assert_same(each(x), _changed(plain)(x))
        assert_same(model(x), plain(x))


def _changed(plain: nn.Module) -> nn.Module:
    changed = copy.deepcopy(plain)
    added(changed)
    return changed


def test_two_threads() -> None:
    plain, x = net().eval(), x_of()
    model = compiled(plain)
    with torch.no_grad():
        expected = plain(x)
        model(x)
    fxdevice.refresh(model)
    start, failures = threading.Barrier(2), []

    def call() -> None:
        start.wait()
        try:
            with torch.no_grad():
                for _ in range(10):
                    assert_same(model(x), expected)
                    fxdevice.refresh(model)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_transfer_that_fails_leaves_no_half_made_copy() -> None:
    plain, x = net().eval(), x_of()
    model = compiled(plain)
    with torch.no_grad():
        model(x)
        fxdevice.refresh(model)
        gc.collect()
        sim.set_memory_limit(1, sim.memory_allocated(1) + weight_bytes(plain.up) + 100)
        try:
            with pytest.raises(torch.OutOfMemoryError):
                model(x)
        finally:
            sim.set_memory_limit(1, None)
        assert_same(model(x), plain(x))


class Breaks(Net):
    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up(x))
        torch._dynamo.graph_break()
        result: Tensor = self.down(hidden) + self.down(hidden * 2)
        return result


def test_graph_breaks() -> None:
    plain, x = Breaks().double().eval(), x_of()
    model = compiled(plain)
    with torch.no_grad():
        for change in (lambda _: None, added, lambda _: None):
            for each in (plain, model):
                change(each)
            assert_same(model(x), plain(x))
        assert bytes_between_slots(lambda: model(x)) < 2 * ACTIVATIONS_BYTES
    assert len(fxdevice.report(model).graphs) == 2


def test_functions_and_refresh() -> None:
    """State that stays with the caller: unseen writes need `refresh`, training does not."""
    module, x = net(), x_of()
    plain = copy.deepcopy(module)
    function = fxdevice.compile(lambda x: module(x), PAIR, inner="eager", strategy="data")
    with torch.no_grad():
        function(x)
        for each in (plain, module):
            for parameter in each.parameters():
                parameter.data.add_(0.5)
        fxdevice.refresh(function)
        assert_same(function(x), plain(x))
    optimizers = [DataSGD(each.parameters()) for each in (plain, module)]
    for _ in range(2):
        for each, optimizer in zip((plain, module), optimizers, strict=True):
            each.zero_grad()
            result = plain(x) if each is plain else function(x)
            result.square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            assert_same(function(x), plain(x))
    copies = copies_of(function)
    assert fxdevice.restore(function)(x) is not None
    assert not copies.num_bytes()


def test_refresh_of_what_is_not_compiled() -> None:
    with pytest.raises(fxdevice.CompileOptionError, match="not compiled"):
        fxdevice.refresh(nn.Linear(2, 2))


def test_a_first_call_inside_vmap() -> None:
    plain, x = net().eval(), x_of()
    model = compiled(plain)
    with torch.no_grad():
        assert_same(torch.vmap(model)(x.expand(2, BATCH, WIDTH)), plain(x.expand(2, BATCH, WIDTH)))
        for _ in range(2):
            assert_same(model(x), plain(x))


def test_the_report_says_what_is_kept() -> None:
    model = compiled(net().eval())
    with torch.no_grad():
        model(x_of())
    report = fxdevice.report(model)
    kept = [t for t in report.transfers() if t.is_resident]
    names = ["down.bias", "down.weight", "up.bias", "up.weight"]
    assert sorted(t.origin for t in kept) == names
    num_bytes = weight_bytes(model)
    text = str(report)
    assert f"of them {num_bytes:,} kept between calls" in text
    assert sum(slot.kept_bytes for slot in report.graphs[0].slots) == num_bytes
    # In the head, in the list of transfers, and in the rows of the nodes.
    assert text.count("kept between calls") == 1 + 2 * len(names)
