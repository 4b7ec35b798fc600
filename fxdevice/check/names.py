"""What the tensors of a run are called: state, inputs, and results of the user's expressions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

from fxdevice.check.frames import Site, place_of
from fxdevice.state import state_tensors

__all__ = ["Names", "TensorName"]

_MAX_DEPTH = 6
"""How deep tensors are looked for in arguments: objects may hold each other."""


@dataclass(frozen=True)
class TensorName:
    """What is known of one tensor.

    Attributes:
        text: How to call it.
        kind: As in `Argument.kind`.
        path: Qualified name of state, or the expression for an input; "" for the rest.
        site: Where it was computed in this run, if it was.
        is_tied: Whether it is state under several names.
        origin: The expression that computed it, where only the source tells.
    """

    text: str
    kind: str
    path: str = ""
    site: Site | None = None
    is_tied: bool = False
    origin: str = ""


class Names:
    """Names the tensors of one run.

    Args:
        model: The model, or another callable.
        args: Positional arguments of the run.
        kwargs: Keyword arguments of the run.
    """

    def __init__(
        self, model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self._model = model if isinstance(model, nn.Module) else None
        self._paths_of_module = _module_paths(self._model)
        self._inputs: dict[int, str] = {}
        for name, value in _named_arguments(model, args, kwargs):
            for path, tensor in _leaves(name, value):
                self._inputs.setdefault(id(tensor), path)
        self._kept = (args, kwargs)  # so that an id stays the input's
        self._sites: Any = WeakTensorKeyDictionary()

    def remember(self, result: Any, site: Site | None) -> None:
        """Notes where a result was computed; an in-place result keeps its first place.

        Args:
            result: What a torch function returned.
            site: Where the user's code called for it; None where only library code did.
        """
        if isinstance(result, torch.Tensor):
            if result not in self._sites:
                self._sites[result] = site
        elif isinstance(result, (tuple, list)):
            for item in result:
                if isinstance(item, torch.Tensor) and item not in self._sites:
                    self._sites[item] = site

    def module_path(self, module: object) -> str | None:
        """Returns the qualified name of a module of the model."""
        return self._paths_of_module.get(id(module))

    def module_at(self, path: str) -> nn.Module | None:
        """Returns the module with a qualified name."""
        return None if self._model is None else self._model.get_submodule(path)

    def of(self, tensor: torch.Tensor) -> TensorName:
        """Returns the name of `tensor`.

        State is looked up anew: a forward may have kept the tensor on its module meanwhile.
        """
        site = self._sites.get(tensor)
        paths = [found for found in self._state() if found[1] is tensor]
        if paths:
            path, _, kind = paths[0]
            parameters = [path for path, _, kind in paths if kind == "parameter"]
            return TensorName(path, kind, path, site, is_tied=len(parameters) > 1)
        if tensor._base is not None and (base := self.of(tensor._base)).path:
            return replace(base, text=f"view of {base.text}")
        if id(tensor) in self._inputs:
            path = self._inputs[id(tensor)]
            return TensorName(path, "input", path)
        if site is not None:
            place = place_of(site)
            return TensorName(f"result of `{place.expression or place.code}` at {place}", "result")
        if tensor in self._sites:
            return TensorName("a result of library code", "result")
        return TensorName("a tensor from outside of the model", "constant")

    def site_of(self, tensor: torch.Tensor) -> Site | None:
        """Returns where `tensor` was computed in this run."""
        found: Site | None = self._sites.get(tensor)
        return found

    def _state(self) -> Iterator[tuple[str, torch.Tensor, str]]:
        if self._model is None:
            return
        for name, parameter in self._model.named_parameters(remove_duplicate=False):
            yield name, parameter, "parameter"
        for name, buffer in self._model.named_buffers(remove_duplicate=False):
            yield name, buffer, "buffer"
        for found in state_tensors(self._model):
            if found.kind == "attribute":
                yield found.name, found.tensor, "attribute"


def _module_paths(model: nn.Module | None) -> dict[int, str]:
    if model is None:
        return {}
    return {id(module): path for path, module in model.named_modules()}


def _named_arguments(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    forward = model.forward if isinstance(model, nn.Module) else model
    try:
        bound = inspect.signature(forward).bind_partial(*args, **kwargs)
    except (TypeError, ValueError):  # builtins have no signature; wrong arguments fail later
        yield from ((f"args[{index}]", value) for index, value in enumerate(args))
        yield from kwargs.items()
        return
    parameters = bound.signature.parameters
    for name, value in bound.arguments.items():
        if parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def _leaves(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    if depth == _MAX_DEPTH or isinstance(value, (torch.Tensor, nn.Module, type)):
        return
    if isinstance(value, (tuple, list)):
        items = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    elif isinstance(value, dict):
        items = [(f"{name}[{key!r}]", item) for key, item in value.items()]
    else:  # a cache or a dataclass
        items = [(f"{name}.{key}", item) for key, item in getattr(value, "__dict__", {}).items()]
    for path, item in items:
        yield from _leaves(path, item, depth + 1)
