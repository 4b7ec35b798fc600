"""The figures on results whose ratios are known."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from benchmarks.speed.figures import FIGURES, RUNNERS_OF, STRATEGIES, figures
from benchmarks.speed.page import page, table
from benchmarks.speed.results import (
    Environment,
    Results,
    Row,
    results_from_json,
    results_to_json,
)
from benchmarks.speed.runners import RUNNERS

FIXED: dict[str, float | str] = {f"fx_{strategy}": 2.0 for strategy in STRATEGIES}
FIXED |= {"fx_data_pipeline": "refused", "fx_branch": FIXED.pop("fx_branch")}
ENVIRONMENT = Environment(
    "2026-01-01", "a machine", 2, "2.13", "3.11", ("cpu", "cpu"), "eager", 3, 0.0, True
)


def results(
    seconds: Mapping[str, Mapping[str, float | str]],
    *,
    training: bool = False,
    compile_s: float = 1.0,
) -> Results:
    """Results of models, by name, under runners: seconds of a call, or why it was refused."""
    rows = []
    for model, found in seconds.items():
        for runner, value in found.items():
            row = Row(model, runner, 4, training, True)
            if isinstance(value, str):
                row = Row(model, runner, 4, training, True, refusal=value)
            else:
                busy = (1.5 * value,) * 3
                row = Row(model, runner, 4, training, True, (value,) * 3, busy, compile_s)
            rows.append(row)
    return Results(ENVIRONMENT, tuple(rows))


@pytest.mark.parametrize(
    ("name", "reached", "missed", "training"),
    [
        ("data_inference", {"fx_data": 1.0, "naive_data_parallel": 2.0}, 1.9, False),
        ("data_training", {"fx_data": 1.0, "naive_data_parallel": 1.6}, 1.5, True),
        ("two_slots", {"fx_data": 1.0, "compiled_one_slot": 1.9}, 1.8, False),
        ("auto_against_compiled", {"fx_auto": 1.0, "compiled": 1.1}, 1.05, True),
        ("pipeline_inference", {"fx_pinned_pipeline": 1.0, "split_by_hand": 1.6}, 1.5, False),
        ("pipeline_training", {"fx_pinned_pipeline": 1.0, "split_by_hand": 1.5}, 1.4, True),
        ("accelerate", {"fx_pinned_pipeline": 1.0, "accelerate": 1.01}, 0.99, False),
        ("one_device", {"fx_one": 1.0, "compiled": 0.98}, 0.96, False),
        ("auto_against_best", {"fx_auto": 1.0, **FIXED, "fx_branch": 0.96}, 0.94, False),
    ],
)
def test_goal(name: str, reached: dict[str, float | str], missed: float, training: bool) -> None:
    assert FIGURES[name](results({"m": reached}, training=training)).is_reached is True
    baseline = list(reached)[-1]
    slower = results({"m": {**reached, baseline: missed}}, training=training)
    assert FIGURES[name](slower).is_reached is False
    assert FIGURES[name](results({"m": {"eager": 1.0}}, training=training)).is_reached is None


def test_one_slow_model_is_enough_to_miss_a_goal() -> None:
    ratio: dict[str, float | str] = {"fx_data": 1.0, "naive_data_parallel": 8.0}
    fast = {f"fast{i}": ratio for i in range(3)}
    found = FIGURES["data_inference"](
        results({**fast, "slow": {"fx_data": 1.0, "naive_data_parallel": 0.9}})
    )
    assert found.is_reached is False
    assert "worst 0.90x (slow)" in found.value
    assert f"{(8**3 * 0.9) ** 0.25:.2f}x" in found.value


def test_what_only_fxdevice_cannot_run_counts_against_it() -> None:
    good: dict[str, float | str] = {"fx_data": 1.0, "naive_data_parallel": 3.0}
    ours = results({"a": good, "b": {"fx_data": "it broke", "naive_data_parallel": 1.0}})
    theirs = results({"a": good, "b": {"fx_data": 1.0, "naive_data_parallel": "wrong result"}})
    assert FIGURES["data_inference"](ours).is_reached is False
    found = FIGURES["data_inference"](theirs)
    assert found.is_reached is True
    # It is shown all the same.
    assert [part.missing for part in found.parts] == ["", "naive_data_parallel: wrong result"]


def test_the_original_is_the_baseline_where_it_runs() -> None:
    seconds: dict[str, float | str] = {"fx_data": 1.0, "data_parallel": 3.0}
    seconds["naive_data_parallel"] = "runs itself"
    (part,) = FIGURES["data_inference"](results({"m": seconds})).parts
    assert part.ratio is not None
    assert part.ratio.median == 3.0


def test_the_best_strategy_is_known_when_all_were_run() -> None:
    (part,) = FIGURES["auto_against_best"](results({"m": {"fx_auto": 1.0, "fx_data": 1.0}})).parts
    assert part.missing == "not every fixed strategy was run"


def test_compile_time_is_of_first_calls() -> None:
    slow = results({"m": {"fx_auto": 1.0}}, compile_s=1.2).rows
    plain = results({"m": {"compiled": 50.0}}).rows
    found = FIGURES["compile_time"](Results(ENVIRONMENT, (*slow, *plain)))
    assert (found.is_reached, found.parts[0].ratio and found.parts[0].ratio.median) == (False, 1.2)


def test_a_slow_time_of_the_machine_does_not_change_a_ratio() -> None:
    rows = (
        Row("m", "fx_auto", 4, False, True, (1.0, 5.0, 1.0)),
        Row("m", "compiled", 4, False, True, (2.0, 10.0, 2.0)),
    )
    found = Results(ENVIRONMENT, rows).time_ratio("m", "fx_auto", "compiled")
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_figures_name_runners_that_exist() -> None:
    assert set(RUNNERS_OF) == set(FIGURES)
    assert {runner for needed in RUNNERS_OF.values() for runner in needed} <= set(RUNNERS)


def test_page_and_file_keep_every_row() -> None:
    found = results({"m": {"fx_data": 0.5, "accelerate": "no | hooks"}})
    assert results_from_json(json.loads(json.dumps(results_to_json(found)))) == found
    shown = figures(found, list(FIGURES))
    for text in (table(found, shown), page(found, shown)):
        assert "500.00" in text
        assert "refused: no" in text
        assert all(figure.name in text for figure in shown)
    assert "no \\| hooks" in page(found, shown)


def test_page_explains_a_goal_that_is_not_reached() -> None:
    for seconds, is_missed in ((1.0, True), (2.0, False)):
        found = results({"m": {"fx_data": 1.0, "naive_data_parallel": seconds}})
        text = page(found, figures(found, ["data_inference"]))
        assert ("| m | fx_data | 1000.00 | 1500.00 | 1.50 |" in text) is is_missed
