"""What is logged, and the switch for it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fxdevice
from fxdevice import sim
from tests.two_slots import HALVES, SLOTS, TwoLayers

SCRIPT = """
import torch, fxdevice
model = fxdevice.compile(torch.nn.Linear(4, 4), ["cpu", "cpu"], inner="eager")
with torch.no_grad():
    model(torch.ones(2, 4))
"""


@pytest.fixture(autouse=True)
def simulated_devices() -> None:
    sim.enable(8)


class Talks(TwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x) + torch.ones(5)
        torch._dynamo.graph_break()
        out: Tensor = self.second(h)
        return out


def messages(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == level]


def test_a_line_for_each_event(caplog: pytest.LogCaptureFixture) -> None:
    model = fxdevice.compile(Talks(), SLOTS, device_map=HALVES, inner="eager", repair="silent")
    with caplog.at_level(logging.INFO, logger="fxdevice"), torch.no_grad():
        model(torch.ones(2, 4))
        model(torch.ones(3, 4))
    said = messages(caplog, logging.INFO)
    assert any(m.startswith("graph 0, inference: 4 operations on fxsim:0") for m in said), said
    assert any("inference (recompiled): " in m for m in said), said
    assert any(m.startswith("repaired: tensor created without device=: ones") for m in said)
    assert any(m.startswith("graph break: test_logs.py:") for m in said), said
    assert messages(caplog, logging.DEBUG) == []


def test_debug_adds_the_key_tensors(caplog: pytest.LogCaptureFixture) -> None:
    model = fxdevice.compile(TwoLayers(), SLOTS, device_map=HALVES, inner="eager")
    with caplog.at_level(logging.DEBUG, logger="fxdevice"), torch.no_grad():
        model(torch.ones(2, 4))
    said = [m for m in messages(caplog, logging.DEBUG) if m.startswith("graph 0")]
    assert (
        "graph 0, inference: transfer relu fxsim:0 -> fxsim:1: (2, 5) torch.float32, strides"
        in (said_line.rsplit(" (", 1)[0] for said_line in said)
    )
    assert any(": output addmm_1 on fxsim:1: (2, 3)" in m for m in said)


def test_alignments_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Mixes(TwoLayers):
        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second.weight @ self.first(x).T
            return out

    model = fxdevice.compile(Mixes(), SLOTS, device_map=HALVES, inner="eager")
    with caplog.at_level(logging.INFO, logger="fxdevice"), torch.no_grad():
        model(torch.ones(2, 4))
    assert any(m.startswith("aligned 1 arguments of ") for m in messages(caplog, logging.INFO))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("info", "fxdevice.graph_log: graph 0, inference: "),
        ("debug", "input arg0_1 on cpu"),
        ("loud", "FXDEVICE_LOG=loud is not known; expected one of"),
    ],
)
def test_the_environment_switch(asked: str, words: str) -> None:
    assert words in run({"FXDEVICE_LOG": asked})


def test_silent_by_default() -> None:
    assert "graph 0" not in run({})


def test_placed_graphs_are_in_the_structured_trace(tmp_path: Path) -> None:
    run({"TORCH_TRACE": str(tmp_path)})
    (trace,) = tmp_path.iterdir()
    text = trace.read_text()
    assert '"name": "fxdevice_placed_0_inference"' in text
    assert "slot 0 | " in text


def run(environment: dict[str, str]) -> str:
    """Returns what the script prints on standard error."""
    clean = {k: v for k, v in os.environ.items() if k not in ("FXDEVICE_LOG", "TORCH_TRACE")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT)],
        capture_output=True,
        text=True,
        env={**clean, **environment},
        check=True,
        timeout=240,
    )
    return done.stderr
