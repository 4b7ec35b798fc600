"""Which devices an operator may mix: what CUDA refuses is refused, what CUDA takes is taken."""

import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

SAME_DEVICE = "Expected all tensors to be on the same device, but found at least two devices, "


def here(*size: int) -> Tensor:
    return torch.ones(size, device="fxsim:0")


def there(*size: int) -> Tensor:
    return torch.ones(size, device="fxsim:1")


def host(*size: int) -> Tensor:
    return torch.ones(size)


INDEX = torch.tensor([0, 1])

REFUSED: dict[str, tuple[Callable[[], object], str]] = {
    "add": (lambda: here(2) + there(2), "fxsim:0 and fxsim:1!"),
    "add_cpu": (lambda: here(2) + host(2), "fxsim:0 and cpu!"),
    "add_scalar_of_another_device": (lambda: here(2) + there(), "fxsim:0 and fxsim:1!"),
    "add_in_place": (lambda: here(2).add_(there(2)), "fxsim:0 and fxsim:1!"),
    "add_to_cpu_scalar_in_place": (lambda: host().add_(here()), "fxsim:0 and cpu!"),
    "mm": (
        lambda: here(2, 2) @ there(2, 2),
        "fxsim:0 and fxsim:1! (when checking argument for argument mat2 in method aten::mm)",
    ),
    "linear": (
        lambda: F.linear(here(2, 2), there(2, 2), here(2)),
        "fxsim:0 and fxsim:1! (when checking argument for argument mat2 in method aten::addmm)",
    ),
    "cat": (
        lambda: torch.cat([here(2), here(2), host(2)]),
        "fxsim:0 and cpu! (when checking argument for argument tensors in method aten::cat)",
    ),
    "embedding": (
        lambda: F.embedding(INDEX, here(3, 2)),
        "fxsim:0 and cpu! (when checking argument for argument index in method aten::index_select)",
    ),
    "conv": (
        lambda: F.conv2d(here(1, 1, 3, 3), there(1, 1, 2, 2)),
        "fxsim:0 and fxsim:1! (when checking argument for argument weight in method "
        "aten::convolution)",
    ),
    "scatter": (lambda: here(2).scatter(0, INDEX.to("fxsim:0"), there(2)), "fxsim:0 and fxsim:1!"),
    "gather_cpu_index": (lambda: here(2).gather(0, INDEX), "fxsim:0 and cpu!"),
    "where": (lambda: torch.where(here(2) > 0, there(2), here(2)), "fxsim:0 and fxsim:1!"),
    "lstm_cell": (
        lambda: torch.nn.LSTMCell(2, 2).to("fxsim:1")(there(1, 2), (there(1, 2), here(1, 2))),
        "fxsim:0 and fxsim:1! (when checking argument for argument cx in method "
        "aten::_thnn_fused_lstm_cell)",
    ),
    "layer_norm": (lambda: F.layer_norm(here(2, 2), (2,), there(2)), "fxsim:0 and fxsim:1!"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_mixed_devices_are_refused_in_pytorchs_words(name: str) -> None:
    call, ending = REFUSED[name]
    # The order of the two devices is that of the arguments of the inner operator.
    one, other = ending.split("!")[0].split(" and ")
    rest = re.escape(ending.split("!", 1)[1])
    pattern = re.escape(SAME_DEVICE) + f"({one} and {other}|{other} and {one})!" + rest
    with pytest.raises(RuntimeError, match=pattern):
        call()


def test_checks_of_pytorchs_own_front_ends() -> None:
    with pytest.raises(
        RuntimeError, match=r"found input tensor at fxsim:0 and parameter .* fxsim:1"
    ):
        torch.nn.LSTM(2, 2).to("fxsim:1")(here(1, 1, 2))
    with pytest.raises(RuntimeError, match=r"query\.device: fxsim:0 key\.device: fxsim:1"):
        F.scaled_dot_product_attention(here(1, 2, 2), there(1, 2, 2), here(1, 2, 2))


def test_a_gradient_on_another_device_is_refused() -> None:
    x = torch.ones(2, device="fxsim:0", requires_grad=True)
    with pytest.raises(
        RuntimeError, match=r"(invalid gradient|same device|but found at least two)"
    ):
        (2 * x).backward(there(2))


def test_indices_of_a_device_for_a_cpu_tensor_are_refused() -> None:
    with pytest.raises(RuntimeError, match="indices should be either on cpu or on the same device"):
        host(2)[INDEX.to("fxsim:0")]


LEGAL: dict[str, Callable[[str], Tensor]] = {
    "cpu_scalar_right": lambda device: torch.arange(3.0, device=device) + torch.tensor(2.0),
    "cpu_scalar_left": lambda device: torch.tensor(2.0) - torch.arange(3.0, device=device),
    "cpu_scalar_in_place": lambda device: torch.arange(3.0, device=device).mul_(torch.tensor(2.0)),
    "cpu_scalar_keeps_the_type": lambda device: (
        torch.arange(3.0, device=device) * torch.tensor(2.0, dtype=torch.float64)
    ),
    "where_cpu_scalar": lambda device: torch.where(
        torch.arange(3, device=device) > 1, torch.tensor(1.0), torch.tensor(0.0)
    ),
    "masked_fill": lambda device: torch.arange(3.0, device=device).masked_fill(
        torch.arange(3, device=device) > 1, torch.tensor(-1.0)
    ),
    "index_cpu": lambda device: torch.arange(6.0, device=device).view(2, 3)[:, INDEX],
    "index_cpu_mask": lambda device: torch.arange(3.0, device=device)[
        torch.tensor([True, False, True])
    ],
    "index_put_cpu": lambda device: torch.zeros(3, device=device).index_put(
        (INDEX,), torch.arange(2.0, device=device)
    ),
    "setitem_cpu_scalar": lambda device: _with_items(torch.zeros(3, device=device)),
    "copy_from_cpu": lambda device: torch.zeros(3, device=device).copy_(torch.arange(3)),
    "copy_from_another_device": lambda device: torch.zeros(2, 3, device=device).copy_(
        torch.arange(3.0, device=device if device == "cpu" else "fxsim:1")
    ),
    "tensor_split": lambda device: torch.tensor_split(torch.arange(3.0, device=device), INDEX)[2],
    "ctc_loss": lambda device: F.ctc_loss(
        torch.full((4, 1, 3), -1.0, device=device),
        torch.tensor([[1, 2]], device=device),
        torch.tensor([4]),
        torch.tensor([2]),
    ).reshape(1),
    "foreach_scalars": lambda device: torch._foreach_addcmul(
        [torch.ones(2, device=device)],
        [torch.ones(2, device=device)],
        [torch.ones(2, device=device)],
        torch.tensor([3.0]),
    )[0],
}


def _with_items(tensor: Tensor) -> Tensor:
    tensor[INDEX] = torch.tensor(5.0)
    tensor[2] = torch.tensor(7.0)
    return tensor


@pytest.mark.parametrize("name", LEGAL)
def test_what_cuda_mixes_is_mixed(name: str) -> None:
    result = LEGAL[name]("fxsim:0")
    expected = LEGAL[name]("cpu")
    assert result.device == torch.device("fxsim:0")
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=0)


def test_device_index_out_of_range() -> None:
    with pytest.raises(RuntimeError, match="invalid device ordinal: got index 8, but 8 simulated"):
        torch.empty(2, device="fxsim:8")


def test_an_operator_without_cpu_kernel() -> None:
    with pytest.raises(NotImplementedError, match=r"aten::_fused_dropout.*on a simulated device"):
        torch._fused_dropout(here(2), 0.5)


def test_sparse_tensors_are_refused() -> None:
    with pytest.raises(NotImplementedError, match="strided tensors only"):
        here(2, 2).to_sparse()
