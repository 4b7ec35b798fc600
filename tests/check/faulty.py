# mypy: disable-error-code="no-any-return"
"""Small models, each with one fault that users of several devices really meet.

Every model runs right when all of it is on one device. Split or fed as users split and feed such
models, the line marked "# here" fails in eager PyTorch.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxdevice.check import Cause

D = 8
FIRST, SECOND = "fxsim:0", "fxsim:1"
SCALES = torch.linspace(0.5, 1.5, D)
TABLE = np.linspace(0.0, 1.0, D, dtype=np.float32)


@dataclass(frozen=True)
class Fault:
    """One faulty model.

    Attributes:
        model: Its class; calling it makes the model on the CPU.
        operation: The torch function that fails.
        cause: Why.
        stray: Part of the name of the argument that is elsewhere.
        split: Device of submodules or parameters, by name.
        inputs: Makes the arguments, given the device they should be on.
        inputs_on: Where the caller puts them.
        one_device: A device on which the whole model runs right.
        module: Qualified name of the module that fails.
        diff: A part of the suggested diff, "" where none is expected.
        num_findings: How many operations of that line fail.
        pin: The entry of a device_map that is advised.
    """

    model: Callable[[], nn.Module]
    operation: str
    cause: Cause
    stray: str
    split: dict[str, str]
    inputs: Callable[[str], tuple[Any, ...]]
    inputs_on: str = FIRST
    one_device: str = "cpu"
    module: str = ""
    diff: str = ""
    num_findings: int = 1
    pin: str = ""

    @property
    def name(self) -> str:
        """The class name, as the test's name."""
        return self.model.__name__

    @property
    def line(self) -> int:
        """Number of the line that fails."""
        lines, first = inspect.getsourcelines(self.model)
        (offset,) = (index for index, line in enumerate(lines) if "# here" in line)
        return first + offset

    def build(self) -> nn.Module:
        """Returns the model on the CPU, with the same weights every time."""
        torch.manual_seed(0)
        return self.model()

    def build_split(self) -> nn.Module:
        """Returns the model as the user splits it."""
        model = self.build()
        tied = (
            dict(model.named_parameters(remove_duplicate=False)).keys()
            - dict(model.named_parameters()).keys()
        )
        for name, device in self.split.items():
            path, _, leaf = name.rpartition(".")
            owner = model.get_submodule(path)
            if leaf in owner._parameters:
                parameter = owner._parameters[leaf]
                assert parameter is not None
                owner._parameters[leaf] = nn.Parameter(parameter.detach().to(device))
            elif leaf in owner._buffers:
                setattr(owner, leaf, getattr(owner, leaf).to(device))
            else:
                model.get_submodule(name).to(device)
        if tied:  # a move between device types makes new parameters
            model.get_submodule("head").weight = model.get_submodule("embed").weight
        return model


def vectors(device: str) -> tuple[Tensor]:
    """Returns float32 [4, 8]."""
    torch.manual_seed(1)
    return (torch.randn(4, D).to(device),)


def tokens(device: str) -> tuple[Tensor]:
    """Returns int64 [2, 4]."""
    return (torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]).to(device),)


def vectors_and(*others: Tensor) -> Callable[[str], tuple[Any, ...]]:
    """Returns inputs with more tensors after the vectors."""
    return lambda device: (*vectors(device), *(other.to(device) for other in others))


LABELS = torch.tensor([1, 2, 3, 4])
LENGTHS = torch.tensor([2, 3, 4, 1])
BOTH = {"first": FIRST, "second": SECOND}
ONE = {"first": FIRST, "second": FIRST}


class Two(nn.Module):
    """Two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.second = nn.Linear(D, D)


class OtherStage(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # here


class Residual(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        branch = self.second(h.to(SECOND if h.device.type == "fxsim" else h.device))
        return h + branch  # here


class Concatenated(Two):
    def forward(self, x: Tensor) -> Tensor:
        left = self.first(x)
        right = self.second(x.to(self.second.weight.device))
        return torch.cat([left, right], dim=-1)  # here


class Experts(Two):
    def forward(self, x: Tensor) -> Tensor:
        found = [expert(x.to(expert.weight.device)) for expert in (self.first, self.second)]
        return torch.stack(found).sum(0)  # here


class PlainPosition(Two):
    def __init__(self) -> None:
        super().__init__()
        self.position = torch.linspace(-1, 1, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + self.position)  # here


class MaskList(Two):
    def __init__(self) -> None:
        super().__init__()
        self.masks = [torch.ones(D), torch.zeros(D)]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(h * self.masks[0])  # here


class BiasDict(Two):
    def __init__(self) -> None:
        super().__init__()
        self.biases = {"text": torch.ones(D), "image": torch.zeros(D)}

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(torch.add(h, self.biases["text"]))  # here


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, D)
        self.position = nn.Embedding(8, D)

    def forward(self, ids: Tensor) -> Tensor:
        where = torch.arange(ids.shape[1])
        return self.embed(ids) + self.position(where)  # here


class ZerosMask(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        mask = torch.zeros(4, D)
        return self.second(h + mask)  # here


class ListTensor(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(h * torch.tensor([0.5, 1.0] * 4))  # here


class CausalMask(Two):
    def forward(self, x: Tensor) -> Tensor:
        scores = self.first(x) @ self.second(x).T
        hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
        return scores.masked_fill(hidden, -1e9).softmax(-1)  # here


class LengthMask(Two):
    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        keep = torch.arange(D) < lengths[:, None]  # here
        return self.second(self.first(x) * keep)


class FromNumpy(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * torch.from_numpy(TABLE))  # here


class Identity(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.einsum("bi,ij->bj", self.first(x), torch.eye(D)))  # here


class Whereabouts(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(torch.where(h > 0, h, torch.full((4, D), 0.1)))  # here


class HardCodedTo(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        gate = torch.sigmoid(x).to("fxsim:1")
        return self.second(h * gate)  # here


class HardCodedCreation(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        noise = torch.ones(D, device="fxsim:1")
        return self.second(h + noise)  # here


class HardCodedMethod(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        gate = torch.sigmoid(x).fxsim(1)  # type: ignore[attr-defined]
        return self.second(h * gate)  # here


class HardCodedCpu(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        norm = h.detach().norm(dim=-1, keepdim=True).cpu()
        return self.second(h / norm)  # here


class CachedRotary(Two):
    def __init__(self) -> None:
        super().__init__()
        self.cos: Tensor | None = None

    def angles(self, x: Tensor) -> Tensor:
        if self.cos is None:
            self.cos = torch.cos(torch.arange(D, device=x.device) / D)
        return self.cos

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x) * self.angles(x)
        h = h.to(self.second.weight.device)
        return self.second(h) * self.angles(h)  # here


class CachedMasks(Two):
    def __init__(self) -> None:
        super().__init__()
        self.mask_of: dict[int, Tensor] = {}

    def mask(self, size: int, x: Tensor) -> Tensor:
        if size not in self.mask_of:
            self.mask_of[size] = torch.ones(size, device=x.device)
        return self.mask_of[size]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x) + self.mask(D, x)
        h = h.to(self.second.weight.device)
        return self.second(h) + self.mask(D, h)  # here


class PastKeys(Two):
    def forward(self, x: Tensor, past_key_values: list[Tensor]) -> Tensor:
        keys = torch.cat([past_key_values[0], self.first(x)])  # here
        return self.second(keys)


class CrossEntropy(Two):
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.first(x)
        logits = self.second(h.to(self.second.weight.device))
        return F.cross_entropy(logits, labels)  # here


class MeanSquares(Two):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        h = self.first(x)
        out = self.second(h.to(self.second.weight.device))
        return F.mse_loss(out, target)  # here


class TiedHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, D)
        self.second = nn.Linear(D, D)
        self.head = nn.Linear(D, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.second(self.embed(ids).to(self.second.weight.device))
        return self.head(h)  # here


class ScatterImage(Two):
    def forward(self, x: Tensor) -> Tensor:
        text = self.first(x)
        image = self.second(x.to(self.second.weight.device))[:2]
        rows = torch.tensor([[1], [3]], device=text.device).expand(2, D)
        return text.scatter(0, rows, image) + text.clone().scatter_(0, rows, image)  # here


class MaskedScatter(Two):
    def forward(self, x: Tensor) -> Tensor:
        text = self.first(x) * 1.0
        image = self.second(x.to(self.second.weight.device))[:2]
        mask = torch.tensor([False, True, False, True], device=text.device)[:, None]
        return text.masked_scatter_(mask.expand(4, D), image)  # here


class IndexPut(Two):
    def forward(self, x: Tensor) -> Tensor:
        text = self.first(x) * 1.0
        image = self.second(x.to(self.second.weight.device))[:2]
        return text.index_put_((torch.tensor([1, 3], device=text.device),), image)  # here


class IndexSelect(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        order = self.second(x.to(self.second.weight.device)).sum(-1).argsort()
        return h.index_select(0, order)  # here


class Gather(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        best = self.second(x.to(self.second.weight.device)).argmax(-1, keepdim=True)
        return h.gather(1, best)  # here


class NextToken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, D)
        self.second = nn.Linear(D, 8)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embed(ids).to(self.second.weight.device)
        best = self.second(h).argmax(-1)
        return self.embed(best)  # here


class CpuInput(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)  # here
        return self.second(h)


class CpuIds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, D)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.embed(input_ids)  # here


class ModuleConstant(Two):
    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * SCALES)  # here


class NotMoved(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))  # here


class BareParameter(Two):
    def __init__(self) -> None:
        super().__init__()
        self.layer_scalar = nn.Parameter(torch.linspace(0.5, 1.0, D))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.layer_scalar)  # here


class BufferLeft(Two):
    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Buffer(torch.linspace(0.5, 1.0, D), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.slopes)  # here


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(D, D)
        self.slopes = torch.linspace(0.5, 1.0, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) * self.slopes  # inner


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.layers = nn.ModuleList(nn.ModuleDict({"attention": Attention()}) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for layer in self.layers:
            scores = layer["attention"].proj(h)  # type: ignore[index]
            h = h + scores * layer["attention"].slopes  # type: ignore[index] # here
        return h


class Hooked(Two):
    def __init__(self) -> None:
        super().__init__()
        self.first.register_forward_hook(self.shift)

    def shift(self, module: nn.Module, args: Any, out: Tensor) -> Tensor:
        return out + torch.ones(D)  # here

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return grad * weight, (grad * x).sum(0)


class CustomFunction(Two):
    def __init__(self) -> None:
        super().__init__()
        self.offset = torch.ones(D)

    def forward(self, x: Tensor) -> Tensor:
        h = Doubled.apply(self.first(x), self.second.weight[0])
        return self.second(h - self.offset)  # here


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 2, 3)
        self.second = nn.Conv1d(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x[:, None])
        return self.second(h)  # here


class Scaled(Two):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.second(h) / torch.tensor([math.sqrt(D)])  # here


FAULTS = (
    Fault(OtherStage, "linear", Cause.OTHER_STAGE, "self.first(x)", BOTH, vectors),
    Fault(
        Residual,
        "add",
        Cause.OTHER_STAGE,
        "self.second(",
        BOTH,
        vectors,
        diff="+        return h + branch.to(h.device)  # here",
    ),
    Fault(
        Concatenated,
        "cat",
        Cause.OTHER_STAGE,
        "self.second(",
        BOTH,
        vectors,
        diff="torch.cat([left, right.to(left.device)], dim=-1)",
    ),
    Fault(Experts, "stack", Cause.OTHER_STAGE, "expert(", BOTH, vectors),
    Fault(
        PlainPosition,
        "add",
        Cause.UNREGISTERED,
        "position",
        ONE,
        vectors,
        diff='+        self.register_buffer("position", torch.linspace(-1, 1, D), persistent=',
    ),
    Fault(MaskList, "mul", Cause.UNREGISTERED, "masks.0", ONE, vectors),
    Fault(BiasDict, "add", Cause.UNREGISTERED, "biases.text", ONE, vectors),
    Fault(
        Positions,
        "embedding",
        Cause.CREATED,
        "torch.arange(",
        {"embed": FIRST, "position": FIRST},
        tokens,
        diff="+        where = torch.arange(ids.shape[1], device=ids.device)",
    ),
    Fault(
        ZerosMask,
        "add",
        Cause.CREATED,
        "torch.zeros(",
        ONE,
        vectors,
        diff="+        mask = torch.zeros(4, D, device=x.device)",
    ),
    Fault(
        ListTensor,
        "mul",
        Cause.CREATED,
        "torch.tensor(",
        ONE,
        vectors,
        diff="torch.tensor([0.5, 1.0] * 4, device=x.device)",
    ),
    Fault(CausalMask, "masked_fill", Cause.CREATED, "torch.ones(", ONE, vectors),
    Fault(
        LengthMask,
        "lt",
        Cause.CREATED,
        "torch.arange(",
        ONE,
        vectors_and(LENGTHS),
        diff="torch.arange(D, device=x.device) < lengths",
    ),
    Fault(FromNumpy, "mul", Cause.CREATED, "torch.from_numpy(", ONE, vectors),
    Fault(
        Identity,
        "einsum",
        Cause.CREATED,
        "torch.eye(",
        ONE,
        vectors,
        diff="torch.eye(D, device=x.device)",
    ),
    Fault(
        Whereabouts,
        "where",
        Cause.CREATED,
        "torch.full(",
        ONE,
        vectors,
        diff="torch.full((4, D), 0.1, device=x.device)",
    ),
    Fault(
        HardCodedTo,
        "mul",
        Cause.HARD_CODED,
        '.to("fxsim:1")',
        ONE,
        vectors,
        one_device=SECOND,
        diff="+        gate = torch.sigmoid(x).to(x.device)",
    ),
    Fault(
        HardCodedCreation,
        "add",
        Cause.HARD_CODED,
        'device="fxsim:1"',
        ONE,
        vectors,
        one_device=SECOND,
        diff="+        noise = torch.ones(D, device=x.device)",
    ),
    Fault(
        HardCodedMethod,
        "mul",
        Cause.HARD_CODED,
        ".fxsim(1)",
        ONE,
        vectors,
        one_device=SECOND,
        diff="torch.sigmoid(x).to(x.device)",
    ),
    Fault(
        HardCodedCpu,
        "div",
        Cause.HARD_CODED,
        ".cpu()",
        ONE,
        vectors,
        diff="keepdim=True).to(x.device)",
    ),
    Fault(CachedRotary, "mul", Cause.CACHED, "cos", BOTH, vectors),
    Fault(CachedMasks, "add", Cause.CACHED, "mask_of.8", BOTH, vectors),
    Fault(
        PastKeys,
        "cat",
        Cause.KV_CACHE,
        "past_key_values[0]",
        ONE,
        lambda device: (*vectors(device), [torch.ones(2, D)]),
    ),
    Fault(
        CrossEntropy,
        "cross_entropy",
        Cause.LABEL,
        "labels",
        BOTH,
        vectors_and(LABELS),
        diff="F.cross_entropy(logits, labels.to(logits.device))",
    ),
    Fault(
        MeanSquares,
        "mse_loss",
        Cause.LABEL,
        "target",
        BOTH,
        vectors_and(torch.ones(4, D)),
        diff="F.mse_loss(out, target.to(out.device))",
    ),
    Fault(
        TiedHead,
        "linear",
        Cause.TIED_WEIGHT,
        "self.second(",
        {"embed": FIRST, "second": SECOND, "head": FIRST},
        tokens,
    ),
    Fault(
        ScatterImage, "scatter", Cause.OTHER_STAGE, "self.second(", BOTH, vectors, num_findings=2
    ),
    Fault(
        MaskedScatter,
        "masked_scatter_",
        Cause.IN_PLACE_TARGET,
        "self.second(",
        BOTH,
        vectors,
        diff="image.to(text.device))",
    ),
    Fault(
        IndexPut,
        "index_put_",
        Cause.IN_PLACE_TARGET,
        "self.second(",
        BOTH,
        vectors,
        diff="image.to(text.device))",
    ),
    Fault(
        IndexSelect,
        "index_select",
        Cause.INDEX,
        "argsort()",
        BOTH,
        vectors,
        diff="h.index_select(0, order.to(h.device))",
    ),
    Fault(
        Gather,
        "gather",
        Cause.INDEX,
        "argmax(",
        BOTH,
        vectors,
        diff="h.gather(1, best.to(h.device))",
    ),
    Fault(
        NextToken,
        "embedding",
        Cause.INDEX,
        "argmax(",
        {"embed": FIRST, "second": SECOND},
        tokens,
        diff="self.embed(best.to(self.embed.weight.device))",
    ),
    Fault(
        CpuInput,
        "linear",
        Cause.INPUT,
        "x",
        ONE,
        vectors,
        inputs_on="cpu",
        diff="self.first(x.to(self.first.weight.device))",
    ),
    Fault(
        CpuIds,
        "embedding",
        Cause.INPUT,
        "input_ids",
        {"embed": FIRST},
        tokens,
        inputs_on="cpu",
        diff="self.embed(input_ids.to(self.embed.weight.device))",
    ),
    Fault(ModuleConstant, "mul", Cause.MODULE_CONSTANT, "`SCALES`", ONE, vectors),
    Fault(
        NotMoved,
        "layer_norm",
        Cause.STATE,
        "norm.weight",
        {"first": FIRST},
        vectors,
        pin='device_map={"norm": "fxsim:0"}',
    ),
    Fault(
        BareParameter,
        "mul",
        Cause.STATE,
        "layer_scalar",
        ONE,
        vectors,
        pin='device_map={"layer_scalar": "fxsim:0"}',
    ),
    Fault(
        BufferLeft,
        "mul",
        Cause.STATE,
        "slopes",
        ONE,
        vectors,
        pin='device_map={"slopes": "fxsim:0"}',
    ),
    Fault(
        Nested,
        "mul",
        Cause.UNREGISTERED,
        "layers.0.attention.slopes",
        {"first": FIRST, "layers": FIRST},
        vectors,
    ),
    Fault(
        Hooked,
        "add",
        Cause.CREATED,
        "torch.ones(",
        ONE,
        vectors,
        diff="torch.ones(D, device=out.device)",
    ),
    Fault(CustomFunction, "sub", Cause.UNREGISTERED, "offset", ONE, vectors),
    Fault(
        Convolution,
        "conv1d",
        Cause.OTHER_STAGE,
        "self.first(",
        BOTH,
        vectors,
        diff="self.second(h.to(self.second.weight.device))",
    ),
    Fault(
        Scaled,
        "div",
        Cause.CREATED,
        "torch.tensor(",
        ONE,
        vectors,
        diff="torch.tensor([math.sqrt(D)], device=x.device)",
    ),
)
