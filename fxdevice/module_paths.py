"""From the expressions that Dynamo writes to qualified names of the compiled module.

Dynamo names a module as the traced frame reaches it: "L['self'].layers[0]". Which module `self` is
depends on the frame: the model for its own forward, some submodule for code between graph breaks.
State tells: the frame reaches a parameter as "L['self'].weight", and the module knows the same
parameter as "encoder.proj.weight", so "L['self']" is "encoder.proj".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

__all__ = ["ModulePaths", "input_name", "plain_path"]

_REGISTRY = re.compile(r"\._(?:modules|parameters|buffers)\['([^']*)'\]")
_INDEX = re.compile(r"\[(\d+)\]")
_KEYWORD = re.compile(r"L\['kwargs'\]\['([^']*)'\]")
_LOCAL = re.compile(r"L\['([^']*)'\]")
_KEY = re.compile(r"(?<=[\w\])])\['([^']*)'\]")


def plain_path(expression: str) -> str:
    """Returns a Dynamo expression with every access written as an attribute.

    >>> plain_path("L['self']._modules['layers'][0]._parameters['weight']")
    "L['self'].layers.0.weight"
    """
    root, separator, rest = expression.partition("]")
    rest = _REGISTRY.sub(r".\1", rest)
    rest = _KEY.sub(r".\1", _INDEX.sub(r".\1", rest))
    return root + separator + rest


def input_name(expression: str) -> str:
    """Returns a Dynamo expression for an input as the caller would write it.

    >>> input_name("L['kwargs']['input_ids']"), input_name("L['args'][0]['mask']")
    ('input_ids', "args[0]['mask']")
    """
    keyword = _KEYWORD.match(expression)
    if keyword:
        return keyword[1] + expression[keyword.end() :]
    local = _LOCAL.match(expression)
    return local[1] + expression[local.end() :] if local else expression


class ModulePaths:
    """Maps modules as frames reach them to qualified names.

    Args:
        known: Pairs of a Dynamo expression and the qualified name of the same tensor.
    """

    def __init__(self, known: Iterable[tuple[str, str]] = ()) -> None:
        votes: dict[str, Counter[str]] = {}
        for expression, qualified in known:
            reached = plain_path(expression).split(".")
            names = qualified.split(".")
            while reached and names and reached[-1] == names[-1]:
                reached.pop()
                names.pop()
            root = ".".join(reached)
            votes.setdefault(root, Counter())[".".join(names)] += 1
        # A tied weight is reached under another name and gives a wrong pair; it has fewer votes.
        self._roots = sorted(
            ((root, *found.most_common(1)[0]) for root, found in votes.items()),
            key=lambda entry: -entry[2],
        )

    def qualified(self, expression: str) -> str:
        """Returns the qualified name of the module that `expression` reaches; "" if unknown."""
        path = plain_path(expression)
        for root, prefix, _ in self._roots:
            if path == root:
                return prefix
            if path.startswith(root + "."):
                rest = path[len(root) + 1 :]
                return f"{prefix}.{rest}" if prefix else rest
        return ""
