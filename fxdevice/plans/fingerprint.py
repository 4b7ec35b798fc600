"""Tells whether two graphs are the same to a placer (no torch)."""

from __future__ import annotations

import hashlib

from fxdevice.dag import Dag

__all__ = ["fingerprint"]


def fingerprint(dag: Dag) -> str:
    """Returns a text that is equal for equal graphs.

    Names, edges, kinds and shapes count. Costs do not: they follow from these, and a graph that is
    run by another inner compiler is still the same graph.
    """
    digest = hashlib.sha256()
    for node in dag:
        facts = (node.name, node.kind.value, node.inputs, node.shape, node.is_backward)
        digest.update(repr(facts).encode())
    return digest.hexdigest()[:32]
