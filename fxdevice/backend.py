"""The compiler that Dynamo calls: Dynamo's graph -> AOTAutograd -> driver."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from functorch.compile import aot_module_simplified  # type: ignore[import-untyped]
from torch import fx
from torch._dynamo.exc import RestartAnalysis, SkipFrame

from fxdevice.align import AlignEager, unaligned
from fxdevice.backward_context import with_backward_context
from fxdevice.driver import GraphDriver
from fxdevice.errors import CaptureError, FxDeviceError, RepairError
from fxdevice.graph_breaks import break_text
from fxdevice.graph_inputs import GraphInputs, InputHome
from fxdevice.graph_log import log_placed
from fxdevice.input_homes import bytes_of_other_state, input_homes
from fxdevice.machine import topology_of
from fxdevice.options import CompileOptions
from fxdevice.pins import Pins
from fxdevice.records import CapturedGraph, Records
from fxdevice.repairs import outputs_on_cpu, repairs_in
from fxdevice.runtime.debug import DebugCompiler
from fxdevice.runtime.inner import InnerCompiler, make_inner
from fxdevice.runtime.kept_copies import KeptCopies
from fxdevice.sizes import tensor_bytes
from fxdevice.state import ModuleState
from fxdevice.tracing import trace_device, unified_tracing

__all__ = ["GraphCompiler"]

log = logging.getLogger(__name__)

_WHOLE_MODEL = 0.8
"""A graph with this share of the state that nothing has placed yet counts as the whole model."""


class GraphCompiler:
    """A Dynamo backend that places the graphs of one model.

    Args:
        options: Checked options.
        state: The model's state, or None when it is not ours to move.
        records: Where the compiled graphs are kept for the report.

    Attributes:
        copies: The copies of the state that stay on the slots between calls.
    """

    def __init__(
        self, options: CompileOptions, state: ModuleState | None, records: Records
    ) -> None:
        self.options = options
        self.topology = topology_of(options)
        self.inner: InnerCompiler = (
            DebugCompiler(checks_numbers=options.debug == "numbers")
            if options.debug
            else make_inner(options.inner, options.devices[0])
        )
        self.copies = KeptCopies()
        self._state = state
        self._records = records
        self._comes_in_pieces = False

    def __call__(self, module: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        """Compiles one graph of Dynamo.

        Raises:
            FxDeviceError: The graph cannot be placed as the options ask.
        """
        if self._state is not None:
            self._state.refresh()
        devices = self.options.devices
        homes = input_homes(module, example_inputs, devices, self._state)
        homes = self._in_state_order(homes, example_inputs)
        self._note_repairs(module.graph, homes)
        driver = GraphDriver(
            inputs=GraphInputs(homes, devices, self._pins()),
            topology=self.topology,
            strategy=self.options.strategy,
            inner=self.inner,
            resident_bytes=bytes_of_other_state(homes, devices, self._state, self.copies),
            plan=self.options.plan,
            is_first=not self._records.graphs,
            together=self.options.no_split,
            profile=self.options.profile,
            via_host=self.options.via_host,
            optimizer=self.options.optimizer,
            copies=self.copies,
        )
        try:
            compiled = self._capture(module, example_inputs, driver)
        except (RestartAnalysis, SkipFrame):
            raise  # Dynamo's own control flow: it will call again, or not compile this frame
        except Exception as error:
            if driver.is_captured or isinstance(error, FxDeviceError):
                raise
            return self._uncaptured(module, homes, error)
        if self._state is not None:
            self._state.place(
                (example_inputs[index], slot) for index, slot in driver.state_slots.items()
            )
        for lowered in driver.lowered:
            log_placed(len(self._records.graphs), lowered)
        self._records.add_graph(
            CapturedGraph(module, homes, driver.lowered, break_of(module), choice=driver.choice)
        )
        compiled = self._leaving_cpu_results(module.graph, compiled)
        used = {*devices, *(home.device for home in homes if home.device)}
        # A CPU's backward runs on the thread that asks for it, one graph at a time.
        if any(device.type != "cpu" for device in used):
            compiled = with_backward_context(compiled)
        return unaligned(compiled)

    def _capture(
        self, module: fx.GraphModule, example_inputs: Sequence[Any], driver: GraphDriver
    ) -> Callable[..., Any]:
        with unified_tracing(trace_device(self.options.devices)):
            compiled: Callable[..., Any] = aot_module_simplified(
                module,
                example_inputs,
                fw_compiler=driver.compile_forward,
                bw_compiler=driver.compile_backward,
                inference_compiler=driver.compile_inference,
                partition_fn=driver.split,
                decompositions=self.inner.decompositions,
            )
        return compiled

    def _leaving_cpu_results(
        self, graph: fx.Graph, compiled: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Makes `.cpu()` true for what leaves the graph; inside of it, it says nothing."""
        on_cpu, kept = outputs_on_cpu(graph), self._records.kept_on_cpu
        if not on_cpu:
            return compiled

        def run(*args: Any) -> Any:
            outputs = list(compiled(*args))
            for index in on_cpu:
                outputs[index] = outputs[index].cpu()
                kept.add(outputs[index])
            return outputs

        return run

    def _uncaptured(
        self, module: fx.GraphModule, homes: Sequence[InputHome], error: Exception
    ) -> Callable[..., Any]:
        """Runs a graph that AOTAutograd cannot capture as eager code, its arguments aligned.

        Raises:
            CaptureError: The options ask for one full graph.
        """
        lines = str(error).strip().splitlines() or ["no message"]
        reason = f"{type(error).__name__}: {lines[0]}"
        if self.options.fullgraph:
            raise CaptureError(
                f"fullgraph=True, and PyTorch could not capture the graph: {reason}. With "
                f"fullgraph=False it runs uncaptured, its arguments aligned"
            ) from error
        log.warning("PyTorch could not capture a graph, so it runs uncaptured: %s", reason)
        self._records.add_graph(CapturedGraph(module, homes, (), break_of(module), reason))
        # Dynamo's cache holds what is returned, which must not hold the model.
        state = (lambda: None) if self._state is None else weakref.ref(self._state)
        options, records = self.options, self._records

        def run_aligned(*args: Any) -> Any:
            with AlignEager(options.devices, state(), records, options.via_host):
                return module(*args)

        return run_aligned

    def _note_repairs(self, graph: fx.Graph, homes: Sequence[InputHome]) -> None:
        """Lists what eager code would get wrong.

        Raises:
            RepairError: The options forbid to put it right.
        """
        attributes = frozenset() if self._state is None else self._state.attribute_names()
        found = repairs_in(graph, homes, attributes)
        if not found:
            return
        lines = "".join(f"\n  {repair}" for repair in found)
        if self.options.repair == "error":
            raise RepairError(
                f'repair="error", and this code would mix devices:{lines}\nChange it, or let '
                f'fxdevice put it right with repair="warn"'
            )
        if self.options.repair == "warn" and not self._records.repairs:
            log.warning(
                "put right, and listed in fxdevice.report(model).repairs from here on:%s", lines
            )
        for repair in found:
            log.info("repaired: %s", repair)
        self._records.add_repairs(found)

    def _in_state_order(
        self, homes: list[InputHome], example_inputs: Sequence[Any]
    ) -> list[InputHome]:
        """Gives unplaced state of a graph that holds only a part of the model its slots."""
        state = self._state
        if state is None or len(self.topology.slots) == 1 or self.options.strategy == "single":
            return homes
        fresh = [i for i, home in enumerate(homes) if home.is_state and home.slot is None]
        here_bytes = sum(tensor_bytes(example_inputs[i]) for i in fresh)
        unplaced_bytes = sum(found.num_bytes for found in state.unplaced())
        self._comes_in_pieces |= here_bytes < _WHOLE_MODEL * unplaced_bytes
        # Under "auto" each graph is placed where it is fastest, as long as one slot could hold all.
        is_free = self.options.strategy == "auto" and state.fits_one_slot()
        if self._comes_in_pieces and not is_free:
            for i in fresh:
                homes[i] = replace(homes[i], slot=state.slot_in_order(homes[i].name))
        return homes

    def _pins(self) -> Pins:
        return Pins() if self._state is None else self._state.pins


def break_of(module: fx.GraphModule) -> str | None:
    """Returns why Dynamo ended this graph early, or None when it ends where the model does."""
    reason = getattr(module, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break:
        return None
    return break_text(reason.user_stack, reason.reason)
