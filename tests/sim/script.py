"""Runs Python code in a process of its own, for what a process can do only once."""

import os
import subprocess
import sys
import textwrap


def run_script(code: str, **environment: str) -> str:
    """What `code` prints; fails with its standard error where it raises."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout.strip()
