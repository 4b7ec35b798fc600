"""One test for each bug that was found with real models: what failed, and what caused it."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

import fxdevice
from fxdevice import sim
from fxdevice.errors import StateError
from tests.two_slots import SLOTS, assert_same, gradients


@pytest.fixture(autouse=True)
def two_simulated_devices() -> None:
    sim.enable(8)


class TwoLinears(nn.Module):
    """Layers `first` and `second`; inputs and results `[4, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)


def compiled(module: nn.Module, **options: Any) -> nn.Module:
    return fxdevice.compile(
        copy.deepcopy(module), devices=list(SLOTS), inner="eager", strategy="pipeline", **options
    )


def assert_trains_alike(module: nn.Module, *args: Any, **options: Any) -> None:
    """Asserts that `module` computes the same, forward and backward, as before compilation."""
    placed = fxdevice.compile(
        copy.deepcopy(module), devices=list(SLOTS), inner="eager", strategy="pipeline", **options
    )
    results = []
    for model in (module, placed):
        torch.manual_seed(1)
        results.append(model(*copy.deepcopy(args)))
        results[-1].sin().sum().backward()
    assert_same(results[1], results[0])
    assert_same(gradients(placed), gradients(module))


APART = {"first": 0, "second": 1}


def test_gradient_of_a_result_that_two_slots_made() -> None:
    """A tangent's transfer stood before the forward nodes, so the cut saved it in forward."""

    class Sum(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            total: Tensor = self.first(x) + self.second(x)
            return total

    assert_trains_alike(Sum(), torch.randn(4, 8), device_map=APART)


def test_dropout_in_a_recomputed_region() -> None:
    """The cut wrapped dropout in an operation without fake values that knows CUDA and CPU only."""

    class Recomputed(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            def region(x: Tensor) -> Tensor:
                dropped = nn.functional.dropout(self.first(x), 0.5)
                return torch.relu(self.second(dropped))

            hidden: Tensor = checkpoint(region, x, use_reentrant=False)
            again: Tensor = self.first(hidden)
            return again

    assert_trains_alike(Recomputed(), torch.randn(4, 8), device_map=APART)


def test_gradient_of_zeros_for_what_was_overwritten() -> None:
    """Zeros that backward makes from nothing counted as forward and were followed before made."""

    class Overwriting(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.first(x)
            table = torch.zeros(3, 8).index_add(0, torch.tensor([0, 2, 1, 0]), rows)
            table[0, :3] = 1
            overwritten: Tensor = self.second(table) + table
            return overwritten

    assert_trains_alike(Overwriting(), torch.randn(4, 8))


def test_gradient_of_an_input_that_a_later_graph_changed() -> None:
    """Its tangent was looked for where the new value was computed, not where the input is."""

    class Changing(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            torch._dynamo.graph_break()
            hidden.copy_(torch.relu(self.second(hidden.clone())))
            torch._dynamo.graph_break()
            doubled: Tensor = hidden * 2
            return doubled

    assert_trains_alike(Changing(), torch.randn(4, 8), device_map=APART)


class Chain(TwoLinears):
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.second(torch.relu(self.first(x)))
        return result


def test_parameters_that_the_caller_moved_in_place() -> None:
    """`Module.to` kept the parameter objects, so their old slots were believed."""
    module, x = Chain(), torch.randn(4, 8)
    placed = compiled(module, device_map=APART)
    placed(x)
    placed.to("fxsim:1")
    assert_same(placed(x), module(x))


def test_borrowed_parameters_stay_where_the_caller_has_them() -> None:
    """The tensors given to `functional_call` were moved in place, as if they were the module's."""
    module, x = Chain(), torch.randn(4, 8)
    lent = {name: 2 * value.detach() for name, value in module.named_parameters()}
    placed = compiled(module, device_map=APART)
    placed(x)
    result = torch.func.functional_call(placed, lent, (x,))
    assert {value.device.type for value in lent.values()} == {"cpu"}
    assert_same(result, torch.func.functional_call(module, lent, (x,)))


def test_first_call_inside_vmap() -> None:
    """Parameters cannot get contents that a functorch transform has wrapped."""
    module, x = Chain(), torch.randn(3, 4, 8)
    assert_same(torch.vmap(compiled(module))(x), torch.vmap(module)(x))


def test_memory_limits_of_inference_count_no_gradients() -> None:
    """Weights that just fit were refused: each parameter counted twice in `torch.no_grad` too."""
    module = nn.Sequential(*[nn.Linear(64, 64) for _ in range(8)])
    layer_bytes = 4 * 64 * 65
    limits = {0: 7 * layer_bytes, 1: 3 * layer_bytes}
    x = torch.randn(4, 64)
    with torch.no_grad():
        assert_same(compiled(module, max_memory=limits)(x), module(x))


def test_lazy_modules_are_refused_with_advice() -> None:
    """`numel` of a lazy parameter failed inside."""
    with pytest.raises(StateError, match=r"no shape yet.*Call the module once"):
        fxdevice.compile(nn.LazyLinear(3), devices=list(SLOTS))


# The comparison runs it uncompiled on purpose.
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention() -> None:
    """A higher-order operation that meets fake tensors has no schema to be asked about devices."""

    class Attention(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            def score(score: Tensor, b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
                return score + (row - column)

            found = flex_attention(self.first(x), self.second(x), x, score_mod=score)
            assert isinstance(found, Tensor)
            return found

    module, x = Attention(), torch.randn(1, 1, 4, 8)
    with torch.no_grad():
        assert_same(compiled(module)(x), module(x))


def test_numpy_arithmetic_in_forward() -> None:
    """Under a function mode Dynamo asked NumPy's arrays for the methods of tensors."""

    class Padded(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            length = np.array(12) - 2
            shares = 2 - np.arange(8.0) / length
            result: Tensor = self.first(x) + self.second(x) * torch.from_numpy(shares).float()
            return result

    assert_trains_alike(Padded(), torch.randn(4, 8), device_map=APART)


@pytest.mark.parametrize("first", [0, 1])
def test_random_numbers_of_independent_branches(first: int) -> None:
    """Only random operations of one device kept their order, but the devices share a generator."""

    class Branches(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            early = nn.functional.dropout(self.first(x), 0.5)
            late = nn.functional.dropout(self.second(x), 0.5)
            return torch.cat([early, late, torch.rand(4, 8)])

    pins = {"first": first, "second": 1 - first}
    assert_trains_alike(Branches(), torch.randn(4, 8), device_map=pins)


def test_checkpoint_around_a_compiled_model() -> None:
    """Recomputed uncaptured, as a checkpoint inside of the model is, it saved other tensors."""
    module, x = Chain(), torch.randn(4, 8)
    placed = compiled(module, device_map=APART)
    for model in (module, placed):
        checkpoint(model, x, use_reentrant=False).sin().sum().backward()
    assert_same(gradients(placed), gradients(module))


def test_buffer_that_is_one_float64() -> None:
    """Dynamo's request to trace again with the number as a constant was taken for a failure."""

    class Scaled(TwoLinears):
        def __init__(self) -> None:
            super().__init__()
            self.double()
            self.register_buffer("scale", torch.tensor(2.5, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.second(self.first(x) * self.scale)
            return result

    x = torch.randn(4, 8, dtype=torch.float64)
    assert_trains_alike(Scaled(), x, device_map=APART, fullgraph=True)


def test_module_converted_in_forward() -> None:
    """Asked whether `.data` can be set, a parameter that no graph had used yet was moved away."""

    class Router(TwoLinears):
        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            self.second = self.second.to(torch.float32)
            result: Tensor = self.second(hidden.to(torch.float32))
            return result

    module, x = Router().double(), torch.randn(4, 8, dtype=torch.float64)
    placed = compiled(module, device_map=APART)
    with torch.no_grad():
        assert_same(placed(x), module(x))


@pytest.mark.parametrize("trains", [False, True])
def test_compiled_model_that_is_given_up_is_freed(trains: bool) -> None:
    """Dynamo keeps every backend and every compiled graph of a live code object; both held it."""

    def use() -> weakref.ref[nn.Module]:
        model = compiled(Chain(), device_map=APART)
        result = model(torch.randn(4, 8))
        if trains:
            result.sum().backward()
        return weakref.ref(model)

    given_up = use()
    gc.collect()
    assert given_up() is None
