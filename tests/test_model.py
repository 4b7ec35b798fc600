"""A compiled module is the module that it was: to optimizers, hooks, checkpoints and copies."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.model import CompiledModel, ModuleCall, compiled_model_of
from tests.two_slots import HALVES, TwoLayers, assert_same, gradients, on_cpu

PAIR = [0, 1]


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def halves(model: nn.Module, **options: Any) -> nn.Module:
    """Compiles a model of two layers for two slots, one layer on each."""
    return fxdevice.compile(model, PAIR, inner="eager", device_map=HALVES, **options)


def slots_of(model: nn.Module) -> list[int | None]:
    return [parameter.device.index for parameter in model.parameters()]


def test_class_keys_and_parameters_stay() -> None:
    model = TwoLayers()
    parameters = dict(model.named_parameters())
    keys = list(model.state_dict())
    assert halves(model) is model
    model(torch.randn(2, 4))
    assert type(model) is TwoLayers
    assert list(model.state_dict()) == keys
    assert {n: id(p) for n, p in model.named_parameters()} == {
        n: id(p) for n, p in parameters.items()
    }
    assert slots_of(model) == [0, 0, 1, 1]
    assert [type(child) for child in model.children()] == [nn.Linear, nn.Linear]


def sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01)


def adamw(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.01)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Tensor]
) -> list[float]:
    losses = []
    for x in batches:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("make_optimizer", [sgd, adamw])
@pytest.mark.parametrize("made", ["before", "after the call", "between"])
def test_training_steps_equal_eager(
    make_optimizer: Callable[..., torch.optim.Optimizer], made: str
) -> None:
    plain = TwoLayers().double()
    model = copy.deepcopy(plain)
    batches = [torch.randn(3, 4, dtype=torch.float64) for _ in range(4)]
    if made == "before":
        optimizer = make_optimizer(model.parameters())
    halves(model)
    if made == "between":
        optimizer = make_optimizer(model.parameters())
    if made == "after the call":
        model(batches[0])
        optimizer = make_optimizer(model.parameters())
    losses = train(model, optimizer, batches)
    expected = train(plain, make_optimizer(plain.parameters()), batches)
    assert losses == pytest.approx(expected, rel=1e-12)
    assert losses[-1] < losses[0]
    torch.testing.assert_close(on_cpu(model.state_dict()), plain.state_dict(), rtol=1e-12, atol=0)
    assert slots_of(model) == [0, 0, 1, 1]


def test_train_and_eval() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(1.0), nn.Linear(4, 2))
    x = torch.randn(3, 4)
    with torch.no_grad():
        when_training, in_eval = model(x), model.eval()(x)
    assert not torch.equal(when_training, in_eval)
    fxdevice.compile(model, PAIR, inner="eager", strategy="pipeline")
    for _ in range(2):
        assert_same(model.train()(x), when_training)
        assert_same(model.eval()(x), in_eval)


def test_a_copy_made_before_is_not_affected() -> None:
    original = TwoLayers()
    duplicate = copy.deepcopy(original)
    x = torch.randn(2, 4)
    expected = duplicate(x)
    halves(original)(x)
    assert duplicate._compiled_call_impl is None
    assert {p.device.type for p in duplicate.parameters()} == {"cpu"}
    assert torch.equal(duplicate(x), expected)


def pickled(model: nn.Module) -> nn.Module:
    loaded: nn.Module = pickle.loads(pickle.dumps(model))
    return loaded


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)
    return loaded


@pytest.mark.parametrize("duplicate", [copy.deepcopy, pickled, saved])
def test_a_copy_made_after_is_a_plain_module_where_the_state_was(
    duplicate: Callable[[nn.Module], nn.Module],
) -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x).detach()
    halves(model)(x)
    other = duplicate(model)
    assert type(other) is TwoLayers
    assert compiled_model_of(other) is None
    assert slots_of(other) == [0, 0, 1, 1]
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        other(x)
    assert_same(halves(other)(x), expected)
    with torch.no_grad():
        other.get_parameter("first.weight").zero_()
    assert_same(model(x), expected)


def test_a_restored_model_can_be_copied_and_called() -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    expected = model(x)
    halves(model)(x)
    fxdevice.restore(model)
    assert torch.equal(copy.deepcopy(model)(x), expected)


@pytest.mark.parametrize("assign", [False, True])
def test_checkpoints_load_before_and_after_the_first_call(assign: bool) -> None:
    x = torch.randn(2, 4)
    model = halves(TwoLayers())
    for _ in range(2):
        other = TwoLayers()
        model.load_state_dict(other.state_dict(), assign=assign)
        assert_same(model(x), other(x))
    assert slots_of(model) == [0, 0, 1, 1]
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    plain = TwoLayers()
    plain.load_state_dict(torch.load(file, map_location="cpu"))
    assert_same(plain(x), other(x))


# torch._dynamo hides the warning of PyTorch that it causes, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_hooks_fire_as_often_as_on_the_plain_module() -> None:
    def hooked(model: TwoLayers) -> tuple[TwoLayers, list[str]]:
        seen: list[str] = []
        model.register_forward_pre_hook(lambda *_: seen.append("before"))
        model.first.register_forward_hook(lambda *_: seen.append("first"))
        model.second.register_full_backward_hook(lambda *_: seen.append("second backward"))
        model.second.weight.register_hook(lambda _: seen.append("gradient"))
        model.first.bias.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
        return model, seen

    plain, expected = hooked(TwoLayers())
    model, seen = hooked(copy.deepcopy(TwoLayers()))
    halves(model)
    x = torch.randn(2, 4)
    for _ in range(2):
        plain(x).sum().backward()
        model(x).sum().backward()
    assert sorted(seen) == sorted(expected)
    assert len(seen) == 10


def test_a_forward_hook_can_replace_the_result() -> None:
    model = TwoLayers()
    model.first.register_forward_hook(lambda _module, _args, result: result * 2)
    x = torch.randn(2, 4)
    expected = model(x)
    assert_same(halves(model, fullgraph=True)(x), expected)


def test_a_parameter_hook_changes_the_gradient() -> None:
    plain = TwoLayers()
    model = copy.deepcopy(plain)
    x = torch.randn(2, 4)
    plain(x).sum().backward()
    model.first.weight.register_hook(lambda grad: grad * 3)
    halves(model)(x).sum().backward()
    expected = gradients(plain)
    expected["first.weight"] *= 3
    assert_same(gradients(model), expected)


def test_gradients_accumulate_and_are_reset() -> None:
    plain = TwoLayers().double()
    model = halves(copy.deepcopy(plain))
    batches = [torch.randn(3, 4, dtype=torch.float64) for _ in range(3)]
    for x in batches[:2]:
        for each in (plain, model):
            each(x).sum().backward()
    assert_same(gradients(model), gradients(plain))
    for set_to_none in (True, False):
        for each in (plain, model):
            each.zero_grad(set_to_none=set_to_none)
            each(batches[2]).sum().backward()
        assert_same(gradients(model), gradients(plain))


def test_gradient_of_the_input_arrives_on_its_own_device() -> None:
    plain = TwoLayers()
    model = halves(copy.deepcopy(plain))
    value = torch.randn(2, 4)
    expected = value.clone().requires_grad_()
    plain(expected).sum().backward()
    for device in ("cpu", "fxsim:0", "fxsim:1", "fxsim:5"):
        x = value.clone().to(device).requires_grad_()
        out = model(x)
        assert out.device == x.device
        out.sum().backward()
        assert x.grad is not None
        assert x.grad.device == x.device
        assert_same(x.grad, expected.grad)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_and_with_them_in_turn(mode: Callable[[], Any]) -> None:
    plain = TwoLayers()
    model = halves(copy.deepcopy(plain))
    x = torch.randn(2, 4)
    for _ in range(2):
        with mode():
            out = model(x)
            assert not out.requires_grad
            assert_same(out, plain(x))
        out = model(x)
        assert out.requires_grad
        model.zero_grad()
        plain.zero_grad()
        out.sum().backward()
        plain(x).sum().backward()
        assert_same(gradients(model), gradients(plain))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = TwoLayers().to(dtype)
    x = torch.randn(2, 4, dtype=dtype)
    expected = model(x)
    out = halves(model)(x)
    assert out.dtype == dtype
    assert torch.equal(out, expected)


def test_a_frozen_part_gets_no_gradient() -> None:
    plain = TwoLayers()
    plain.first.requires_grad_(False)
    model = halves(copy.deepcopy(plain))
    x = torch.randn(2, 4)
    for each in (plain, model):
        each(x).sum().backward()
    assert model.get_parameter("first.weight").grad is None
    assert_same(gradients(model.second), gradients(plain.second))  # type: ignore[arg-type]
    # Thawed later, as in fine-tuning.
    for each in (plain, model):
        each.requires_grad_(True)
        each(x).sum().backward()
    assert_same(gradients(model), gradients(plain))


def test_every_module_gets_a_call_and_loses_it() -> None:
    model = TwoLayers()
    halves(model)
    calls = [child._compiled_call_impl for child in model.modules()]
    assert all(isinstance(call, ModuleCall) for call in calls)
    assert isinstance(compiled_model_of(model), CompiledModel)
    assert compiled_model_of(model.first) is compiled_model_of(model)
    fxdevice.restore(model)
    assert [child._compiled_call_impl for child in model.modules()] == [None] * 3
    assert compiled_model_of(model) is None


def test_restore_brings_values_gradients_and_devices_back() -> None:
    model = TwoLayers()
    x = torch.randn(2, 4)
    halves(model)(x).sum().backward()
    expected_grads = gradients(model)
    expected = on_cpu(model(x))
    assert fxdevice.restore(model) is model
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert_same(gradients(model), expected_grads)
    assert torch.equal(model(x), expected)
    with pytest.raises(fxdevice.CompileOptionError, match="nothing to restore"):
        fxdevice.restore(model)
    # And once more, on other slots.
    fxdevice.compile(
        model, [3, 2], inner="eager", strategy="pipeline", device_map={"first": 3, "second": 2}
    )
    assert_same(model(x), expected)
    assert slots_of(model) == [3, 3, 2, 2]
