"""Eager code with values on several devices gives what it gives on one, in backward as well."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.align import AlignEager, unaligned
from fxdevice.records import Records
from fxdevice.state import ModuleState
from tests.two_slots import DEVICES, TwoLayers, assert_same, gradients, on_cpu

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def aligning(state: ModuleState | None = None) -> AlignEager:
    return AlignEager(DEVICES, state, Records())


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# Each entry: a function, and its inputs on the CPU. In the tests they lie on several devices.
CASES: dict[str, tuple[Callable[..., Tensor], Callable[[], tuple[Tensor, ...]]]] = {
    "add": (lambda a, b: a + b, lambda: (floats(3, 4), floats(4))),
    "reflected": (lambda a, b: b.__rsub__(a), lambda: (floats(3), floats(3))),
    "cat": (lambda a, b, c: torch.cat([a, b, c]), lambda: (floats(2), floats(3), floats(1))),
    "stack in a tuple": (lambda a, b: torch.stack((a, b), dim=1), lambda: (floats(2), floats(2))),
    "where": (lambda a, b: torch.where(a > 0, a, b), lambda: (floats(5), floats(5))),
    "where mask": (lambda m, a: torch.where(m, a, 0.0), lambda: (floats(5) > 0, floats(5))),
    "linear": (F.linear, lambda: (floats(2, 3), floats(4, 3), floats(4))),
    "embedding": (F.embedding, lambda: (torch.tensor([2, 0, 2]), floats(3, 4))),
    "embedding_bag": (
        lambda i, w: F.embedding_bag(i, w, mode="sum"),
        lambda: (torch.tensor([[2, 0], [1, 1]]), floats(3, 4)),
    ),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, (3,), w, b),
        lambda: (floats(2, 3), floats(3), floats(3)),
    ),
    "group_norm by keyword": (
        lambda x, w, b: F.group_norm(x, 2, weight=w, bias=b),
        lambda: (floats(2, 4, 3), floats(4), floats(4)),
    ),
    "attention": (
        F.scaled_dot_product_attention,
        lambda: (floats(1, 2, 3, 4), floats(1, 2, 5, 4), floats(1, 2, 5, 4), floats(3, 5)),
    ),
    "conv": (F.conv1d, lambda: (floats(1, 2, 5), floats(3, 2, 2), floats(3))),
    "bilinear": (F.bilinear, lambda: (floats(2, 3), floats(2, 4), floats(5, 3, 4))),
    "cross_entropy": (F.cross_entropy, lambda: (floats(3, 4), torch.tensor([1, 0, 3]))),
    "einsum": (lambda a, b: torch.einsum("ij,jk->ik", a, b), lambda: (floats(2, 3), floats(3, 2))),
    "einsum of a list": (
        lambda a, b: torch.einsum("ij,jk->ik", [a, b]),
        lambda: (floats(2, 3), floats(3, 2)),
    ),
    "index_select": (lambda a, i: a.index_select(0, i), lambda: (floats(3), torch.tensor([2, 0]))),
    "gather": (lambda a, i: a.gather(0, i), lambda: (floats(3), torch.tensor([2, 0]))),
    "take items": (lambda a, i: a[:, i], lambda: (floats(2, 3), torch.tensor([2, 0]))),
    "take by two": (
        lambda a, i, j: a[i, None, j],
        lambda: (floats(3, 3), torch.tensor([2, 0]), torch.tensor([1, 1])),
    ),
    "take by mask": (lambda a, m: a[m], lambda: (floats(4), torch.tensor([1, 0, 1, 1]).bool())),
    "masked_fill": (
        lambda a, m: a.masked_fill(m, 3.0),
        lambda: (floats(3), torch.tensor([1, 0, 1]).bool()),
    ),
    "scatter": (
        lambda a, i, s: a.scatter(0, i, s),
        lambda: (floats(4), torch.tensor([3, 0]), floats(2)),
    ),
    "lerp": (torch.lerp, lambda: (floats(3), floats(3), floats(3))),
    "norm of two": (lambda a, b: torch.dist(a, b), lambda: (floats(3), floats(3))),
    "meshgrid": (
        lambda a, b: torch.stack(torch.meshgrid(a, b, indexing="ij")),
        lambda: (floats(2), floats(3)),
    ),
    # What writes: the target stays where it is.
    "add_": (lambda a, b: a.clone().add_(b), lambda: (floats(3), floats(3))),
    "+=": (lambda a, b: _augmented(a.clone(), b), lambda: (floats(3), floats(3))),
    "addcmul_": (lambda a, b, c: a.clone().addcmul_(b, c), lambda: (floats(3),) * 3),
    "scatter_": (
        lambda a, i, s: a.clone().scatter_(0, i, s),
        lambda: (floats(4), torch.tensor([3, 0]), floats(2)),
    ),
    "index_put_": (
        lambda a, i, s: a.clone().index_put_((i,), s, accumulate=True),
        lambda: (floats(4), torch.tensor([3, 3]), floats(2)),
    ),
    "index_add_": (
        lambda a, i, s: a.clone().index_add_(0, i, s),
        lambda: (floats(4), torch.tensor([3, 3]), floats(2)),
    ),
    "masked_scatter_": (
        lambda a, m, s: a.clone().masked_scatter_(m, s),
        lambda: (floats(3), torch.tensor([1, 0, 1]).bool(), floats(3)),
    ),
    "set items": (
        lambda a, i, v: _set_items(a.clone(), i, v),
        lambda: (floats(4), torch.tensor([3, 0]), floats(2)),
    ),
    "set by mask": (
        lambda a, m, v: _set_items(a.clone(), m, v),
        lambda: (floats(3), torch.tensor([1, 0, 1]).bool(), floats(2)),
    ),
    "set a slice": (
        lambda a, v: _set_items(a.clone(), slice(1, 3), v),
        lambda: (floats(4), floats(2)),
    ),
    "write into a view": (lambda a, v: _into_a_view(a, v), lambda: (floats(2, 3), floats(2))),
    "copy_": (lambda a, b: a.clone().copy_(b), lambda: (floats(3), floats(3))),
}


def _augmented(a: Tensor, b: Tensor) -> Tensor:
    a += b
    a *= b
    return a


def _set_items(a: Tensor, index: Any, value: Tensor) -> Tensor:
    a[index] = value
    return a


def _into_a_view(a: Tensor, v: Tensor) -> Tensor:
    whole = a * 2
    whole[:, 1].mul_(v)
    whole.t()[0] += v
    return whole


LAYOUTS = {
    "slot 0 first": (DEVICES[0], DEVICES[1]),
    "slot 1 first": (DEVICES[1], DEVICES[0]),
    "CPU first": (CPU, DEVICES[1]),
    "CPU last": (DEVICES[0], CPU),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", CASES)
def test_operations_and_their_gradients(name: str, layout: str) -> None:
    function, make = CASES[name]
    values = make()

    def prepared(devices: tuple[torch.device, ...]) -> list[Tensor]:
        placed = [
            value.clone().to(devices[i % 2]) if value.dim() else value.clone()
            for i, value in enumerate(values)
        ]
        return [p.requires_grad_() if p.is_floating_point() else p for p in placed]

    plain = prepared((CPU, CPU))
    expected = function(*plain)
    placed = prepared(LAYOUTS[layout])
    with aligning():
        result = function(*placed)
    writes = name.endswith(("_", "=")) or "set" in name or "write" in name
    if writes:
        assert result.device == placed[0].device
    assert_same(result, expected)
    weights = torch.arange(1.0, 1.0 + expected.numel(), dtype=torch.float64).view_as(expected)
    (expected * weights).sum().backward()
    # Outside of the mode, as the backward of a model is.
    (result * weights.to(result.device)).sum().backward()
    compared = 0
    for mine, original in zip(placed, plain, strict=True):
        if original.grad is not None:
            assert mine.grad is not None
            assert mine.grad.device == mine.device
            assert_same(mine.grad, original.grad)
            compared += 1
    assert compared >= 1


def test_results_written_to_out() -> None:
    a, b = torch.ones(3, device=DEVICES[0]), torch.ones(3, device=DEVICES[0])
    total, values = torch.zeros(3, device=DEVICES[1]), torch.zeros((), device=DEVICES[1])
    index = torch.zeros((), dtype=torch.int64, device=DEVICES[1])
    with aligning():
        torch.add(a, b, out=total)
        torch.max(torch.arange(3.0, device=DEVICES[0]), 0, out=(values, index))
    assert total.tolist() == [2.0] * 3
    assert (values.item(), index.item()) == (2.0, 2)


def test_statistics_of_batch_norm_are_updated() -> None:
    plain, norm = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    norm.to(DEVICES[1])
    x = torch.randn(4, 3)
    for layout in (DEVICES[0], CPU):
        with aligning():
            out = norm(x.to(layout))
        assert_same(out, plain(x))
        assert_same(dict(norm.named_buffers()), dict(plain.named_buffers()))


def test_numbers_on_the_cpu_stay_there() -> None:
    """PyTorch takes a 0-dim CPU tensor as a number on any device."""
    x = torch.ones(3, device=DEVICES[1])
    records = Records()
    with AlignEager(DEVICES, None, records), sim.record() as recording:
        y = (x * torch.tensor(2.0)).add_(torch.tensor(1.0))
    assert y.tolist() == [3.0] * 3
    assert y.device == DEVICES[1]
    assert recording.stats.num_copies == 0
    assert records.num_alignments == 0
    assert records.num_eager_operations == 2


def test_a_number_on_a_slot_follows_the_tensor() -> None:
    x, number = torch.ones(3, device=DEVICES[1]), torch.tensor(2.0, device=DEVICES[0])
    with aligning():
        assert (number * x).device == DEVICES[1]
        assert (number * torch.ones(3)).tolist() == [2.0] * 3
        assert x.mul_(number).tolist() == [2.0] * 3


def test_indices_on_the_cpu_are_not_transferred() -> None:
    def read_and_write(x: Tensor, index: Tensor) -> Tensor:
        taken = x[index]
        x[index] = taken * 2
        return x

    counts = []
    for mode in (contextlib.nullcontext(), aligning()):
        x = torch.arange(4.0, device=DEVICES[1])
        with mode, sim.record() as recording:
            read_and_write(x, torch.tensor([3, 1]))
        counts.append(recording.stats.num_copies)
        assert x.tolist() == [0.0, 2.0, 2.0, 6.0]
    # What the operators of the device itself read from the CPU.
    assert counts[1] == counts[0]


def test_what_crosses_devices_on_purpose_is_left_alone() -> None:
    x = torch.ones(3, device=DEVICES[0], requires_grad=True)
    y = torch.zeros(3, device=DEVICES[1])
    with aligning():
        assert x.to(y).device == DEVICES[1]
        assert x.type_as(y).device == DEVICES[1]
        y.copy_(x.detach())
        (x * 2).to(DEVICES[1]).sum().backward()
        x.grad = x.grad
    assert y.tolist() == [1.0] * 3
    assert x.grad is not None
    assert x.grad.device == DEVICES[0]


def test_recurrent_layers_keep_lengths_on_the_cpu() -> None:
    lstm = nn.LSTM(3, 4, batch_first=True)
    x, lengths = torch.randn(2, 5, 3), torch.tensor([5, 2])

    def run(lstm: nn.LSTM, x: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        out, _ = nn.utils.rnn.pad_packed_sequence(lstm(packed)[0], batch_first=True)
        return out

    expected = run(lstm, x)
    placed = copy.deepcopy(lstm).to(DEVICES[1])
    with aligning():
        result = run(placed, x.to(DEVICES[0]))
    assert_same(result, expected)


class Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        return grad * b, grad * a


def test_functions_with_a_backward_of_their_own() -> None:
    plain = [floats(3).requires_grad_() for _ in range(2)]
    Multiply.apply(*plain).sum().backward()
    placed = [p.detach().to(d).requires_grad_() for p, d in zip(plain, DEVICES, strict=True)]
    with aligning():
        result = Multiply.apply(*placed)
    assert_same(result, plain[0] * plain[1])
    result.sum().backward()
    for mine, original in zip(placed, plain, strict=True):
        assert mine.grad is not None
        assert mine.grad.device == mine.device
        assert_same(mine.grad, original.grad)
    # Outside of the mode nothing is aligned.
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        Multiply.apply(*placed)


@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")
def test_functions_with_a_backward_of_their_own_are_captured() -> None:
    """The wrapper that aligns them is no obstacle to Dynamo."""
    with aligning():
        pass
    a, b = (floats(3).requires_grad_() for _ in range(2))
    compiled = torch.compile(
        lambda a, b: Multiply.apply(a, b) + 1, backend="aot_eager", fullgraph=True
    )
    result = compiled(a, b)
    assert_same(result, a * b + 1)
    result.sum().backward()
    assert_same(a.grad, b)


def test_state_used_first_by_eager_code_becomes_resident() -> None:
    model = TwoLayers()
    state = ModuleState(model, DEVICES, {"second": 1, "first": 0}, (None, None))
    x = torch.randn(2, 4)
    expected = model(x)
    records = Records()
    with AlignEager(DEVICES, state, records):
        assert_same(model(x), expected)
        assert [p.device for p in model.parameters()] == [*DEVICES[:1] * 2, *DEVICES[1:] * 2]
        with sim.record() as recording:
            model(x)
    # The input, and the hidden value.
    assert recording.stats.num_copies == 2
    assert records.eager_state == {*dict(model.named_parameters())}


def test_an_error_of_the_code_comes_through() -> None:
    with aligning(), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        torch.ones(2, 3, device=DEVICES[0]) @ torch.ones(2, 3, device=DEVICES[1])
    # And the mode is off again.
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        torch.ones(2, device=DEVICES[0]) + torch.ones(2, device=DEVICES[1])


class Uncaptured(nn.Module):
    """Most of it runs outside of graphs, as OmniLMM's splicing of images does."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.image = nn.Linear(3, 4)
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.embed.weight
        self.positions = torch.arange(40.0).view(10, 4) / 40

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def splice(self, tokens: Tensor, image: Tensor) -> Tensor:
        embedded = self.embed(tokens) + self.positions[: tokens.shape[1]]
        rows = embedded[0].clone()
        index = torch.arange(1, 1 + image.shape[0])[:, None].repeat(1, 4)
        rows.scatter_(0, index, self.image(image))
        return torch.stack([rows, *embedded[1:]])

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        hidden = torch.tanh(self.layer(self.splice(tokens, image)))
        torch._dynamo.graph_break()
        logits: Tensor = self.head(hidden)
        return logits


# torch._dynamo hides the warning of PyTorch that it causes, unless warnings are errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("embedding", [0, 1])
def test_training_a_model_with_uncaptured_code(embedding: int) -> None:
    plain = Uncaptured().double()
    plain.positions = plain.positions.double()
    model = copy.deepcopy(plain)
    device_map = {"embed": embedding, "image": 1 - embedding, "layer": 1}
    fxdevice.compile(model, [0, 1], inner="eager", device_map=device_map)
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.5) for m in (plain, model)]
    for _ in range(3):
        image = floats(2, 3)
        losses = []
        for each, optimizer in zip((plain, model), optimizers, strict=True):
            optimizer.zero_grad()
            loss = F.cross_entropy(each(tokens, image).flatten(0, 1), tokens.flatten())
            loss.backward()
            losses.append(loss.detach())
            optimizer.step()
        assert_same(losses[1], losses[0])
        assert_same(gradients(model), gradients(plain))
    assert_same(on_cpu(model.state_dict()), plain.state_dict())
    assert model.head.weight is model.embed.weight
    assert model.embed.weight.device.index == embedding
    report = fxdevice.report(model)
    assert report.num_eager_operations > 0
    assert {"embed", "image"} <= set(report.uncaptured)


def test_a_compiled_graph_runs_with_the_alignment_set_aside() -> None:
    a, b = floats(3).to(DEVICES[0]), floats(3).to(DEVICES[1])

    def graph(a: Tensor, b: Tensor) -> Tensor:
        with pytest.raises(RuntimeError, match="same device"):
            a + b
        return b

    with aligning():
        unaligned(graph)(a, b)
        assert_same(a + b, on_cpu(a) + on_cpu(b))
        with pytest.raises(ValueError, match="from the graph"):
            unaligned(_raise)()
        assert_same(a + b, on_cpu(a) + on_cpu(b))
    with pytest.raises(RuntimeError, match="same device"):
        a + b
    assert unaligned(lambda x: x)(a) is a


def _raise() -> None:
    raise ValueError("from the graph")


def test_a_mode_of_the_user_is_not_set_aside() -> None:
    x, seen = torch.ones(2), []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with aligning(), Watching():
        unaligned(torch.sin)(x)
    assert seen == [torch.sin]
