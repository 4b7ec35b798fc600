"""The command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fxdevice.cli import main

MODEL = """
import torch
import fxdevice.sim as sim

class Split(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.second = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x))

def healthy():
    return Split(), (torch.ones(2, 4),), {}

def faulty():
    sim.enable(8)
    model = Split()
    model.first.to("fxsim:0")
    model.second.to("fxsim:1")
    return model, (torch.ones(2, 4, device="fxsim:0"),)

def nothing():
    return 3

number = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_users_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_healthy_model() -> None:
    result = CliRunner().invoke(main, ["check", "a_users_model:healthy"])
    assert result.exit_code == 0, result.output
    assert result.output == "Split: no device errors in 2 operations\n"
    assert CliRunner().invoke(main, ["check", "a_users_model:healthy", "--fake"]).exit_code == 0


def test_a_faulty_model() -> None:
    result = CliRunner().invoke(main, ["check", "a_users_model:faulty"])
    assert result.exit_code == 1
    assert "1. linear: output of another stage" in result.output
    assert "a_users_model.py:12 in Split.forward" in result.output
    found = CliRunner().invoke(main, ["check", "a_users_model:faulty", "--json"])
    assert json.loads(found.output)["findings"][0]["home"] == "fxsim:1"
    assert found.exit_code == 1


def test_a_device_map_before_there_is_hardware(tmp_path: Path) -> None:
    given = '{"first": "cuda:0", "second": "cuda:1"}'
    args = ["check", "a_users_model:healthy", "--fake", "--device-map"]
    result = CliRunner().invoke(main, [*args, given])
    assert result.exit_code == 0, result.output
    (tmp_path / "map.json").write_text(given)
    assert CliRunner().invoke(main, [*args, "map.json"]).exit_code == 0
    for wrong, words in [
        ("{", "expected JSON or a file of it"),
        ("missing.json", "expected JSON or a file of it"),
        ('{"third": "cuda:0"}', "names ['third'], which is no module"),
    ]:
        refused = CliRunner().invoke(main, [*args, wrong])
        assert refused.exit_code == 2
        assert words in " ".join(refused.output.split())


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("a_users_model", "expected package.module:function, found 'a_users_model'"),
        ("no_such_module:f", "cannot import 'no_such_module'"),
        ("a_users_model:missing", "'a_users_model' has no function 'missing'"),
        ("a_users_model:number", "'a_users_model' has no function 'number'"),
        ("a_users_model:nothing", "the factory must return (model, args, kwargs); found int"),
    ],
)
def test_bad_input(factory: str, words: str) -> None:
    result = CliRunner().invoke(main, ["check", factory])
    assert result.exit_code == 2
    assert words in result.output
