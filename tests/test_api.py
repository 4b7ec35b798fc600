"""One call: what goes in and comes out of a compiled model or function."""

from __future__ import annotations

import copy
import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from tests.two_slots import HALVES, TwoLayers, assert_same, gradients, on_cpu

PAIR = [0, 1]


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def slots_of(model: nn.Module) -> list[int | None]:
    return [parameter.device.index for parameter in model.parameters()]


# What a call takes and returns.


@dataclasses.dataclass
class Batch:
    image: Tensor
    extra: dict[str, list[Tensor]]
    note: str = ""


class Scores(NamedTuple):
    logits: Tensor
    hidden: list[Tensor]


class Memory:
    """No plain container."""

    def __init__(self, last: Tensor) -> None:
        self.last = last


class TakesAnything(TwoLayers):
    def forward(  # type: ignore[override]
        self, batch: Batch, *shifts: Tensor, scale: float = 1.0, pair: Any = None, flag: bool
    ) -> dict[str, Any]:
        hidden = self.first(batch.image) * scale
        for shift in (*shifts, *batch.extra["shifts"]):
            hidden = hidden + shift
        if pair is not None:
            hidden = hidden * pair[0] + pair[1]["b"]
        logits = self.second(hidden if flag else -hidden)
        return {
            "scores": Scores(logits, [hidden, hidden.sum()]),
            "batch": batch,
            "note": batch.note + "!",
            "none": None,
            "memory": Memory(hidden),
        }


def assert_equal_outputs(out: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(out) == list(expected)
    assert type(out["scores"]) is Scores
    assert_same(out["scores"], expected["scores"])
    assert (out["note"], out["none"]) == (expected["note"], None)
    assert_same(out["memory"].last, expected["memory"].last)


def test_nested_inputs_and_outputs_of_the_models_own_types() -> None:
    model = TakesAnything()
    batch = Batch(torch.randn(2, 4), {"shifts": [torch.randn(5), torch.randn(2, 1)]}, "hello")
    pair = (torch.tensor(2.0), {"b": torch.randn(5)})

    def call() -> dict[str, Any]:
        out: dict[str, Any] = model(batch, torch.ones(5), scale=0.5, pair=pair, flag=True)
        return out

    expected = call()
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES, strategy="pipeline")
    for _ in range(2):
        out = call()
        assert_equal_outputs(out, expected)
        assert out["batch"] is batch
        assert {t.device.type for t in (out["scores"].logits, *out["scores"].hidden)} == {"cpu"}
        # No plain container: it keeps what it got, where it was made.
        assert out["memory"].last.device == torch.device("fxsim:0")


def test_inputs_on_several_devices_at_once() -> None:
    model = TakesAnything()
    batch = Batch(torch.randn(2, 4), {"shifts": [torch.randn(5)]})
    pair = (torch.tensor(2.0), {"b": torch.randn(5)})
    expected = model(batch, torch.ones(5), pair=pair, flag=False)
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES)
    placed = Batch(batch.image.to("fxsim:1"), {"shifts": [batch.extra["shifts"][0].to("fxsim:4")]})
    moved = (pair[0], {"b": pair[1]["b"].to("fxsim:0")})  # type: ignore[attr-defined, index]
    out = model(placed, torch.ones(5), pair=moved, flag=False)
    assert_equal_outputs(out, expected)
    # The first tensor among the inputs says where the caller is.
    assert out["scores"].logits.device == torch.device("fxsim:1")


@pytest.mark.parametrize("device", ["cpu", "fxsim:0", "fxsim:1", "fxsim:6"])
def test_results_come_back_to_the_inputs_device(device: str) -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES)
    out = model(x.to(device))
    assert out.device == torch.device(device)
    assert_same(out, expected)


@pytest.mark.parametrize("output_device", ["cpu", "fxsim:0", 1, 7])
def test_output_device(output_device: int | str) -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES, output_device=output_device)
    wanted = torch.device("fxsim", output_device) if output_device in (1, 7) else output_device
    for device in ("cpu", "fxsim:0"):
        out = model(x.to(device))
        assert out.device == torch.device(wanted)  # type: ignore[arg-type]
        assert_same(out, expected)


def test_without_tensors_among_the_inputs_results_stay() -> None:
    class Constant(TwoLayers):
        def forward(self, num_rows: int) -> Tensor:  # type: ignore[override]
            out: Tensor = self.second(self.first(torch.ones(num_rows, 4)))
            return out

    model = Constant()
    expected = model(3)
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES)
    out = model(3)
    assert out.device == torch.device("fxsim:1")
    assert_same(out, expected)


# Options.


@pytest.mark.parametrize(
    ("device_map", "expected"),
    [
        ({"": "fxsim:1"}, [1, 1, 1, 1]),
        ({"": 0, "second": 1}, [0, 0, 1, 1]),
        ({"first": torch.device("privateuseone:1"), "second": "fxsim:0"}, [1, 1, 0, 0]),
        ({"first": 0, "first.weight": 1, "second": 0}, [1, 0, 0, 0]),
    ],
)
def test_device_map(device_map: dict[str, Any], expected: list[int]) -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    result = model(x)
    fxdevice.compile(model, PAIR, inner="eager", device_map=device_map)
    assert_same(model(x), result)
    assert slots_of(model) == expected


def test_strategy_single_uses_the_first_slot() -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    fxdevice.compile(model, [3, 1], inner="eager", strategy="single")
    assert_same(model(x), expected)
    assert slots_of(model) == [3] * 4


@pytest.mark.parametrize("limits", [{0: 350, 1: 350}, {0: "250B", "fxsim:1": "1KB"}])
def test_max_memory_decides_where_state_goes(limits: dict[Any, Any]) -> None:
    """Without gradients: state takes 172 bytes; values and their transfers need some more."""
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    with torch.no_grad():
        fxdevice.compile(model, PAIR, inner="eager", max_memory=limits)
        assert_same(model(x), expected)
    used = {0: 0, 1: 0}
    for parameter in model.parameters():
        assert parameter.device.index is not None
        used[parameter.device.index] += parameter.numel() * 4
    assert sum(used.values()) == 172
    assert used[0] < 250


def test_memory_for_gradients_is_asked_only_where_there_are_some() -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    options: dict[str, Any] = {"inner": "eager", "strategy": "pipeline", "device_map": {"": 0}}
    fxdevice.compile(model, [0, 1], max_memory={0: 360}, **options)
    with pytest.raises(fxdevice.PlacementError, match=r"slot 0 .* allows 360 B and needs 5\d\d B"):
        model(x)
    with torch.no_grad():
        assert_same(model(x), expected)


def test_two_slots_on_one_device() -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    fxdevice.compile(model, [2, 2], inner="eager", strategy="pipeline")
    assert_same(model(x), expected)
    assert slots_of(model) == [2] * 4
    assert len(fxdevice.report(model).devices) == 2


def test_dynamic_false_compiles_a_graph_a_shape() -> None:
    counts = {}
    for dynamic in (False, True):
        model = fxdevice.compile(
            TwoLayers(), PAIR, inner="eager", strategy="pipeline", dynamic=dynamic
        )
        with torch.no_grad():
            for size in (2, 3, 5):
                model(torch.randn(size, 4))
        counts[dynamic] = len(fxdevice.report(model).graphs)
    assert counts == {False: 3, True: 1}


def test_shapes_in_turn_equal_eager() -> None:
    class Attends(TwoLayers):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            weights = (hidden @ hidden.transpose(-1, -2)).softmax(-1)
            out: Tensor = self.second(weights @ hidden + torch.arange(x.shape[1])[:, None])
            return out

    plain = Attends().double()
    model = copy.deepcopy(plain)
    fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES)
    for batch, length in [(2, 3), (1, 3), (2, 5), (3, 1), (4, 7), (2, 3)]:
        x = torch.randn(batch, length, 4, dtype=torch.float64)
        for each in (plain, model):
            each.zero_grad()
            each(x).square().sum().backward()
        assert_same(model(x), plain(x))
        assert_same(gradients(model), gradients(plain))
    forwards = [g for g in fxdevice.report(model).graphs if g.label == "forward"]
    assert 2 <= len(forwards) <= 4


# Methods other than forward.


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 5)
        self.body = nn.Sequential(nn.Linear(5, 5), nn.Tanh())
        self.head = nn.Linear(5, 3)

    def encode(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.body(self.embed(x)) * 2
        return hidden

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.encode(x))
        return out


@pytest.mark.parametrize("top_first", [False, True])
def test_methods_and_submodules_can_be_called_directly(top_first: bool) -> None:
    plain = Encoder()
    model = fxdevice.compile(copy.deepcopy(plain), PAIR, inner="eager", strategy="pipeline")
    x = torch.randn(2, 4)
    if top_first:
        assert_same(model(x), plain(x))
    encoded = model.encode(x)
    assert encoded.device.type == "cpu"
    assert_same(encoded, plain.encode(x))
    assert_same(model.head(encoded), plain.head(plain.encode(x)))
    assert_same(model.body[0](torch.ones(5)), plain.body[0](torch.ones(5)))
    assert_same(model(x), plain(x))
    assert set(slots_of(model)) <= {0, 1}
    # Trained through the method.
    model.head(model.encode(x)).sum().backward()
    plain(x).sum().backward()
    assert_same(gradients(model), gradients(plain))


# Functions.


def test_function_of_tensors() -> None:
    def function(x: Tensor, *, y: Tensor) -> tuple[Tensor, Tensor]:
        return (x @ y).relu().sum(0), x + y

    x, y = torch.randn(3, 3), torch.randn(3, 3)
    compiled = fxdevice.compile(function, PAIR, inner="eager", strategy="pipeline")
    out = compiled(x, y=y)
    assert type(out) is tuple
    assert_same(out, function(x, y=y))
    assert {t.device.type for t in out} == {"cpu"}
    assert fxdevice.restore(compiled) is function
    assert fxdevice.report(compiled).name == "function"


def test_decorator_with_options() -> None:
    @functools.partial(fxdevice.compile, devices=PAIR, inner="eager")
    def twice(x: Tensor) -> Tensor:
        return x * 2

    assert twice(torch.ones(3)).tolist() == [2.0] * 3


def test_function_over_a_module_trains_it_where_it_is() -> None:
    """The parameters stay with the caller; copies on the slots are refreshed when they change."""
    plain = TwoLayers().double()
    model = copy.deepcopy(plain)
    scale = nn.Parameter(torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    own = copy.deepcopy(scale)

    def loss(x: Tensor) -> Tensor:
        value: Tensor = (model(x) * scale).square().mean()
        return value

    compiled = fxdevice.compile(loss, PAIR, inner="eager", strategy="pipeline")
    optimizer = torch.optim.AdamW([*model.parameters(), scale], lr=0.05)
    expected_optimizer = torch.optim.AdamW([*plain.parameters(), own], lr=0.05)
    for _ in range(4):
        x = torch.randn(2, 4, dtype=torch.float64)
        optimizer.zero_grad()
        value = compiled(x)
        value.backward()
        optimizer.step()
        expected_optimizer.zero_grad()
        expected = (plain(x) * own).square().mean()
        expected.backward()
        expected_optimizer.step()
        assert_same(value, expected)
        assert_same(gradients(model), gradients(plain))
        assert_same(scale.grad, own.grad)
    assert {p.device.type for p in (*model.parameters(), scale)} == {"cpu"}
    devices = {t.destination for t in fxdevice.report(compiled).transfers() if t.is_resident}
    assert devices == {"fxsim:0", "fxsim:1"}


def test_bound_methods_and_callable_objects() -> None:
    class Affine:
        def __init__(self) -> None:
            self.weight = torch.randn(3, 3)

        def apply(self, x: Tensor) -> Tensor:
            out: Tensor = x @ self.weight
            return out

        __call__ = apply

    affine = Affine()
    x = torch.randn(2, 3)
    expected = affine.apply(x)
    assert_same(
        fxdevice.compile(affine.apply, PAIR, inner="eager", strategy="pipeline")(x), expected
    )
    compiled = fxdevice.compile(affine, PAIR, inner="eager", strategy="pipeline")
    assert_same(compiled(x), expected)
    affine.weight.mul_(2)
    assert_same(compiled(x), expected * 2)


# Threads.


def in_threads(*targets: Callable[[], None]) -> None:
    """Runs all at once; an error in one is raised here."""
    errors: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.skipif(
    torch.__version__ < "2.13", reason="torch.compile itself fails when two threads trace there"
)
def test_two_models_in_two_threads() -> None:
    plain = [TwoLayers() for _ in range(2)]
    models = [copy.deepcopy(each) for each in plain]
    fxdevice.compile(models[0], [0, 1], inner="eager", device_map=HALVES)
    fxdevice.compile(models[1], [3, 2], inner="eager", device_map={"first": 3, "second": 2})
    results: list[list[Tensor]] = [[], []]
    start = threading.Barrier(2)

    def run(index: int) -> None:
        start.wait()
        for size in (2, 3, 4, 5):
            x = torch.full((size, 4), float(size))
            out = models[index](x)
            out.sum().backward()
            results[index].append(on_cpu(out))

    in_threads(lambda: run(0), lambda: run(1))
    for index in range(2):
        for size, result in zip((2, 3, 4, 5), results[index], strict=True):
            out = plain[index](torch.full((size, 4), float(size)))
            out.sum().backward()
            assert_same(result, out)
        assert_same(gradients(models[index]), gradients(plain[index]))
    assert [slots_of(model) for model in models] == [[0, 0, 1, 1], [3, 3, 2, 2]]


# The default inner compiler, on CPU slots.


@pytest.mark.slow
def test_inductor_on_two_cpu_slots_trains() -> None:
    plain = TwoLayers()
    model = fxdevice.compile(copy.deepcopy(plain), ["cpu", "cpu"], device_map=HALVES)
    for size in (2, 3):
        x = torch.randn(size, 4)
        for each in (plain, model):
            each.zero_grad()
            each(x).square().sum().backward()
        torch.testing.assert_close(gradients(model), gradients(plain))
    assert fxdevice.report(model).inner == "inductor"
