"""Tensors on a simulated device: views, in-place and out= variants, files, copies, reading."""

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor

HERE = "fxsim:1"


def test_views_share_memory() -> None:
    x = torch.zeros(2, 3, device=HERE)
    views = [x.view(6), x.t(), x[1], x.unfold(1, 2, 1), x.as_strided((3,), (2,)), x.detach()]
    views += list(x.split(1)) + list(x.chunk(3, 1)) + list(x.unbind(1))
    x.fill_(7.0)
    for view in views:
        assert str(view.device) == HERE
        assert view.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        assert (view == 7).all()
    x[1].zero_()
    assert x.tolist() == [[7.0, 7.0, 7.0], [0.0, 0.0, 0.0]]


def test_views_of_complex_tensors() -> None:
    x = torch.tensor([1 + 2j, 3 - 4j], device=HERE)
    parts = torch.view_as_real(x)
    parts[0, 1] = 5.0
    assert x.tolist() == [1 + 5j, 3 - 4j]
    assert torch.view_as_complex(parts).conj().tolist() == [1 - 5j, 3 + 4j]
    assert x.conj().imag.tolist() == [-5.0, 4.0]
    assert (x.conj() + 0).cpu().tolist() == [1 - 5j, 3 + 4j]
    x.conj_physical_()
    assert x.tolist() == [1 - 5j, 3 + 4j]


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_memory_format(memory_format: torch.memory_format) -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=memory_format)
    moved = x.to(HERE)
    assert moved.stride() == x.stride()
    assert moved.relu().stride() == x.relu().stride()
    assert torch.equal(moved.relu().cpu(), x.relu())


def test_in_place_changes_count_versions_and_keep_the_tensor() -> None:
    x = torch.ones(3, device=HERE)
    version = x._version
    assert x.add_(1) is x
    assert x.clamp_(max=1.5) is x
    assert x._version == version + 2
    assert x.tolist() == [1.5, 1.5, 1.5]


def test_in_place_changes_of_the_shape() -> None:
    x = torch.arange(6.0, device=HERE).view(2, 3)
    x.t_().unsqueeze_(0)
    assert x.shape == (1, 3, 2)
    assert x[0, :, 1].tolist() == [3.0, 4.0, 5.0]


def test_out_is_resized_in_its_storage() -> None:
    a, b = torch.randn(4, 3), torch.randn(3, 5)
    out = torch.empty(0, device=HERE)
    storage = out.untyped_storage()
    assert torch.mm(a.to(HERE), b.to(HERE), out=out) is out
    assert out.untyped_storage().data_ptr() == storage.data_ptr()
    assert torch.equal(out.cpu(), a @ b)
    values, indices = torch.empty(0, device=HERE), torch.empty(0, dtype=torch.int64, device=HERE)
    torch.sort(a.to(HERE), out=(values, indices))
    assert torch.equal(values.cpu(), a.sort().values)
    assert torch.equal(indices.cpu(), a.sort().indices)


def test_set_shares_the_storage_of_another_tensor() -> None:
    x = torch.arange(6.0, device=HERE)
    y = torch.empty(0, device=HERE).set_(x.untyped_storage(), 2, (2,), (2,))  # type: ignore[call-overload]
    assert y.tolist() == [2.0, 4.0]
    assert torch.empty(0, device=HERE).set_(x).tolist() == x.tolist()  # type: ignore[call-overload]
    assert x.set_().numel() == 0  # type: ignore[call-overload]
    assert y.tolist() == [2.0, 4.0]


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
        torch.complex64,
        torch.complex128,
    ],
)
def test_dtypes(dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1, 1, 0]).to(dtype)
    moved = x.to(HERE)
    assert moved.dtype == dtype
    assert torch.equal(moved.cpu(), x)
    assert torch.equal((moved * moved).cpu(), x * x)
    assert torch.equal(moved.to(torch.complex64).cpu(), x.to(torch.complex64))


def test_scalars_promote_as_numbers() -> None:
    x = torch.ones(2, dtype=torch.float32, device=HERE)
    assert (x * 2.0).dtype == torch.float32
    assert (x.to(torch.int64) + 1.5).dtype == torch.float32
    assert (x.half() + torch.tensor(1.0, device=HERE)).dtype == torch.float16


def test_reading() -> None:
    x = torch.tensor([[3.0, 0.0], [0.0, 3.0]], device=HERE)
    assert x[0, 0].item() == 3.0
    assert x.tolist() == [[3.0, 0.0], [0.0, 3.0]]
    assert bool(x[0, 0] > 2)
    assert torch.equal(x, x.clone())
    assert x.nonzero().tolist() == [[0, 0], [1, 1]]
    assert x.unique().tolist() == [0.0, 3.0]
    assert x.masked_select(x > 1).tolist() == [3.0, 3.0]
    assert str(x[x > 1].device) == HERE
    assert repr(x) == "tensor([[3., 0.],\n        [0., 3.]], device='fxsim:1')"
    with pytest.raises(TypeError, match="can't convert fxsim:1 device type tensor to numpy"):
        x.numpy()


def test_integer_histogram() -> None:
    # CUDA counts integers, the CPU's kernel does not; expert routing relies on it.
    experts = torch.tensor([0, 2, 2, 3, 2], dtype=torch.int32, device=HERE)
    counts = torch.histc(experts, bins=4, min=0, max=3)
    assert counts.dtype == torch.int32
    assert counts.tolist() == [1, 0, 3, 1]
    out = torch.empty(0, dtype=torch.int32, device=HERE)
    assert torch.histc(experts, bins=4, min=0, max=3, out=out).tolist() == [1, 0, 3, 1]


def test_saving_and_loading() -> None:
    x = torch.arange(6.0, device=HERE)
    file = io.BytesIO()
    torch.save({"x": x, "view": x[2:4]}, file)
    file.seek(0)
    loaded = torch.load(file)
    assert str(loaded["x"].device) == HERE
    assert loaded["x"].tolist() == x.tolist()
    loaded["x"][2] = 9.0
    assert loaded["view"].tolist() == [9.0, 3.0]
    for target in ("cpu", "fxsim:3"):
        file.seek(0)
        assert torch.load(file, map_location=target)["view"].device == torch.device(target)
    again = pickle.loads(pickle.dumps(x))
    assert str(again.device) == HERE
    assert torch.equal(again, x)


def test_copying_objects() -> None:
    model = torch.nn.Linear(2, 3).to(HERE)
    twin = copy.deepcopy(model)
    assert str(twin.weight.device) == HERE
    assert torch.equal(twin.weight, model.weight)
    assert twin.weight.data_ptr() != model.weight.data_ptr()


def test_swapping_keeps_the_parameter_object() -> None:
    parameter = torch.nn.Parameter(torch.arange(3.0))
    torch.utils.swap_tensors(parameter, torch.nn.Parameter(parameter.detach().to(HERE)))
    assert str(parameter.device) == HERE
    assert parameter.tolist() == [0.0, 1.0, 2.0]


def test_moving_modules() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    model.to(HERE)
    assert {str(value.device) for value in model.state_dict().values()} == {HERE}
    model.to("fxsim:2", torch.float64).cpu()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], check_dtype=False)
    model.load_state_dict({name: value.to(HERE) for name, value in expected.items()})
    assert model[0].weight.device == torch.device("cpu")


def test_default_device() -> None:
    with torch.device(HERE):
        assert str(torch.ones(2).device) == HERE
        assert str(torch.nn.Linear(2, 2).weight.device) == HERE


def test_storages() -> None:
    storage = torch.UntypedStorage(8, device=HERE)
    assert str(storage.device) == HERE
    storage.resize_(16)
    storage.fill_(1)  # type: ignore[attr-defined]
    assert storage.cpu().tolist() == [1] * 16


# torch.func.jvp imports decompositions that PyTorch still scripts.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_forward_mode_and_vmap() -> None:
    x = torch.tensor([0.5, 1.0, 2.0])

    def both(device: str) -> tuple[Tensor, Tensor, Tensor]:
        moved = x.to(device)
        value, tangent = torch.func.jvp(  # type: ignore[misc]
            lambda t: t.sin() * 2, (moved,), (torch.ones_like(moved),)
        )
        return value, tangent, torch.func.vmap(torch.func.grad(lambda t: t**3))(moved)

    for here, expected in zip(both(HERE), both("cpu"), strict=True):
        assert str(here.device) == HERE
        torch.testing.assert_close(here.cpu(), expected)


def test_custom_operators_run_by_their_cpu_kernel() -> None:
    kept = []

    @torch.library.custom_op(
        "fxsim_test::double_and_add_one", mutates_args=("x",), device_types="cpu"
    )
    def double_and_add_one(x: Tensor) -> Tensor:
        x.mul_(2)
        kept.append(x)
        return x + 1

    x = torch.arange(3.0, device=HERE)
    result = double_and_add_one(x)
    assert str(result.device) == HERE
    assert x.tolist() == [0.0, 2.0, 4.0]
    assert result.tolist() == [1.0, 3.0, 5.0]
    del x
    # What the kernel kept is the memory of the argument, alive as long as it.
    assert kept[0].tolist() == [0.0, 2.0, 4.0]
