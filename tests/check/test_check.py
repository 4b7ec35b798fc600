"""What check says of healthy and dispatched models, fake runs, and models that fail otherwise."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxdevice
from fxdevice import sim
from fxdevice.check import Cause, watch
from fxdevice.check.diagnose import finding_of
from fxdevice.errors import CompileOptionError
from tests.check.faulty import FAULTS, FIRST, SECOND, D, Fault, Two, vectors
from tests.two_slots import Snapshot, assert_same
from tests.zoo import example
from tests.zoo.accelerate_dispatch import dispatch_automatically


@pytest.fixture(autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


def fault(name: str) -> Fault:
    return next(entry for entry in FAULTS if entry.name == name)


class Joined(Two):
    """A hand-split model that moves what it must."""

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.second(self.first(x).to(self.second.weight.device))
        mask = torch.ones(D, device=h.device)
        return h * mask * torch.tensor(2.0) + x.to(h.device)


HEALTHY_UNDER_ACCELERATE = (
    "llama",
    "mistral",
    "gpt2",
    "gpt_neox",
    "opt",
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "t5",
    "bart",
    "mixtral",
    "vit",
    "convnext",
    "swin",
    "clip",
    "whisper",
    "mamba",
    "llava",
    "branching_cnn",
)


@pytest.mark.parametrize("name", HEALTHY_UNDER_ACCELERATE)
def test_no_false_finding_on_dispatched_models(name: str) -> None:
    entry = example(name)
    model = dispatch_automatically(entry.build(), 2)
    args, kwargs = entry.inputs()
    with torch.no_grad():
        model(*args, **kwargs)  # it is healthy
        diagnosis = fxdevice.check(model, *args, **kwargs)
    assert diagnosis.ok, str(diagnosis)
    assert diagnosis.num_operations > 10


@pytest.mark.parametrize("entry", FAULTS, ids=lambda entry: entry.name)
def test_no_false_finding_on_one_device(entry: Fault) -> None:
    model = entry.build().to(entry.one_device)
    assert fxdevice.check(model, *entry.inputs(entry.one_device)).ok


def test_no_false_finding_on_a_hand_split_model() -> None:
    model = Joined()
    model.first.to(FIRST)
    model.second.to(SECOND)
    diagnosis = fxdevice.check(model, *vectors(FIRST))
    assert str(diagnosis).startswith("Joined: no device errors in ")
    assert diagnosis.ok


def test_all_errors_of_a_dispatched_model_in_one_run() -> None:
    entry = example("omnilmm")
    model = dispatch_automatically(entry.build(), 2)
    args, kwargs = entry.inputs()
    with torch.no_grad():
        found = fxdevice.check(model, *args, **kwargs).findings
    assert [(f.operation, f.cause, f.module) for f in found] == [
        ("add", Cause.UNREGISTERED, "resampler"),
        ("add", Cause.UNREGISTERED, "resampler"),
        ("scatter_", Cause.IN_PLACE_TARGET, ""),
    ]
    assert [f.stray.name for f in found[:2]] == [
        "resampler.key_positions",
        "resampler.query_positions",
    ]


def test_repeated_layers_are_one_finding() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(D, D)
            self.slopes = torch.ones(D)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.linear(x) * self.slopes
            return out

    model = nn.Sequential(*(Layer() for _ in range(6))).to(FIRST)
    (found,) = fxdevice.check(model, *vectors(FIRST)).findings
    assert found.modules == ("0", "1", "2", "3", "4", "5")
    assert found.num_times == 6
    assert found.module == "0"
    assert "0, 1, 2, 3 and 2 more, 6 times" in str(fxdevice.check(model, *vectors(FIRST)))


def test_source_is_read_once_for_a_line_that_fails_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every repetition read the class anew, so that 500 of them took half a minute."""
    made = []

    def counted(*args: Any) -> Any:
        made.append(finding_of(*args))
        return made[-1]

    monkeypatch.setattr(watch, "finding_of", counted)
    entry = fault("Nested")
    (found,) = fxdevice.check(entry.build_split(), *entry.inputs(FIRST)).findings
    assert found.num_times == 3
    assert len(made) == 1


def test_library_code_alone() -> None:
    model = nn.Sequential(nn.Linear(D, D).to(FIRST), nn.Linear(D, D).to(SECOND))
    (found,) = fxdevice.check(model, *vectors(FIRST)).findings
    assert found.place is None
    assert (found.module, found.operation, found.cause) == ("1", "linear", Cause.OTHER_STAGE)


def test_the_run_is_the_models_own_and_changes_nothing_else() -> None:
    entry = fault("PlainPosition")
    model = entry.build_split()
    before = Snapshot.of(model)
    fxdevice.check(model, *entry.inputs(FIRST))
    before.assert_unchanged(model)


def test_text_and_json() -> None:
    entry = fault("CrossEntropy")
    diagnosis = fxdevice.check(entry.build_split(), *entry.inputs(FIRST))
    file = diagnosis.findings[0].place
    assert file is not None
    text = str(diagnosis).replace(file.file, "faulty.py")
    assert text.splitlines()[:7] == [
        "CrossEntropy: 1 device error in 5 operations",
        "",
        "1. cross_entropy: labels on another device than the loss",
        f"   faulty.py:{entry.line} in CrossEntropy.forward",
        "       return F.cross_entropy(logits, labels)  # here",
        "   module: (the model)",
        "     fxsim:1  result of `self.second(h.to(self.second.weight.device))` at "
        f"faulty.py:{entry.line - 1}: float32[4, 8]",
    ]
    assert "   > fxsim:0  labels (input): int64[4]" in text.splitlines()
    data = json.loads(diagnosis.to_json())
    assert data["ok"] is False
    assert data["findings"][0]["cause"] == "labels on another device than the loss"
    assert data["findings"][0]["place"]["line"] == entry.line
    assert data["findings"][0]["arguments"][1] == {
        "name": "labels",
        "kind": "input",
        "device": "fxsim:0",
        "shape": [4],
        "dtype": "int64",
        "is_stray": True,
    }


def test_another_error_is_shown_unchanged_with_a_note() -> None:
    class Fails(Two):
        def __init__(self) -> None:
            super().__init__()
            self.position = torch.ones(D)

        def forward(self, x: Tensor) -> Tensor:
            assert (self.first(x) + self.position).shape == (4, D)
            raise LookupError("no such layer")

    model = Fails().to(FIRST)
    with pytest.raises(LookupError) as raised:
        fxdevice.check(model, *vectors(FIRST))
    assert raised.value.args == ("no such layer",)
    (note,) = raised.value.__notes__
    assert note.startswith("fxdevice.check found this before the error:\nFails: 1 device error in")
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        fxdevice.check(nn.Linear(4, 4), torch.ones(2, 3))


def test_out_of_memory_is_shown_unchanged() -> None:
    model = Joined().to(FIRST)
    sim.set_memory_limit(0, sim.memory_allocated(0) + 1000)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            fxdevice.check(lambda x: x.repeat(1000, 1), torch.ones(4, D, device=FIRST))
        (found,) = fxdevice.check(model, torch.ones(2, D)).findings
        assert found.cause is Cause.INPUT
    finally:
        sim.set_memory_limit(0, None)


def test_generators_run_to_their_end() -> None:
    class Streams(Two):
        def forward(self, x: Tensor) -> Iterator[Tensor]:
            for _ in range(2):
                yield self.first(x)
                yield self.second(x)

    model = Streams()
    model.first.to(FIRST)
    model.second.to(SECOND)
    (found,) = fxdevice.check(model, *vectors(FIRST)).findings
    assert (found.operation, found.num_times) == ("linear", 2)


def test_functions() -> None:
    def combine(left: Tensor, right: Tensor) -> Tensor:
        return left @ right.T

    ones = torch.ones(2, 2)
    (found,) = fxdevice.check(combine, ones.to(FIRST), right=ones.to(SECOND)).findings
    assert found.operation == "matmul"
    assert [argument.name for argument in found.arguments] == ["left", "view of right"]


def test_inputs_in_objects_that_hold_each_other() -> None:
    class Holder:
        def __init__(self, keys: Tensor) -> None:
            self.keys = [keys]
            self.others = [self]

    def read(x: Tensor, past_key_values: Holder) -> Tensor:
        return torch.cat([past_key_values.keys[0], x])

    ones = torch.ones(2, D)
    (found,) = fxdevice.check(read, ones.to(FIRST), Holder(ones)).findings
    assert found.stray.name == "past_key_values.keys[0]"
    assert found.cause is Cause.KV_CACHE


def test_fake_needs_no_device_and_no_memory() -> None:
    class Spliced(Two):
        def __init__(self) -> None:
            super().__init__()
            self.position = torch.ones(D)

        def forward(self, x: Tensor) -> Tensor:
            text = self.first(x) + self.position
            image = self.second(text)
            rows = torch.zeros(1, D, dtype=torch.int64, device=x.device)
            out: Tensor = text.scatter_(0, rows, image)
            return out

    with torch.device("meta"):
        model = Spliced()
        x = torch.empty(4, D)
    where = {"first": "cuda:0", "second": "cuda:1"}
    found = fxdevice.check(model, x, fake=True, device_map=where).findings
    assert [(f.operation, f.cause, f.home) for f in found] == [
        ("add", Cause.UNREGISTERED, "cuda:0"),
        ("scatter_", Cause.IN_PLACE_TARGET, "cuda:0"),
    ]
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert fxdevice.check(model, x, fake=True, device_map={"": "cuda:0"}).findings[0].cause is (
        Cause.UNREGISTERED
    )


def test_bad_input() -> None:
    model = Two()
    x = torch.ones(2, D)
    with pytest.raises(TypeError, match="found int"):
        fxdevice.check(3, x)  # type: ignore[arg-type]
    with pytest.raises(CompileOptionError, match="needs fake=True"):
        fxdevice.check(model, x, device_map={"first": FIRST})
    with pytest.raises(CompileOptionError, match=r"\['third'\], which is no module"):
        fxdevice.check(model, x, fake=True, device_map={"third": FIRST})
    with pytest.raises(CompileOptionError, match="a function has no module names"):
        fxdevice.check(torch.relu, x, fake=True, device_map={"first": FIRST})
    compiled = fxdevice.compile(model, [FIRST, SECOND], inner="eager", strategy="pipeline")
    with pytest.raises(CompileOptionError, match=r"call fxdevice\.restore on it first"):
        fxdevice.check(compiled, x)


def test_a_suggestion_that_is_followed_ends_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The changed lines are run: every diff of the table is one that works."""
    for entry in (e for e in FAULTS if e.diff):
        (found, *_) = fxdevice.check(entry.build_split(), *entry.inputs(entry.inputs_on)).findings
        assert found.place is not None
        changed = _with_change(found.diff, found.place.file)
        module = types.ModuleType("tests.check.changed")
        monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look it up
        exec(compile(changed, found.place.file, "exec"), vars(module))
        again = next(e for e in module.FAULTS if e.name == entry.name)
        model = again.build_split()
        if entry.name == "PlainPosition":
            model.to(FIRST)
        inputs = again.inputs(again.inputs_on)
        model(*inputs)
        assert_same(
            model(*inputs), entry.build().to(entry.one_device)(*entry.inputs(entry.one_device))
        )


def _with_change(diff: str, file: str) -> str:
    with open(file) as opened:
        source = opened.read()
    lines = diff.splitlines(keepends=True)
    (old,) = (line[1:] for line in lines if line.startswith("-") and not line.startswith("---"))
    (new,) = (line[1:] for line in lines if line.startswith("+") and not line.startswith("+++"))
    number = int(diff.split("@@ -")[1].split(",")[0])
    before = source.splitlines(keepends=True)
    index = next(i for i in range(number - 1, number + 2) if before[i] == old)
    return "".join([*before[:index], new, *before[index + 1 :]])
