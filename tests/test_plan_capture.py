"""Plans are made for the graphs that are placed, and leave nothing behind."""

from __future__ import annotations

import copy
import gc
import random
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn
from torch._dynamo.eval_frame import _debug_get_cache_entry_list
from torch._subclasses.fake_tensor import FakeTensorMode

import fxdevice
from fxdevice.dag import Dag, NodeKind
from fxdevice.driver import GraphDriver
from fxdevice.errors import CaptureError
from fxdevice.model import CompiledModel, compiled_model_of
from fxdevice.plan_capture import CapturedForPlan, capture_graphs
from fxdevice.tracing import unified_tracing
from tests.zoo import example


class Everything(nn.Module):
    """Running statistics, dropout, attention, constants, a table that is no buffer, a device."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Conv1d(4, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.drop = nn.Dropout(0.1)
        self.table = torch.linspace(0, 1, 8)

    def forward(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        hidden = self.drop(torch.relu(self.norm(self.entry(x)))).transpose(1, 2)
        hidden = hidden + self.table + torch.arange(8, device=x.device)
        attended, _ = self.attention(hidden, hidden, hidden, need_weights=False)
        return {"mean": attended.mean(1) * scale, "all": attended.cpu()}


class Breaks(nn.Module):
    """Two layers, each a graph of the same code, and what goes on between graphs in eager code."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.last = nn.Linear(4, 2)
        self.shift = nn.Buffer(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.step(self.layers[0], x)
        x = self.step(self.layers[1], x)
        hidden = torch.tanh(x + torch._dynamo.disable(self.drawn)())
        torch._dynamo.graph_break()
        out: Tensor = self.last(hidden.to("cpu") + self.shift)
        return out

    def drawn(self) -> Tensor:
        return torch.rand(4) * random.random() * np.random.rand()

    def step(self, layer: nn.Module, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        out: Tensor = layer(x).relu()
        return out


class OneBreak(nn.Module):
    """Two graphs of one operation each."""

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        torch._dynamo.graph_break()
        return x * 2


class Branches(nn.Module):
    """Goes on only if a value allows it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.first(x)
        if hidden.sum() > 0:  # the line that the test looks for
            hidden = self.second(hidden)
        return hidden


def everything() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    return Everything(), (torch.randn(2, 4, 6),), {"scale": 0.5}


def breaks() -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    return Breaks(), (torch.randn(2, 4),), {}


def of_zoo(name: str) -> Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]:
    entry = example(name)
    return lambda: (entry.build(), *entry.inputs())


MODELS = {
    "everything": everything,
    "breaks": breaks,
    "tied_weights": of_zoo("tied_weights"),
    "nested_structures": of_zoo("nested_structures"),
    "lifted_constants": of_zoo("lifted_constants"),
}
CASES = [(name, training) for name in MODELS for training in (False, True)]
CASES.remove(("tied_weights", True))  # slow, and nothing that the others lack


@pytest.fixture
def placed_graphs(monkeypatch: pytest.MonkeyPatch) -> list[list[object]]:
    """Returns a list that gets the operators of every graph that is about to be placed."""
    found: list[list[object]] = []
    place = GraphDriver._place

    def spy(self: GraphDriver, root: fx.GraphModule, graph: fx.Graph) -> Any:
        found.append([node.target for node in graph.nodes])
        return place(self, root, graph)

    monkeypatch.setattr(GraphDriver, "_place", spy)
    return found


def placed(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any
) -> tuple[list[Dag], list[dict[str, str]]]:
    """Compiles and calls the model; returns each graph's Dag and the names of its inputs."""
    torch._dynamo.reset()
    options = {"inner": "eager", "repair": "silent", "dynamic": False, **options}
    fxdevice.compile(model, ["cpu"], **options)(*args, **kwargs)
    compiled = compiled_model_of(model)
    assert isinstance(compiled, CompiledModel)
    graphs = [(graph, graph.lowered[0]) for graph in compiled.records.graphs]
    dags = [lowered.dag for _, lowered in graphs]
    return dags, [graph.input_names(lowered.placed.graph) for graph, lowered in graphs]


@pytest.mark.parametrize(("name", "training"), CASES)
def test_graphs_are_those_that_are_placed(
    name: str, training: bool, placed_graphs: list[list[object]]
) -> None:
    model, args, kwargs = MODELS[name]()
    found = capture_graphs(model, args, kwargs, training=training, inner="eager")
    with torch.set_grad_enabled(training):
        dags, names = placed(model, args, kwargs)
    assert [graph.dag for graph in found] == dags
    assert [[node.target for node in graph.graph.nodes] for graph in found] == placed_graphs
    for graph, expected in zip(found, names, strict=True):
        known = {**graph.state_names, **graph.input_names}
        # The forward graph of a training step lacks what only backward reads.
        assert expected.items() <= known.items()
        assert set(graph.tangents).isdisjoint(known)
        assert (graph.label == "joint") == bool(graph.tangents)


def test_decompositions_are_those_of_the_inner_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from fxdevice.runtime import inductor
    from fxdevice.runtime.inner import run_eagerly

    model, args, kwargs = everything()
    eager = capture_graphs(model, args, kwargs, training=False, inner="eager")
    found = capture_graphs(model, args, kwargs, training=False)
    monkeypatch.setattr(inductor, "compile_partition", run_eagerly)
    with torch.no_grad():
        dags, _ = placed(model, args, kwargs, inner="inductor")
    assert [graph.dag for graph in found] == dags
    assert [graph.dag for graph in eager] != dags


def test_content_does_not_matter() -> None:
    model, args, kwargs = everything()
    expected = capture_graphs(model, args, kwargs, training=False, inner="eager")
    without = copy.deepcopy(model).to("meta")
    without.table = without.table.to("meta")
    fakes = FakeTensorMode()
    for given in (args[0].to("meta"), fakes.from_tensor(args[0]), args[0]):
        found = capture_graphs(without, (given,), kwargs, training=False, inner="eager")
        assert_same_dags(found, expected)
    with torch.device("meta"):
        born_without = Everything()
    found = capture_graphs(born_without, args, kwargs, training=False, inner="eager")
    assert_same_dags(found, expected)


def state_of(model: nn.Module) -> list[object]:
    tensors = [*model.parameters(), *model.buffers()]
    return [
        *((id(t), t.data_ptr(), t._version, t.requires_grad, t.grad) for t in tensors),
        *((type(m), m.training, sorted(vars(m)), len(m._forward_hooks)) for m in model.modules()),
    ]


@pytest.mark.parametrize("build", [everything, breaks])
def test_nothing_stays_behind(build: Callable[[], Any]) -> None:
    model, args, kwargs = build()
    model.attributes = {"list": [torch.ones(2)], "of": "anything"}
    before = state_of(model)
    content = copy.deepcopy(model.state_dict())
    attributes = model.attributes["list"][0]
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    with torch.inference_mode(False), torch.no_grad():
        capture_graphs(model, args, kwargs, training=True, inner="eager")
        assert not torch.is_grad_enabled()
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert state_of(model) == before
    assert all(map(torch.equal, model.state_dict().values(), content.values()))
    assert model.attributes["list"][0] is attributes
    model(*args, **kwargs)  # its hooks and methods still work on content


def test_plans_do_not_count_as_recompilations() -> None:
    num_compiled = 0

    def backend(module: fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        nonlocal num_compiled
        num_compiled += 1
        return module.forward

    model, args = OneBreak(), (torch.ones(2),)
    first = capture_graphs(model, args, training=False, inner="eager")
    assert len(first) == 2
    assert entries() == 0
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        compiled(*args)
        before = num_compiled, entries()
        assert before == (2, 1)
        for _ in range(20):
            found = capture_graphs(model, args, training=False, inner="eager")
            assert_same_dags(found, first)
        compiled(*args)
    assert (num_compiled, entries()) == before


def entries() -> int:
    """Returns how many compiled versions Dynamo keeps of the code that `OneBreak` uncovers."""
    found = _debug_get_cache_entry_list(OneBreak.forward.__code__)
    return len([entry for entry in found if entry.backend is not None])


def test_a_graph_of_many_calls_is_captured_once() -> None:
    model, args, _ = breaks()
    found = capture_graphs(model, args, training=False, inner="eager")
    layers = [graph for graph in found if "layers.0.weight" in graph.state_names.values()]
    assert [graph.num_calls for graph in layers] == [2]
    assert [graph.num_calls for graph in found if graph is not layers[0]] == [1, 1]
    assert found[-1].stopped_by is None
    assert any("test_plan_capture.py" in str(graph.ended_by) for graph in found[:-1])


@pytest.mark.parametrize("build", [everything, breaks])
def test_graphs_are_not_kept(build: Callable[[], Any]) -> None:
    found = capture_graphs(*build(), training=True, inner="eager")
    graphs = [weakref.ref(graph.root) for graph in found]
    del found
    gc.collect()
    assert [graph() for graph in graphs] == [None] * len(graphs)


def test_tied_weights_stay_tied() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(6, 4)
            self.head = nn.Linear(4, 6, bias=False)
            self.head.weight = self.embed.weight
            self.register_buffer("whole", torch.ones(8))
            self.register_buffer("part", self.get_buffer("whole")[:4])

        def forward(self, ids: Tensor) -> Tensor:
            hidden = self.embed(ids) + self.get_buffer("part")
            out: Tensor = self.head(hidden) + self.get_buffer("whole").sum()
            return out

    (found,) = capture_graphs(
        Shared(), (torch.zeros(2, dtype=torch.int64),), training=False, inner="eager"
    )
    assert sorted(found.state_names.values()) == ["embed.weight", "part", "whole"]
    by_name = {name: found.dag[node] for node, name in found.state_names.items()}
    follow = [node.follows for node in by_name.values() if node.follows is not None]
    assert len(follow) == 1  # the view shares the whole's memory
    assert found.state_names[follow[0]] in ("part", "whole")


def test_arguments_keep_their_names() -> None:
    class Named(nn.Module):
        def forward(self, batch: dict[str, Any], *, mask: Tensor) -> Tensor:
            out: Tensor = (batch["pairs"][0] * batch["pairs"][1]).where(mask, 0.0)
            return out

    batch = {"pairs": [torch.ones(2, 3), torch.ones(2, 1)]}
    mask = torch.ones(2, 3, dtype=torch.bool)
    (found,) = capture_graphs(Named(), (batch,), {"mask": mask}, training=False, inner="eager")
    names = {"args[0]['pairs'][0]", "args[0]['pairs'][1]", "mask"}
    assert set(found.input_names.values()) == names
    assert found.state_names == {}
    assert [n.output_bytes for n in found.dag if n.kind is NodeKind.INPUT] == [24, 8, 6]


def test_stops_at_a_branch_on_a_value() -> None:
    model = Branches()
    (found,) = capture_graphs(model, (torch.ones(2, 4),), training=False, inner="eager")
    assert set(found.state_names.values()) == {"first.weight", "first.bias"}
    line = Branches.forward.__code__.co_firstlineno + 2
    assert str(found.stopped_by).startswith(f"test_plan_capture.py:{line}: ")


@pytest.mark.parametrize(
    "needs_content",
    [
        lambda x: x * x.item(),
        lambda x: x.numpy().sum(),
        lambda x: x.tolist(),
        lambda x: [x] * int(x),
    ],
)
def test_without_any_graph_there_is_an_error(needs_content: Callable[[Tensor], Any]) -> None:
    class NeedsContent(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return torch._dynamo.disable(needs_content)(x)

    with pytest.raises(CaptureError, match=r"at least one graph of NeedsContent; found .*meta"):
        capture_graphs(NeedsContent(), (torch.ones(()),), training=False, inner="eager")


def test_a_call_that_fails_is_an_error() -> None:
    with pytest.raises(CaptureError, match=r"it failed at .*: TorchRuntimeError.*linear"):
        capture_graphs(nn.Linear(3, 4), (torch.ones(2, 5),), training=False, inner="eager")


def test_what_cannot_be_copied_is_an_error() -> None:
    model = nn.Linear(2, 2)
    vars(model)["lock"] = threading.Lock()
    with pytest.raises(CaptureError, match=r"cannot pickle '_thread.lock'(.|\n)*__deepcopy__"):
        capture_graphs(model, (torch.ones(1, 2),), training=False)
    with pytest.raises(CaptureError, match=r"'weight' has none .* Call the model once"):
        capture_graphs(nn.LazyLinear(2), (torch.ones(1, 2),), training=False)


def test_eager_code_may_name_devices() -> None:
    class Named(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            torch._dynamo.graph_break()
            made: Tensor = torch._dynamo.disable(self.uncaptured)(x)
            return made + 1

        def uncaptured(self, x: Tensor) -> Tensor:
            made = [
                torch.ones(4),
                torch.ones(4, device="cuda:7"),
                torch.ones(4, device=torch.device("cuda", 3)),
                x.to("cuda:1"),
                x.to(1),
                x.cuda(),
                x.cpu(),
                x.to(device="cpu", dtype=torch.float64),
                torch.zeros_like(x, device="cpu"),
            ]
            torch._check_tensor_all(x > 0)
            steps: list[float] = torch.linspace(0, 1, 3).tolist()  # has content: it met no input
            assert steps == [0.0, 0.5, 1.0]
            x[0] = torch.ones(4)
            return torch.stack([x.double() * value for value in made])

    found = capture_graphs(Named(), (torch.ones(4, 4),), training=False, inner="eager")
    assert [node.target for node in found[-1].graph.nodes][1] is torch.ops.aten.add.Tensor
    assert found[-1].stopped_by is None


def test_meta_claims_the_trace_device_only_when_asked() -> None:
    mode = FakeTensorMode()
    tensor = torch.ones(2, device="meta")
    cpu = torch.device("cpu")
    with unified_tracing(cpu, has_meta=True):
        assert mode.from_tensor(tensor).device == cpu
        with mode:
            assert torch.zeros(2, device="meta").device == cpu
        with unified_tracing(cpu), mode:
            assert torch.zeros(2, device="meta").device.type == "meta"
    with unified_tracing(cpu):
        assert FakeTensorMode().from_tensor(tensor).device.type == "meta"


def test_a_compiled_model_can_be_planned_again() -> None:
    model, args, kwargs = everything()
    expected = capture_graphs(model, args, kwargs, training=False, inner="eager")
    fxdevice.compile(model, ["cpu", "cpu"], inner="eager", strategy="pipeline", repair="silent")
    assert_same_dags(capture_graphs(model, args, kwargs, training=False, inner="eager"), expected)


def test_a_plan_inside_of_a_plan_and_of_modes() -> None:
    model, args, kwargs = everything()
    expected = capture_graphs(model, args, kwargs, training=False, inner="eager")
    with torch.inference_mode(), FakeTensorMode(), torch.compiler.set_stance("force_eager"):
        found = capture_graphs(model, args, kwargs, training=False, inner="eager")
    assert_same_dags(found, expected)


def assert_same_dags(found: Sequence[CapturedForPlan], expected: Sequence[CapturedForPlan]) -> None:
    assert [graph.dag for graph in found] == [graph.dag for graph in expected]


@pytest.fixture(autouse=True)
def _one_thread_is_enough() -> Iterator[None]:
    yield
    assert not torch.overrides._get_current_function_mode_stack()
