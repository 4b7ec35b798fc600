"""The worker threads of a process: threads and cores, child processes, the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fxdevice.cores import available_cores, cores_of_slot
from fxdevice.runtime import workers

ROOT = Path(__file__).resolve().parents[2]


def run_script(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.runtime.worker_script", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    done = run_script()
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_worker_has_as_many_threads_as_cores_and_nothing_else_changes(
    found: dict[str, Any],
) -> None:
    shares = [cores_of_slot(slot, 2, available_cores()) for slot in range(2)]
    assert found["of_workers"] == [len(share) for share in shares]
    assert found["of_caller"] == 64
    assert found["of_a_new_thread"] == 64


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_worker_keeps_to_its_cores(found: dict[str, Any]) -> None:
    shares = [list(cores_of_slot(slot, 2, available_cores())) for slot in range(2)]
    assert found["cores_of_workers"] == shares
    assert found["cores"] == [list(available_cores())] * 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_process_has_workers_of_its_own(found: dict[str, Any]) -> None:
    assert found["after_fork"] == [6.0, 8.0]


def test_the_process_ends_while_a_call_runs() -> None:
    done = run_script("exit")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_daemon_thread_runs_nothing_itself_when_the_process_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ending = workers._Workers()
    ending.close()
    monkeypatch.setattr(workers, "_workers", ending)
    found: list[object] = []
    for is_daemon in (False, True):
        thread = threading.Thread(
            target=lambda: found.append(workers.queues_of([0], 1)), daemon=is_daemon
        )
        thread.start()
        thread.join(0.5)
        assert thread.is_alive() is is_daemon
    assert found == [None]
