"""The structure of the source: imports go downward, private PyTorch stays where it is listed."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 300

# Top to bottom. A module may import from its own line and from the lines below it.
LAYERS = (
    "__init__",
    "cli",
    "check",
    "planning",
    "api",
    "report",
    "plan_capture",
    "plan_backend",
    "meta_eager",
    "meta_twins",
    "dynamo_caches",
    "model",
    "aligned_methods",
    "call_context",
    "batch_size",
    "preflight",
    "stale_guards",
    "entry_point",
    "backend",
    "input_homes",
    "backward_context",
    "align",
    "traced_call",
    "alignment",
    "autograd_functions",
    "state",
    "tensor_content",
    "optimizer_state",
    "records",
    "results",
    "repairs",
    "graph_breaks",
    "graph_log",
    "driver",
    "strategy_problems",
    "graph_inputs",
    "module_paths",
    "profiling",
    "runtime",
    "tracing",
    "untraced",
    "machine",
    "calibrate",
    "passes",
    "cut",
    "pipeline",
    "connections",
    "verify",
    "device_literals",
    "dump",
    "placed_graph",
    "transfer_op",
    "op_dims",
    "op_kinds",
    "sizes",
    "source_line",
    "options",
    "devices",
    "staging",
    "sim",
    "logs",
    # No torch from here on: decisions are plain Python over plain data.
    "plans",
    "choose",
    "trials",
    "evaluate",
    "exact",
    "exact_spans",
    "exact_kinds",
    "exact_solver",
    "exact_model",
    "exact_groups",
    "exact_channels",
    "exact_coarse",
    "exact_seed",
    "exact_joins",
    "exact_steps",
    "placers",
    "spans",
    "slot_symmetry",
    "bounds",
    "simulate",
    "schedule",
    "workload",
    "views",
    "indexed",
    "expanded",
    "instance_nodes",
    "expand",
    "rounds",
    "pieces",
    "together",
    "join_partitions",
    "overlap",
    "overlap_joins",
    "overlap_labels",
    "placement",
    "pins",
    "collector",
    "costs",
    "memory_model",
    "divisible",
    "dag",
    "derived",
    "bits",
    "dims",
    "topologies",
    "topology_json",
    "known_links",
    "topology",
    "cores",
    "device_spec",
    "known_devices",
    "errors",
)
NO_TORCH = LAYERS[LAYERS.index("plans") :]

# Which module uses which private part of PyTorch, and why no public one does. A use of anything
# below the named part counts as a use of it.
PRIVATE_TORCH = {
    ("align", "torch._C._get_function_stack_at"): "whether the alignment is the innermost mode",
    ("align", "torch._C._len_torch_function_stack"): "whether there is a mode",
    ("align", "torch._C._pop_torch_function_stack"): "sets the alignment aside in a graph",
    ("align", "torch._C._push_on_torch_function_stack"): "puts the alignment back after a graph",
    ("alignment", "torch._C.TensorBase"): "the setters of Tensor.data and Tensor.grad",
    ("alignment", "torch._has_compatible_shallow_copy_type"): "nn.Module.to asks it of two devices",
    ("backend", "torch._dynamo.exc"): "which exceptions are Dynamo's own control flow",
    ("backward_context", "torch._C._get_obj_in_tls"): "the context that autograd stashed",
    ("backward_context", "torch._C._is_key_in_tls"): "whether autograd stashed one",
    ("backward_context", "torch._C._stash_obj_in_tls"): "a copy of it for one backward graph",
    ("batch_size", "torch._dynamo.mark_static"): "a dimension that has a graph for every size",
    ("call_context", "torch._dynamo.exc"): "carries the errors of a backend out of Dynamo",
    ("calibrate.work", "torch.utils._pytree.tree_map"): "tensors in nested arguments",
    ("check.fake", "torch._subclasses.fake_tensor"): "tensors on devices that need not exist",
    ("check.fake", "torch.utils._pytree.tree_map_only"): "tensors in nested arguments",
    ("cut", "torch._functorch.partitioners.default_partition"): "cuts forward from backward",
    ("dynamo_caches", "torch._C._dynamo.eval_frame"): "what Dynamo keeps with a code object",
    ("dynamo_caches", "torch._dynamo"): "which code objects Dynamo looked at",
    ("graph_breaks", "torch._dynamo.symbolic_convert"): "where Dynamo logs every graph break",
    ("graph_inputs", "torch._functorch._aot_autograd.descriptors"): "what a graph's input is",
    ("graph_log", "torch._guards"): "which compilation this is",
    ("graph_log", "torch._logging"): "the structured trace that tlparse reads",
    ("machine", "torch._C._get_privateuse1_backend_name"): "such a backend computes on the CPU",
    ("meta_eager", "torch.Tensor._is_all_true"): "what an assertion on content asks",
    ("meta_twins", "torch._C.DisableTorchFunction"): "makes a twin outside of its own mode",
    ("meta_twins", "torch.utils._python_dispatch"): "recognizes wrapper subclasses",
    ("model", "torch._C._current_graph_task_id"): "whether backward calls, to recompute",
    ("passes.traffic", "torch.utils._pytree.tree_leaves"): "the pytrees of fx",
    ("plan_backend", "torch._dynamo.exc"): "which exceptions are Dynamo's own control flow",
    ("plan_backend", "torch.utils._python_dispatch"): "recognizes wrapper subclasses",
    ("plan_capture", "torch._dynamo.config.patch"): "a plan may have more graphs than usual",
    ("plan_capture", "torch._dynamo.exc"): "carries the errors of a backend out of Dynamo",
    ("profiling.meter", "torch._C.DisableTorchFunction"): "compiled code is not aligned",
    ("runtime.executor", "torch._C.DisableTorchFunction"): "compiled code is not aligned",
    ("runtime.host_executor", "torch._C._len_torch_dispatch_stack"): "whether a mode looks on",
    ("runtime.inductor", "torch._guards"): "inductor wants a tracing context per partition",
    ("runtime.inductor", "torch._inductor"): "compiles a partition, says which devices it can",
    ("runtime.inductor", "torch.utils._triton"): "says whether inductor can use triton",
    ("runtime.inner", "torch._dynamo"): "looks up backends by name",
    ("runtime.kernel_gil", "torch._inductor"): "the binding of C++ kernels to Python",
    ("runtime.strides", "torch._guards"): "tells AOTAutograd the strides of what forward saves",
    ("runtime.stream_executor", "torch._C.DisableTorchFunction"): "compiled code is not aligned",
    ("runtime.stream_executor", "torch._C._len_torch_dispatch_stack"): "whether a mode looks on",
    ("runtime.workers", "torch._C.DisableTorchFunction"): "compiled code is not aligned",
    ("sim.compile_support", "torch._prims.rng_prims"): "random state of a device type",
    ("sim.registration", "torch._C._get_privateuse1_backend_name"): "is the slot taken?",
    ("sim.registration", "torch._register_device_module"): "makes torch.fxsim",
    ("tensor_content", "torch._C._swap_tensor_impl"): "moves a parameter and keeps its identity",
    ("tensor_content", "torch._functorch.pyfunctorch"): "moves a parameter inside vmap and grad",
    ("tensor_content", "torch._has_compatible_shallow_copy_type"): "whether .data can be set",
    ("tensor_content", "torch.utils._python_dispatch"): "recognizes wrapper subclasses",
    ("tracing", "torch._C._get_privateuse1_backend_name"): "such a backend is traced on the CPU",
    ("tracing", "torch._ops.OpOverload"): "the type of an operator",
    ("tracing", "torch._subclasses.fake_tensor"): "every fake tensor claims the trace device",
    ("tracing", "torch.utils._python_dispatch"): "leaves our own modes out of a computation",
    ("untraced", "torch._dynamo.eval_frame.skip_code"): "skips a frame, yet lets it be inlined",
}


def source_files() -> dict[str, Path]:
    """Return module name (without "fxdevice.") -> file, without following the link to passes."""
    files = {}
    for folder, prefix in ((ROOT / "fxdevice", ()), (ROOT / "passes", ("passes",))):
        for path in sorted(folder.rglob("*.py")):
            parts = (*prefix, *path.relative_to(folder).with_suffix("").parts)
            if folder.name == "passes" or parts[0] != "passes":
                files[".".join(parts)] = path
    return files


FILES = source_files()


def dotted_name(node: ast.expr) -> str:
    """Return "a.b.c" for such an expression, "" for any other."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        prefix = dotted_name(node.value)
        return f"{prefix}.{node.attr}" if prefix else ""
    return ""


def run_time_source(source: str) -> str:
    """Return a module's source without the imports that only the type checker sees."""
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not (isinstance(node, ast.If) and dotted_name(node.test) == "TYPE_CHECKING")
    ]
    return ast.unparse(tree)


def imported_names(source: str, module: str) -> Iterator[str]:
    """Yield the full name of everything that a module imports, inside functions too."""
    package = ["fxdevice", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def private_torch(source: str, module: str) -> set[str]:
    """Return the dotted names under torch, imported or written out, that have a private part."""
    expressions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.expr))
    names = {*imported_names(source, module), *map(dotted_name, expressions)}
    private = {
        name
        for name in names
        if name.split(".")[0] == "torch"
        and any(part.startswith("_") and not part.startswith("__") for part in name.split("."))
    }
    # `torch._C.X` holds the expression `torch._C`: keep the longest.
    return {name for name in private if not any(other.startswith(name + ".") for other in private)}


def own_imports(source: str, module: str, known: Collection[str]) -> set[str]:
    """Return the modules of fxdevice, among the known ones, that a module imports."""
    found = set()
    for name in imported_names(source, module):
        parts = name.split(".")
        if parts[0] != "fxdevice":
            continue
        # `from fxdevice.dag import Dag` names an object: cut back to the module that holds it.
        stems = [".".join(parts[1:length]) for length in range(len(parts), 0, -1)]
        names = [name for stem in stems for name in (stem, f"{stem}.__init__".lstrip("."))]
        found.add(next(name for name in names if name in known))
    return found


def unit(module: str) -> str:
    """Return the line of LAYERS that a module belongs to."""
    return module.split(".")[0]


def upward_imports(source: str, module: str, known: Collection[str]) -> set[str]:
    level = LAYERS.index(unit(module))
    imported = own_imports(source, module, known)
    return {name for name in imported if LAYERS.index(unit(name)) < level}


def unlisted(source: str, module: str) -> list[str]:
    """Return the private parts of PyTorch that a module uses without an entry in the table."""
    listed = tuple(part for name, part in PRIVATE_TORCH if name == module)
    return sorted(
        name
        for name in private_torch(source, module)
        if not any(name == part or name.startswith(part + ".") for part in listed)
    )


def test_every_module_has_a_layer() -> None:
    assert {unit(module) for module in FILES} == set(LAYERS)


@pytest.mark.parametrize("module", FILES)
def test_imports_go_downward(module: str) -> None:
    assert upward_imports(FILES[module].read_text(), module, FILES) == set()


@pytest.mark.parametrize("module", [name for name in FILES if unit(name) in NO_TORCH])
def test_decisions_need_no_torch(module: str) -> None:
    names = {name.split(".")[0] for name in imported_names(FILES[module].read_text(), module)}
    assert "torch" not in names


@pytest.mark.parametrize("module", FILES)
def test_private_torch_is_listed(module: str) -> None:
    assert unlisted(FILES[module].read_text(), module) == []


@pytest.mark.parametrize(("module", "part"), PRIVATE_TORCH)
def test_listed_private_torch_is_used(module: str, part: str) -> None:
    used = private_torch(FILES[module].read_text(), module)
    assert any(name == part or name.startswith(part + ".") for name in used)


def test_importing_fxdevice_does_not_import_the_inner_compiler() -> None:
    script = "import sys, fxdevice; print('torch._inductor.compile_fx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False"], done.stderr


def test_no_import_cycles() -> None:
    sources = {name: run_time_source(path.read_text()) for name, path in FILES.items()}
    graph = {name: own_imports(text, name, FILES) - {name} for name, text in sources.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) == len(FILES)


@pytest.mark.parametrize("module", FILES)
def test_modules_stay_short(module: str) -> None:
    assert len(FILES[module].read_text().splitlines()) <= MAX_LINES


def test_upward_imports_are_found_in_every_spelling() -> None:
    source = (
        "import fxdevice.api\n"
        "from fxdevice import driver\n"
        "from fxdevice.backend import x\n"
        "def late():\n"
        "    from ..passes import y\n"
        "    from fxdevice.errors import FxDeviceError\n"
    )
    known = ("__init__", "api", "backend", "driver", "passes.__init__", "errors")
    expected = {"api", "backend", "driver", "passes.__init__"}
    assert upward_imports(source, "placers.chain", known) == expected


def test_private_torch_is_found_in_every_spelling() -> None:
    source = (
        "import torch._dynamo as dynamo\n"
        "from torch._guards import TracingContext\n"
        "from torch import _C\n"
        "from torch.fx._utils import lazy_format\n"
        "torch._functorch.config.x = 1\n"
        "torch.fx.Graph.__init__\n"
    )
    assert private_torch(source, "placers.chain") == {
        "torch._dynamo",
        "torch._guards.TracingContext",
        "torch._C",
        "torch.fx._utils.lazy_format",
        "torch._functorch.config.x",
    }
