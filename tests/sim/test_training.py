"""Models on simulated devices give the values and gradients that they give on the CPU."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import fxdevice.sim as sim

assert_exact = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def assert_same_gradients(placed: nn.Module, plain: nn.Module) -> None:
    compared = 0
    for (name, here), there in zip(placed.named_parameters(), plain.parameters(), strict=True):
        assert here.grad is not None, name
        assert here.grad.device == here.device
        assert_exact(here.grad.cpu(), there.grad)
        compared += 1
    assert compared > 0


class Recurrent(nn.Module):
    """A recurrent layer over padded or packed sequences."""

    def __init__(self, layer: nn.RNNBase, packed: bool) -> None:
        super().__init__()
        self.layer, self.packed = layer, packed

    def forward(self, x: Tensor) -> Tensor:
        if not self.packed:
            return self.layer(x)[0]  # type: ignore[no-any-return]
        sequence = pack_padded_sequence(x, torch.tensor([4, 3, 1]), batch_first=True)
        return pad_packed_sequence(self.layer(sequence)[0], batch_first=True)[0]


class Attention(nn.Module):
    """Scaled dot product attention with what the options say."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.inward, self.options = nn.Linear(6, 36), options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.inward(x).view(3, 4, 2, 18).transpose(1, 2).chunk(3, -1)
        options = dict(self.options)
        if options.pop("masked", False):
            options["attn_mask"] = torch.ones(4, 4, dtype=torch.bool, device=x.device).tril()
        if options.pop("biased", False):
            options["attn_mask"] = x.sum(-1, keepdim=True).view(3, 1, 4, 1) * torch.ones(
                4, dtype=x.dtype, device=x.device
            )
        return F.scaled_dot_product_attention(q, k, v, **options)  # type: ignore[arg-type]


class Embedded(nn.Module):
    """Embedding, normalization and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(10, 6, padding_idx=0), nn.LayerNorm(6)
        self.bag = nn.EmbeddingBag(10, 6)

    def forward(self, x: Tensor) -> Tensor:
        tokens = (x[..., 0].abs() * 7).long() % 10
        embedded = self.embedding(tokens) + self.bag(tokens)[:, None]
        return F.linear(self.norm(embedded), self.embedding.weight)


def channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


MODELS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Conv1d(4, 3, 2, padding=1),
    "conv_grouped": lambda: nn.Conv1d(4, 8, 3, groups=2, stride=2, dilation=1),
    "conv2d": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3)),
    "conv3d": lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv3d(1, 2, 2)),
    "conv_transposed": lambda: nn.ConvTranspose1d(4, 6, 2, stride=2, output_padding=1, groups=2),
    "conv_channels_last": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)), channels_last(nn.Conv2d(2, 3, 2))
    ),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "instance_norm": lambda: nn.InstanceNorm1d(4, affine=True),
    "pooling": lambda: nn.Sequential(nn.Conv1d(4, 4, 1), nn.MaxPool1d(2), nn.AdaptiveAvgPool1d(1)),
    "lstm": lambda: Recurrent(nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True), False),
    "lstm_projected": lambda: Recurrent(nn.LSTM(6, 5, proj_size=3, bias=False), False),
    "lstm_packed": lambda: Recurrent(nn.LSTM(6, 5, batch_first=True), True),
    "gru": lambda: Recurrent(nn.GRU(6, 5, 2, batch_first=True, bidirectional=True), False),
    "gru_packed": lambda: Recurrent(nn.GRU(6, 5, batch_first=True, bias=False), True),
    "rnn_packed": lambda: Recurrent(nn.RNN(6, 5, batch_first=True), True),
    "attention": Attention,
    "attention_causal": lambda: Attention(is_causal=True),
    "attention_masked": lambda: Attention(masked=True),
    "attention_biased": lambda: Attention(biased=True, scale=0.3),
    "transformer": lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True),
    "embedding": Embedded,
}


@pytest.mark.parametrize("name", MODELS)
def test_values_and_gradients_equal_the_cpus(name: str) -> None:
    plain = MODELS[name]().double()
    placed = copy.deepcopy(plain).to("fxsim:1")
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    there, here = x.clone().requires_grad_(), x.to("fxsim:1").requires_grad_()
    expected, result = plain(there), placed(here)
    assert result.device == torch.device("fxsim:1")
    assert_exact(result.cpu(), expected)
    backward(expected.square().sum())
    backward(result.square().sum())
    assert_same_gradients(placed, plain)
    if there.grad is not None and here.grad is not None:
        assert_exact(here.grad.cpu(), there.grad)
    else:
        assert there.grad is here.grad is None


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_second_derivatives_of_recurrent_cells(cell: Callable[[int, int], nn.Module]) -> None:
    plain = cell(3, 3).double()
    placed = copy.deepcopy(plain).to("fxsim:0")
    x = torch.randn(2, 3, dtype=torch.float64)

    def gradient_of_gradient(model: nn.Module, x: Tensor) -> Tensor:
        x.requires_grad_()
        result = model(x)
        result = result[0] if isinstance(result, tuple) else result
        (first,) = torch.autograd.grad(result.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    here = gradient_of_gradient(placed, x.to("fxsim:0"))
    assert_exact(here.cpu(), gradient_of_gradient(plain, x.clone()))


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_recurrent_layers_in_half_precision(cell: Callable[..., nn.Module]) -> None:
    plain = cell(4, 3).bfloat16()
    placed = copy.deepcopy(plain).to("fxsim:0")
    x = torch.randn(5, 2, 4, dtype=torch.bfloat16)
    result = placed(x.to("fxsim:0"))[0]
    torch.testing.assert_close(result.cpu(), plain(x)[0], rtol=0.02, atol=0.02)
    backward(result.float().sum())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in placed.parameters())


class TwoDevices(nn.Module):
    """Convolution, recurrence and attention, with a crossing between the devices after each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(4, 6, 1), nn.LSTM(6, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor, first: torch.device, second: torch.device) -> Tensor:
        x = self.conv(x.to(first)).transpose(1, 2).relu()
        x = self.lstm(x.to(second))[0]
        x = x.to(first)
        x = self.attention(x, x, x)[0] + x
        return self.head(x.to(second))  # type: ignore[no-any-return]


@pytest.mark.parametrize("make_optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_training_on_two_devices(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    cpu, first, second = torch.device("cpu"), torch.device("fxsim:0"), torch.device("fxsim:1")
    plain = TwoDevices().double()
    placed = copy.deepcopy(plain)
    placed.conv.to(first), placed.attention.to(first)
    placed.lstm.to(second), placed.head.to(second)
    optimizers = [make_optimizer(model.parameters(), lr=0.01) for model in (plain, placed)]
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    target = torch.randint(0, 3, (2, 5))
    for _ in range(3):
        for optimizer in optimizers:
            optimizer.zero_grad()
        expected = F.cross_entropy(plain(x, cpu, cpu).flatten(0, 1), target.flatten())
        backward(expected)
        with sim.record() as recorded:
            loss = F.cross_entropy(
                placed(x, first, second).flatten(0, 1), target.to(second).flatten()
            )
            backward(loss)
        assert_exact(loss.cpu(), expected)
        assert_same_gradients(placed, plain)
        norms = [nn.utils.clip_grad_norm_(model.parameters(), 0.1) for model in (plain, placed)]
        assert_exact(norms[1].cpu(), norms[0])
        for optimizer in optimizers:
            optimizer.step()
    # Three crossings forward and three backward; the first copy brings the input.
    assert recorded.stats.copies[("fxsim:0", "fxsim:1")].num_copies == 3
    assert recorded.stats.copies[("fxsim:1", "fxsim:0")].num_copies == 3
    for here, there in zip(placed.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(here.cpu(), there, rtol=1e-9, atol=1e-9)


def test_branches_on_all_devices_meet_in_backward() -> None:
    x = torch.randn(4, dtype=torch.float64, requires_grad=True)
    branches = [(x.to(f"fxsim:{index}") * (index + 1)).sin() for index in range(8)]
    backward(torch.stack([branch.to("fxsim:0") for branch in branches]).sum())
    expected = sum((index + 1) * (x * (index + 1)).cos() for index in range(8))
    assert_exact(x.grad, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing_repeats_the_random_numbers(use_reentrant: bool) -> None:
    weight = torch.randn(6, 6, device="fxsim:1", requires_grad=True)

    def block(x: Tensor) -> Tensor:
        return F.dropout(x @ weight, 0.5).relu()

    def gradient(run: Callable[[Tensor], Tensor]) -> Tensor:
        x = torch.randn(2, 6, generator=torch.Generator().manual_seed(1)).to("fxsim:1")
        x.requires_grad_()
        torch.manual_seed(0)
        backward(run(x).sum())
        assert x.grad is not None
        return x.grad

    direct = gradient(block)
    repeated = gradient(lambda x: checkpoint(block, x, use_reentrant=use_reentrant))
    assert torch.equal(repeated, direct)
    assert direct.count_nonzero() > 0


def test_autocast() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).to("fxsim:0")
    x = torch.randn(3, 4, device="fxsim:0")
    with torch.autocast("fxsim", dtype=torch.bfloat16):
        inner = model[0](x)
        normed = model[1](inner)
        result = model(x)
        assert inner.dtype == torch.bfloat16
        assert normed.dtype == torch.float32
        assert result.dtype == torch.bfloat16
        assert inner.softmax(-1).dtype == torch.float32
        assert (inner + x).dtype == torch.float32
        assert torch.addcmul(inner, inner, x).dtype == torch.float32
        assert torch.linalg.vector_norm(inner).dtype == torch.float32
        assert inner.norm().dtype == torch.float32
        assert torch.mm(x.double(), x.double().T).dtype == torch.float64
        for layer in (nn.Conv1d(4, 2, 1), nn.LSTM(4, 3), nn.GRU(4, 3)):
            layer.to("fxsim:0")(x.T if isinstance(layer, nn.Conv1d) else x)
    backward(result.float().sum())
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(result.float(), model(x), rtol=0.1, atol=0.1)


def test_gradient_scaler() -> None:
    weight = torch.ones(3, device="fxsim:0", requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("fxsim", init_scale=4.0)
    scaler.scale((2 * weight).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert weight.tolist() == [-1.0, -1.0, -1.0]
