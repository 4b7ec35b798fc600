"""torch.compile and fake tensors on the simulated devices."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint


def test_compiled_model_with_backward() -> None:
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.GroupNorm(1, 3), nn.ReLU(), nn.Linear(4, 2))
    model.to("fxsim:1")
    x = torch.randn(2, 2, 4, device="fxsim:1")
    expected = model(x)
    gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    result = compiled(x)
    torch.testing.assert_close(result, expected)
    result.square().sum().backward()  # type: ignore[no-untyped-call]
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_compiled_attention_and_creation() -> None:
    def function(q: Tensor) -> Tensor:
        mask = torch.ones(4, 4, dtype=torch.bool, device=q.device).tril()
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask) + torch.arange(
            3.0, device="fxsim:2"
        )

    q = torch.randn(2, 4, 3, device="fxsim:2")
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(compiled(q), function(q))


def test_recomputed_dropout_repeats_its_numbers() -> None:
    weight = torch.randn(5, 5, device="fxsim:1")

    def block(x: Tensor) -> Tensor:
        return F.dropout((x @ weight).sin(), 0.5).cos()

    def loss(x: Tensor) -> Tensor:
        result = checkpoint(block, x, use_reentrant=False)
        assert isinstance(result, Tensor)
        return result.sum()

    gradients = []
    for function in (loss, torch.compile(loss, backend="aot_eager", fullgraph=True)):
        x = torch.ones(3, 5, device="fxsim:1", requires_grad=True)
        torch.manual_seed(0)
        value = function(x)
        torch.rand(7)  # what happens in between must not matter
        value.backward()  # type: ignore[no-untyped-call]
        gradients.append(x.grad)
    assert gradients[0] is not None
    assert gradients[0].count_nonzero() > 0
    torch.testing.assert_close(gradients[1], gradients[0])


def test_fake_tensors() -> None:
    with FakeTensorMode() as mode:
        x = mode.from_tensor(torch.randn(2, 3, device="fxsim:1"))
        weight = torch.empty(3, 4, device="fxsim:1", requires_grad=True)
        result = F.layer_norm((x @ weight).relu(), (4,))
        assert result.device == torch.device("fxsim:1")
        assert result.shape == (2, 4)
        result.sum().backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        assert weight.grad.device == torch.device("fxsim:1")
