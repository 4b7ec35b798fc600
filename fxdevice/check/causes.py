"""From what is known of an operation and its stray argument to the cause (no torch)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fxdevice.check.findings import Cause

__all__ = ["Clues", "cause_of"]

_CREATES = re.compile(
    r"\b(?:torch|np|numpy|th)\.(?:tensor|as_tensor|from_numpy|arange|zeros|ones|full|empty|eye|rand"
    r"|randn|randint|randperm|linspace|logspace|tril_indices|triu_indices|hann_window|normal|scalar"
    r"_tensor|LongTensor|FloatTensor|BoolTensor|IntTensor|Tensor)\("
)
_HAS_DEVICE = re.compile(r"\bdevice\s*=")
_DEVICE_LITERAL = (
    r"(?:torch\.device\(\s*)?f?['\"](?:cuda|cpu|mps|xpu|npu|hpu|fxsim|privateuseone)(?::\d+)?['\"]"
)
_HARD_CODED = re.compile(
    rf"\bdevice\s*=\s*(?:{_DEVICE_LITERAL}|\d)|\.to\(\s*(?:device\s*=\s*)?(?:{_DEVICE_LITERAL}|\d)"
    r"|\.(?:cuda|cpu|xpu|npu|mps|fxsim)\(|\.type\(|torch\.cuda\.\w+Tensor"
)
_CACHE = re.compile(r"past_key|kv_?cache|key_?cache|value_?cache|past_kv|\bcache\b", re.IGNORECASE)
_CACHE_CLASS = re.compile(r"cache", re.IGNORECASE)
_LOSSES = re.compile(
    r"cross_entropy|nll_loss|mse_loss|l1_loss|smooth_l1|huber|kl_div|binary_cross|bce|ctc_loss"
    r"|cosine_embedding|margin_ranking|triplet|hinge|poisson_nll|gaussian_nll"
)
_SELECTS = frozenset(
    {
        "embedding",
        "embedding_bag",
        "gather",
        "index_select",
        "take",
        "take_along_dim",
        "__getitem__",
        "masked_select",
    }
)
_LABEL_NAMES = re.compile(r"label|target|\by\b", re.IGNORECASE)


@dataclass(frozen=True)
class Clues:
    """What is known where an operation failed.

    Attributes:
        operation: The torch function.
        is_in_place: Whether it writes one of its arguments.
        position: Of the stray argument among the tensor arguments.
        kind: Its kind, as in `Argument.kind`.
        path: Its qualified name or expression, "" when it has none.
        origin: The expression that computed it in this run, "" when none did.
        meets_tied: Whether a parameter with several names takes part.
        kept_by: Names of the methods that assign the attribute it is kept in.
        owner_class: Qualified class name of the object whose method is running, if it is no module.
    """

    operation: str
    is_in_place: bool
    position: int
    kind: str
    path: str = ""
    origin: str = ""
    meets_tied: bool = False
    kept_by: Sequence[str] = ()
    owner_class: str = ""


def cause_of(clues: Clues) -> Cause:
    """Returns the cause; the most telling clue wins."""
    if _is_cache(clues):
        return Cause.KV_CACHE
    if clues.kind == "attribute":
        is_late = any(method != "__init__" for method in clues.kept_by)
        return Cause.CACHED if is_late else Cause.UNREGISTERED
    if clues.kind == "constant":
        return Cause.MODULE_CONSTANT
    if clues.meets_tied:
        return Cause.TIED_WEIGHT
    if clues.kind in ("parameter", "buffer"):
        return Cause.STATE
    if _LOSSES.search(clues.operation):
        return Cause.LABEL
    # The outermost call tells: `torch.arange(n).cuda()` is a hard-coded device.
    if _HARD_CODED.search(clues.origin):
        return Cause.HARD_CODED
    if _CREATES.search(clues.origin) and not _HAS_DEVICE.search(clues.origin):
        return Cause.CREATED
    if clues.is_in_place:
        return Cause.IN_PLACE_TARGET
    if clues.kind == "input" and clues.operation == "embedding":
        return Cause.INPUT
    if clues.operation in _SELECTS and (clues.position > 0 or clues.operation == "embedding"):
        return Cause.INDEX
    if clues.kind == "input":
        return Cause.LABEL if _LABEL_NAMES.search(clues.path) else Cause.INPUT
    if clues.kind == "result":
        return Cause.OTHER_STAGE
    return Cause.UNKNOWN


def _is_cache(clues: Clues) -> bool:
    if _CACHE_CLASS.search(clues.owner_class):
        return True
    return clues.kind in ("input", "attribute", "result") and bool(
        _CACHE.search(clues.path) or _CACHE.search(clues.origin)
    )
