"""Runs passes one after the other and checks the result of each.

A pass is a pure function from placed graph to placed graph. The graph obeys the invariants before
and after a pass, not during it. Timing, logging and dumps are the business of the one observer; a
pass contains none of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fxdevice.dump import dump_around
from fxdevice.errors import VerificationError
from fxdevice.placed_graph import PlacedGraph
from fxdevice.verify import NodeFaultError

__all__ = ["Invariant", "Observer", "Pass", "Pipeline"]

Invariant = Callable[[PlacedGraph], None]
"""Raises `VerificationError` unless something holds (see `fxdevice.verify`)."""

Observer = Callable[["Pass", PlacedGraph, PlacedGraph], None]
"""Called after each pass with the pass, its input and its checked result."""


@dataclass(frozen=True, slots=True)
class Pass:
    """A named step.

    Attributes:
        name: Verb and object, such as "insert_transfers".
        run: The pure function.
        requires: What must hold of the graph it is given.
        ensures: What holds of its result.
    """

    name: str
    run: Callable[[PlacedGraph], PlacedGraph]
    requires: tuple[Invariant, ...] = ()
    ensures: tuple[Invariant, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Passes in order.

    Attributes:
        passes: The passes.
        observe: Called after each pass, once its result has been checked.
    """

    passes: tuple[Pass, ...]
    observe: Observer | None = None

    def __call__(self, placed: PlacedGraph) -> PlacedGraph:
        """Returns what the passes make of `placed`, which is not changed.

        Raises:
            VerificationError: A pass was given, or returned, a graph that breaks an invariant; or
                it failed itself. Names the pass and the invariant, with the dump around the node.
        """
        for step in self.passes:
            before = placed
            for invariant in step.requires:
                _check(invariant, before, step, "before")
            try:
                placed = step.run(before)
            except VerificationError as error:
                raise _failure(step, "failed", before, error) from error
            _check(_lint, placed, step, "after")
            for invariant in step.ensures:
                _check(invariant, placed, step, "after")
            if self.observe is not None:
                self.observe(step, before, placed)
        return placed


def _lint(placed: PlacedGraph) -> None:
    placed.graph.lint()


def _check(invariant: Invariant, placed: PlacedGraph, step: Pass, when: str) -> None:
    try:
        invariant(placed)
    except (VerificationError, RuntimeError) as error:
        name = getattr(invariant, "__name__", repr(invariant)).lstrip("_")
        raise _failure(step, f"{name} does not hold {when} it", placed, error) from error


def _failure(step: Pass, what: str, placed: PlacedGraph, error: Exception) -> VerificationError:
    message = f"pass {step.name!r}: {what}: {error}"
    if not isinstance(error, NodeFaultError):
        return VerificationError(message)
    around = dump_around(placed, error.node)
    return NodeFaultError(f"{message}\nThe graph around node {error.node!r}:\n{around}", error.node)
