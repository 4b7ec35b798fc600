"""The captured graphs of the benchmark's models, kept between runs.

A capture takes from seconds to minutes. Its Dags are kept as a pickle under build/planning, whose
name has a hash of everything that they depend on: the model's source and options, the sources that
make a Dag, and the versions of the libraries.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import nn

import fxdevice
from benchmarks.planning import mixed_models, text_models, vision_models
from fxdevice.dag import Dag, NodeKind
from fxdevice.placers import strategy_names
from fxdevice.plan_capture import CapturedForPlan, capture_graphs
from fxdevice.planning.make import planned_dag

__all__ = ["BenchModel", "CapturedModel", "captured"]

_FOLDER = Path(__file__).resolve().parents[2] / "build" / "planning"
_LIBRARIES = ("torch", "transformers", "diffusers", "timm")
_DAG_SOURCES = (
    "dag.py",
    "dims.py",
    "plan_*.py",
    "meta_*.py",
    "tracing.py",
    "op_dims/*.py",
    "passes/*.py",
    "placers/__init__.py",
)


@dataclass(frozen=True)
class BenchModel:
    """A model of the benchmark.

    Attributes:
        name: Unique name.
        family: Kind of architecture.
        build: Returns the module on the meta device, in the mode of its use, with the positional
            and keyword arguments of one call.
        training: Whether the step is a training step.
    """

    name: str
    family: str
    build: Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]
    training: bool = False


@dataclass(frozen=True)
class CapturedModel:
    """What was captured of one model.

    Attributes:
        name: The model's name.
        variants: For every graph, in the order of their first run, the Dag that each strategy
            places, by its name; strategies that rewrite a graph alike share one.
        num_calls: How often one call of the model runs each graph.
        state_name_of: For every graph the qualified name of each STATE node's parameter or buffer.
        stopped_by: Why the capture ended before the call did; None when it did not.
        parameter_bytes: Bytes of parameters and buffers that the graphs use.
        flops: Floating-point operations of one call, backward included.
        capture_cpu_s: Processor seconds that the capture took.
    """

    name: str
    variants: tuple[dict[str, Dag], ...]
    num_calls: tuple[int, ...]
    state_name_of: tuple[Mapping[str, str], ...]
    stopped_by: str | None
    parameter_bytes: int
    flops: int
    capture_cpu_s: float

    @property
    def dags(self) -> tuple[Dag, ...]:
        """The graphs as they are when nothing is divided."""
        return tuple(variants["single"] for variants in self.variants)

    @property
    def num_nodes(self) -> int:
        """Nodes of all graphs."""
        return sum(len(dag) for dag in self.dags)


def captured(model: BenchModel, *, folder: Path = _FOLDER) -> CapturedModel:
    """Returns the graphs of `model`, from `folder` where they are there already.

    Args:
        model: The model.
        folder: Where pickles are kept; files in it are trusted.
    """
    path = folder / f"{model.name}-{_key(model)}.pickle"
    if path.exists():
        found = pickle.loads(path.read_bytes())
        assert isinstance(found, CapturedModel)
        return found
    found = _capture(model)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(pickle.dumps(found))
    partial.rename(path)
    return found


def _capture(model: BenchModel) -> CapturedModel:
    module, args, kwargs = model.build()
    start_s = time.process_time()
    graphs = capture_graphs(module, args, kwargs, training=model.training)
    capture_cpu_s = time.process_time() - start_s
    state_bytes = {
        graph.state_names[node.name]: node.output_bytes
        for graph in graphs
        for node in graph.dag
        if node.kind is NodeKind.STATE and node.follows is None
    }
    return CapturedModel(
        model.name,
        tuple(_variants(graph) for graph in graphs),
        tuple(graph.num_calls for graph in graphs),
        tuple(dict(graph.state_names) for graph in graphs),
        graphs[-1].stopped_by,
        sum(state_bytes.values()),
        sum(graph.num_calls * node.flops for graph in graphs for node in graph.dag),
        capture_cpu_s,
    )


def _variants(graph: CapturedForPlan) -> dict[str, Dag]:
    found: dict[str, Dag] = {}
    for strategy in strategy_names():
        dag = planned_dag(graph, strategy, "inductor")
        found[strategy] = next((known for known in found.values() if known == dag), dag)
    return found


def _key(model: BenchModel) -> str:
    assert isinstance(model.build, FunctionType)
    sources = [
        f"{model.name} {model.training}",
        *(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES),
        *_model_sources(model.build),
        *_dag_sources(),
    ]
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]


def _model_sources(build: FunctionType) -> Iterator[str]:
    """Yields the source of a builder, and of all that its module has beside builders."""
    builders = {*text_models.__all__, *vision_models.__all__, *mixed_models.__all__}
    yield inspect.getsource(build)
    for module in (text_models, vision_models, mixed_models):
        for name, value in sorted(vars(module).items()):
            is_own = getattr(value, "__module__", None) == module.__name__
            if is_own and name not in builders:
                yield inspect.getsource(value)
    yield repr(mixed_models.TABLE_ROWS)


def _dag_sources() -> Iterator[str]:
    (package,) = fxdevice.__path__
    for pattern in _DAG_SOURCES:
        for path in sorted(Path(package).glob(pattern)):
            yield path.read_text()
