"""Compiled code notices tensors that were changed in place, on every version of PyTorch."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxdevice
from fxdevice.stale_guards import MetadataWatch, watch_of


class Compiled:
    """A module behind torch.compile, called with a watch before; counts its compilations."""

    def __init__(self, module: nn.Module) -> None:
        self.num_compilations = 0
        self._call = torch.compile(module, backend=self._count)
        self._watch = MetadataWatch(module)

    def _count(self, module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        self.num_compilations += 1
        return module.forward

    def __call__(self, x: torch.Tensor) -> None:
        self._watch()
        self._call(x)


def _module() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))


@pytest.mark.parametrize("path", ["0.weight", "1.0.bias"])
def test_thawing_compiles_again_and_freezing_again_does_not(path: str) -> None:
    module = _module().eval()
    parameter = module.get_parameter(path).requires_grad_(False)
    compiled = Compiled(module)
    counts = []
    for requires_grad in (False, False, True, True, False, True):
        parameter.requires_grad_(requires_grad)
        compiled(torch.ones(2, 4))
        counts.append(compiled.num_compilations)
    assert counts == [1, 1, 2, 2, 2, 2]


class Doubles(nn.Module):
    """A module whose parameter and input may be on different devices."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, self.weight * 2


@pytest.mark.parametrize("change", ["fxsim:1", torch.float64])
def test_another_device_or_dtype_compiles_again(change: str | torch.dtype) -> None:
    fxdevice.sim.enable(8)
    module = Doubles()
    compiled = Compiled(module)
    counts = []
    for _ in range(3):
        compiled(torch.ones(2, 4))
        counts.append(compiled.num_compilations)
        module.to(change)
    assert counts == [1, 2, 2]


def test_watching_changes_nothing_in_the_module() -> None:
    module = _module()
    before = {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}
    watch = MetadataWatch(module)
    watch()
    module.requires_grad_(False)
    module.double()
    watch()
    after = {name: id(tensor) for name, tensor in module.state_dict(keep_vars=True).items()}
    assert list(after) == list(before)
    assert after["0.weight"] == before["0.weight"]


def test_only_old_versions_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for version, is_watched in (("2.11.0", True), ("2.13.0", False), ("2.14.1", False)):
        monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
        assert isinstance(watch_of(nn.Linear(1, 1)), MetadataWatch) is is_watched
