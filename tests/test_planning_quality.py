"""The quality benchmark: what a row says, and the page that is made of rows."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from benchmarks.planning import quality_rows
from benchmarks.planning.captured import BenchModel, CapturedModel
from benchmarks.planning.quality import _row_of
from benchmarks.planning.quality_rows import PEERS, Job, Row, row
from benchmarks.planning.quality_table import page, summary
from benchmarks.planning.speed import decoder
from fxdevice.dag import NodeKind
from fxdevice.placers import strategy_names
from tests.test_planning_models import small

ENVIRONMENT = {"date": "2026-01-01", "torch": "2", "python": "3"}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Row:
    dag = decoder(60)
    names = {node.name: node.name for node in dag if node.kind is NodeKind.STATE}
    variants = dict.fromkeys(strategy_names(), dag)
    model = CapturedModel("small", (variants,), (1,), (names,), None, 0, 0, 0.0)
    monkeypatch.setattr(quality_rows, "_captured", lambda name: model)
    monkeypatch.setattr(quality_rows, "model_named", lambda name: BenchModel(name, "mlp", small))
    return row(Job("small", "H100 nvlink4", 2, 1.0))


def test_a_row_has_every_strategy_peer_and_bound(found: Row) -> None:
    assert set(found.ours_s) == set(strategy_names())
    assert set(found.peers_s) == set(PEERS)
    assert found.best is not None
    assert found.whole_s is not None
    bounds = found.bounds
    assert bounds.whole_s is not None
    assert 0 < bounds.any_s <= found.best[0]
    assert bounds.any_s <= bounds.whole_s
    # A chain: one device is best of all placements of whole operations, and that is proved.
    assert found.whole_s == pytest.approx(bounds.whole_s, rel=1e-3)
    assert not found.is_worse


def test_a_row_is_read_as_it_was_written(found: Row) -> None:
    assert _row_of(json.loads(json.dumps(asdict(found)))) == found


def test_the_page_names_what_is_slower(found: Row) -> None:
    text = page([found], ENVIRONMENT)
    assert "A peer is faster than the planner in 0." in text
    assert "| small | H100 nvlink4 | 2 |" in text
    assert found.best is not None
    worse = replace(found, peers_s={**found.peers_s, "heft": found.best[0] * 0.9})
    assert worse.is_worse
    assert "small, 2xH100 nvlink4: heft 11.11%" in summary([found, worse])
    lost = replace(found, ours_s=dict.fromkeys(found.ours_s))
    assert "heft fits" in summary([replace(worse, ours_s=lost.ours_s, peers_s={"heft": 1.0})])
    columns = {line.count("|") for line in text.splitlines() if line.startswith("| small")}
    heads = {line.count("|") for line in text.splitlines() if line.startswith("| model")}
    assert columns == heads
