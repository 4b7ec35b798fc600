"""Graph breaks are heard with the user's line, also where no graph carries them."""

from traceback import FrameSummary

import torch

import fxdevice
from fxdevice.graph_breaks import break_text, listening_to_breaks


def _break_in_a_loop(x: torch.Tensor) -> torch.Tensor:
    for _ in range(2):
        if x.sum().item() > 0:  # the break
            x = x - 1
    return x


def test_heard_in_this_thread_only_while_listening() -> None:
    heard: list[str] = []
    compiled = torch.compile(_break_in_a_loop, backend="eager")
    with listening_to_breaks(heard.append):
        compiled(torch.ones(3))
    assert heard
    assert all(text.startswith("test_graph_breaks.py:13: ") for text in heard)
    torch._dynamo.reset()
    num_heard = len(heard)
    torch.compile(_break_in_a_loop, backend="eager")(torch.ones(3))
    assert len(heard) == num_heard


def test_frames_of_fxdevice_do_not_count() -> None:
    frames = [
        FrameSummary("/home/user/model.py", 7, "forward"),
        FrameSummary(fxdevice.__file__, 1, "call"),
    ]
    assert break_text(frames, "Encountered graph break\n\nWhy.\n") == "model.py:7: Why."
    assert break_text([], "") == "?: no reason given"


def test_report_lists_a_break_that_no_graph_carries() -> None:
    fxdevice.sim.enable(8)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _break_in_a_loop(self.layer(x))

    plain = Model()
    x = torch.randn(2, 3)
    with torch.no_grad():
        wanted = plain(x)
        placed = fxdevice.compile(plain, ["fxsim:0", "fxsim:1"], inner="eager", strategy="pipeline")
        torch.testing.assert_close(placed(x), wanted)
    reasons = [found.reason for found in fxdevice.report(placed).breaks]
    assert any(reason.startswith("test_graph_breaks.py:13: ") for reason in reasons), reasons
