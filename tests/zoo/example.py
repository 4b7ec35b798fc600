"""One entry of the model zoo, and what can be done with any model's inputs and outputs."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def floating_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the floating-point tensors in an output, in order.

    Tuples, lists, mappings (a `ModelOutput` is one) and dataclasses are searched. Other objects, a
    key-value cache for instance, are not outputs to compare and are passed over.

    Args:
        value: What a model returned.

    Yields:
        Each floating-point or complex tensor found.
    """
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() or value.is_complex():
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from floating_tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from floating_tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from floating_tensors(getattr(value, field.name))


def projection_loss(output: Any) -> torch.Tensor:
    """Return a scalar in which every element of every floating output takes part.

    Each tensor is projected on a fixed wave. A mean of squares would not do: the square of a
    layer-normalised output is nearly constant, so its gradient would be rounding noise.

    Args:
        output: What a model returned, with at least one differentiable tensor in it.

    Returns:
        The scalar loss, on the device of the first tensor.

    Raises:
        ValueError: No tensor in the output needs a gradient.
    """
    terms = []
    for tensor in floating_tensors(output):
        if not tensor.requires_grad:
            continue
        index = torch.arange(tensor.numel(), device=tensor.device, dtype=torch.float32)
        wave = torch.cos(index).to(tensor.dtype).reshape(tensor.shape)
        terms.append((tensor * wave).mean())
    if not terms:
        raise ValueError("expected an output that needs a gradient, found none; call it with grad")
    return torch.stack([term.real for term in terms]).sum()


@dataclasses.dataclass(frozen=True)
class Example:
    """A tiny model of a real architecture, with inputs.

    Args:
        name: Unique name, the architecture's usual one in snake case.
        family: Kind of architecture: "decoder", "encoder", "encoder_decoder", "moe",
            "vision_language", "cnn", "vision_transformer", "diffusion", "state_space", "speech",
            "rnn", "recommender", "transformer", or "behaviour" for models that exist to show one
            hard behaviour.
        build: Returns a new model on the CPU in float32, the same weights every time.
        inputs: Returns new positional and keyword arguments on the CPU, the same every time.
        loss: Turns the model's output into a scalar.
        generate_kwargs: Returns the keyword arguments for a deterministic `model.generate`, which
            gives token numbers; None where the model has no such method.
        float64: Whether eager PyTorch computes it in float64 when weights and inputs are cast.
        no_training_reason: Why plain eager PyTorch cannot train the model; empty where it can.
    """

    name: str
    family: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Inputs]
    loss: Callable[[Any], torch.Tensor] = projection_loss
    generate_kwargs: Callable[[], dict[str, Any]] | None = None
    float64: bool = True
    no_training_reason: str = ""

    @property
    def generates(self) -> bool:
        """Whether `generate` can be compared token by token."""
        return self.generate_kwargs is not None

    @property
    def trains(self) -> bool:
        """Whether eager PyTorch can compute gradients for it."""
        return not self.no_training_reason


def cast_floating(value: Any, dtype: torch.dtype) -> Any:
    """Return the same inputs with every floating-point tensor cast.

    Args:
        value: Arguments of a model: a tensor, or tuples, lists, dicts and dataclasses of them.
        dtype: The floating-point type wanted.

    Returns:
        A value of the same structure; tensors of other kinds are the same objects.
    """
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, Mapping):
        return {key: cast_floating(item, dtype) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(cast_floating(item, dtype) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(cast_floating(item, dtype) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {
            field.name: cast_floating(getattr(value, field.name), dtype)
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    return value


def unique_names(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return the examples as a tuple.

    Args:
        examples: The examples of a catalogue.

    Returns:
        The same examples.

    Raises:
        ValueError: Two of them share a name.
    """
    names = [example.name for example in examples]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"expected unique names, found {repeated} more than once; rename them")
    return tuple(examples)
