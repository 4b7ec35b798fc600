"""What a file of measured figures says of the machine."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import torch

__all__ = ["write_figures"]


def write_figures(path: Path, figures: Mapping[str, object], *, rounds: int) -> None:
    """Writes figures of the CPU with the date, the machine and PyTorch's version.

    Args:
        path: JSON file to write.
        figures: What was measured.
        rounds: How many times each thing was.
    """
    facts = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, no accelerator",
        "torch": torch.__version__,
        "rounds": rounds,
        "figures": figures,
    }
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
