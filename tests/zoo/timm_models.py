"""Image models of timm.

timm imports torchvision for its data pipeline, of which the models here use nothing. torchvision
in turn only loads with the one build of PyTorch that it was compiled for, so that asking for it
would tie the tests to that build. Where it is absent, timm is imported with empty stand-ins for
torchvision's modules, which are taken away again at once: no other library may mistake them for
the real thing.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from tests.zoo.building import normal, seeded
from tests.zoo.example import Example, unique_names

_ABSENT = "torchvision"


class _AnyMember(type):
    """Class of the stand-in classes: every name is a member, as `InterpolationMode.NEAREST` is."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(types.ModuleType):
    """A module in which every public name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        stand_in = _AnyMember(name, (), {})
        setattr(self, name, stand_in)
        return stand_in


class _StandInFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision and its submodules as stand-ins."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] != _ABSENT:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Leave the module empty."""


def import_timm() -> Any:
    """Return the module `timm`, imported without torchvision where that is absent."""
    if "timm" in sys.modules or importlib.util.find_spec(_ABSENT) is not None:
        return importlib.import_module("timm")
    finder = _StandInFinder()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("timm")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.split(".")[0] == _ABSENT]:
            del sys.modules[name]


def _build(model: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        created: nn.Module = import_timm().create_model(model, num_classes=5, **options)
        return created

    return lambda: seeded(make)


def _timm(name: str, family: str, model: str, *, size: int = 32, **options: Any) -> Example:
    return Example(name, family, _build(model, options), lambda: ((normal(2, 3, size, size),), {}))


_ATTENTION = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 4}

EXAMPLES = unique_names(
    (
        _timm("timm_resnet", "cnn", "resnet10t", channels=(8, 16, 24, 32), stem_width=8),
        _timm("timm_efficientnet", "cnn", "test_efficientnet"),
        _timm("timm_convnext", "cnn", "convnext_atto", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)),
        _timm(
            "timm_inception_next",
            "cnn",
            "inception_next_atto",
            depths=(1, 1, 2, 1),
            dims=(16, 16, 32, 32),
        ),
        _timm("timm_dla", "cnn", "dla46_c", channels=(8, 8, 16, 16, 32, 32)),
        _timm("timm_densenet", "cnn", "densenet121", growth_rate=4, block_config=(2, 2, 2)),
        _timm(
            "timm_swin",
            "vision_transformer",
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            embed_dim=16,
            depths=(2, 2),
            num_heads=(2, 4),
        ),
        _timm("timm_vit", "vision_transformer", "vit_tiny_patch16_224", **_ATTENTION),
        _timm(
            "timm_eva",
            "vision_transformer",
            "eva02_tiny_patch14_224",
            **{**_ATTENTION, "mlp_ratio": 2},
        ),
    )
)
