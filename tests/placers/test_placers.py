import pytest

from fxdevice.errors import CompileOptionError
from fxdevice.placers import STRATEGIES, placer_named, strategy_names
from fxdevice.placers.micro_batches import place_micro_batched
from fxdevice.placers.single import place_single


def test_strategies_by_name() -> None:
    assert placer_named("single") is place_single
    assert placer_named("pipeline") is place_micro_batched
    expected = ("single", "data", "tensor", "pipeline", "branch", "data_pipeline")
    assert strategy_names() == expected


def test_every_strategy_has_its_own_name() -> None:
    assert len(set(strategy_names())) == len(STRATEGIES)


def test_unknown_name_lists_the_known_ones() -> None:
    expected = "strategy='fastest' is unknown; expected one of 'single', 'data', 'tensor', 'pipe"
    with pytest.raises(CompileOptionError, match=expected):
        placer_named("fastest")
