"""Memory that no operation of the graph asks for: optimizer state, growing caches, a margin.

    lasting = state + gradients + optimizer state
    step    = lasting + temporaries of the optimizer's step
    cache   = bytes of a token * tokens still to come

No torch: plain arithmetic over plain data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fxdevice.dag import DagNode, NodeKind
from fxdevice.errors import PlanError

__all__ = [
    "OPTIMIZERS",
    "MemoryOptions",
    "cache_growth_bytes",
    "margin_bytes",
    "optimizer_bytes",
    "parameter_optimizer_bytes",
    "step_bytes",
]

OPTIMIZERS = ("adafactor", "adam", "adamw", "sgd", "sgd-momentum")
"""Optimizers whose state is known."""

_STATE_COPIES = {"adam": 2, "adamw": 2, "sgd": 0, "sgd-momentum": 1}
"""Values of the size and type of a parameter that are kept for it: the averages of the gradient and
of its square, the velocity. Source: the classes of these names in torch.optim."""

_STEP_COPIES = {"adafactor": 1, "adam": 1, "adamw": 1}
"""Values of the size of all parameters that a step makes and drops: the root of the average square,
the update. Source: the `foreach` implementations, torch.optim's default on accelerators; the fused
ones make none."""


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """What else takes memory, and how exactly the program is followed.

    Attributes:
        optimizer: One of `OPTIMIZERS`; None for inference or when it is not known. Its state has
            the type of the parameters; a float32 copy of them is not assumed.
        margin_share: Part of what is needed that is added to it. Allocators round sizes up and
            leave gaps: 0.05 is common for PyTorch's.
        margin_bytes: Constant number of bytes added on every slot: the context of the device's
            runtime and the workspaces of its libraries, about 5e8 on a CUDA device.
        max_length: Tokens that growing key/value caches will hold; None: they do not grow.
        holds_inputs: A partition holds all that it reads until it ends, as `inner="eager"` does;
            inductor frees each value after its last use.
        keeps_gradients: Gradients are there all the time: they are accumulated over several steps,
            or zeroed instead of dropped.

    Raises:
        PlanError: The optimizer is unknown, or a number is negative or no number.
    """

    optimizer: str | None = None
    margin_share: float = 0.0
    margin_bytes: int = 0
    max_length: int | None = None
    holds_inputs: bool = False
    keeps_gradients: bool = False

    def __post_init__(self) -> None:
        if self.optimizer is not None and self.optimizer not in OPTIMIZERS:
            raise PlanError(
                f"MemoryOptions.optimizer: expected one of {', '.join(OPTIMIZERS)} or None; found "
                f"{self.optimizer!r}. For another one name the one with the most similar state"
            )
        for name in ("margin_share", "margin_bytes", "max_length"):
            figure = getattr(self, name)
            if figure is not None and (not math.isfinite(figure) or figure < 0):
                raise PlanError(f"MemoryOptions.{name}: expected zero or more, found {figure!r}")


def optimizer_bytes(node: DagNode, optimizer: str | None) -> int:
    """Returns the bytes of the optimizer's state of a parameter; 0 for any other node.

    Args:
        node: A node; it is a parameter when it is STATE with a gradient.
        optimizer: One of `OPTIMIZERS`, or None.
    """
    if not _is_parameter(node):
        return 0
    return parameter_optimizer_bytes(node.output_bytes, node.shape or (), optimizer)


def parameter_optimizer_bytes(num_bytes: int, shape: tuple[int, ...], optimizer: str | None) -> int:
    """Returns the bytes of the optimizer's state of a parameter.

    Adafactor keeps a value for each row and each column of a matrix (of the last two dimensions),
    and for each element of a vector.

    Args:
        num_bytes: Size of the parameter.
        shape: Its sizes.
        optimizer: One of `OPTIMIZERS`, or None.

    Source: Shazeer, Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML
    2018, section 3, and torch.optim.Adafactor.
    """
    if optimizer is None:
        return 0
    if optimizer != "adafactor":
        return _STATE_COPIES[optimizer] * num_bytes
    if len(shape) < 2 or not min(shape):
        return num_bytes
    return num_bytes // shape[-1] + num_bytes // shape[-2]


def step_bytes(node: DagNode, optimizer: str | None) -> int:
    """Returns the bytes of temporaries that an optimizer's step makes for a parameter.

    Args:
        node: A node; any other than a parameter takes none.
        optimizer: One of `OPTIMIZERS`, or None.
    """
    if optimizer is None or not _is_parameter(node):
        return 0
    return _STEP_COPIES.get(optimizer, 0) * node.output_bytes


def cache_growth_bytes(num_bytes: int, length: int, max_length: int | None) -> int:
    """Returns the bytes by which a cache grows until it holds `max_length` tokens.

    Args:
        num_bytes: Its size now.
        length: Tokens that it holds now; 0 for what is no cache.
        max_length: Tokens that it will hold; None: it does not grow.
    """
    if not length or max_length is None or max_length <= length:
        return 0
    return math.ceil(num_bytes / length * (max_length - length))


def margin_bytes(num_bytes: int, options: MemoryOptions) -> int:
    """Returns the bytes to leave free beside `num_bytes` of needed memory."""
    return math.ceil(num_bytes * options.margin_share) + options.margin_bytes


def _is_parameter(node: DagNode) -> bool:
    return node.kind is NodeKind.STATE and node.gradient_bytes > 0
