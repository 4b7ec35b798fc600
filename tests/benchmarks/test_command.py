"""The benchmark as it is called: tiny models, runners in processes, files written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.speed.command import main
from benchmarks.speed.job import Job
from benchmarks.speed.measure import measure
from benchmarks.speed.models import model_named
from benchmarks.speed.results import results_from_json
from benchmarks.speed.worker import WrongAnswer, check_equal

RUNNERS = (
    "compiled",
    "fx_data",
    "naive_data_parallel",
    "data_parallel",
    "ddp",
    "distributed_pipelining",
)


def test_quick_measures_checks_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "found"
    # CPU slots: an earlier test may have enabled the simulated devices, which are no accelerator to
    # be measured. One core: threads that wait for each other are slow where tests run side by side.
    options = ["--quick", "--cores", "1", "--devices", "cpu", "cpu", "--out", str(out)]
    main([*options, "--runners", *RUNNERS])
    results = results_from_json(json.loads(out.with_suffix(".json").read_text()))
    assert len(results.rows) == 2 * len(RUNNERS)
    for row in results.rows:
        if row.runner == "data_parallel":
            assert "refuses CPU slots" in row.refusal
            continue
        assert not row.refusal, (row.model, row.runner, row.refusal)
        assert len(row.seconds) == 3
        assert all(seconds > 0 for seconds in row.seconds)
        has_peer = row.runner in ("ddp", "distributed_pipelining")
        assert len(row.processor_s) == (0 if has_peer else 3)
        assert (row.moved_bytes is not None) == row.runner.startswith("fx_")
    page = out.with_suffix(".md").read_text()
    assert all(f"| {row.model} | {row.runner} |" in page for row in results.rows)
    assert "goal: geometric mean 2x or more" in capsys.readouterr().out


def test_what_fails_is_a_row_with_the_reason() -> None:
    (row,) = measure(
        [model_named("tiny_mlp")],
        ["nothing"],
        lambda model, runner: Job(model, runner, ("cpu", "cpu"), 1, "eager"),
        turns=1,
    )
    assert (row.model, row.seconds, row.refusal) == ("tiny_mlp", (), "KeyError: 'nothing'")


def test_wrong_answers_are_not_timed() -> None:
    right = (torch.tensor([1.0, 2.0]), torch.tensor(3.0))
    check_equal((right[0] + 1e-5, right[1]), right, "result")
    for wrong, reason in (
        ((right[0] + 0.1, right[1]), r"off by 1\.0e-01"),
        ((right[0] * float("nan"), right[1]), "off by nan"),
        ((right[0][:1], right[1]), r"shape \[1\], eager \[2\]"),
        (right[:1], "1 tensors, eager 2"),
    ):
        with pytest.raises(WrongAnswer, match=f"wrong result: {reason}"):
            check_equal(wrong, right, "result")


def test_a_run_that_was_stopped_is_added_to(tmp_path: Path) -> None:
    out = tmp_path / "found"
    options = ["--quick", "--cores", "1", "--devices", "cpu", "cpu", "--out", str(out)]
    options += ["--runners", "eager", "--turns", "2"]
    main([*options, "--models", "tiny_mlp"])
    first = results_from_json(json.loads(out.with_suffix(".json").read_text()))
    main([*options, "--add"])
    both = results_from_json(json.loads(out.with_suffix(".json").read_text()))
    assert both.models() == ("tiny_mlp", "tiny_mlp_training")
    assert both.rows[: len(first.rows)] == first.rows
    with pytest.raises(SystemExit, match="measured with another turns; measure all of it again"):
        main([*options, "--add", "--turns", "1"])
    assert results_from_json(json.loads(out.with_suffix(".json").read_text())) == both
