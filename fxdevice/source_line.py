"""The line of the user's program that a node was traced from."""

from __future__ import annotations

import re

from torch import fx

__all__ = ["source_line"]

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)[^\n]*\n\s*(?P<code>[^\n]*)')

_OURS = re.compile(r"/fxdevice/[^/]*\.py$")
_TORCH = re.compile(r"/(site-packages|dist-packages)/torch/")


def source_line(node: fx.Node) -> str | None:
    """Returns "file.py:12 code" of the innermost frame that `node` was traced from, or None.

    Frames of PyTorch and of fxdevice do not count unless there are no others. The file is named
    without its folder, so that the text is the same on every machine.
    """
    trace = node.meta.get("stack_trace")
    if not isinstance(trace, str):
        return None
    frames = list(_FRAME.finditer(trace))
    if not frames:
        return None
    theirs = [frame for frame in frames if not _OURS.search(_path(frame))]
    users = [frame for frame in theirs if not _TORCH.search(_path(frame))]
    frame = (users or theirs or frames)[-1]
    name = _path(frame).rsplit("/", 1)[-1]
    return f"{name}:{frame['line']} {frame['code'].strip()}".rstrip()


def _path(frame: re.Match[str]) -> str:
    return frame["file"].replace("\\", "/")
