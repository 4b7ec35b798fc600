"""The examples in docstrings give what they say."""

import doctest
import importlib

import pytest

from tests.test_layers import FILES

WITH_EXAMPLES = [name for name, path in FILES.items() if ">>> " in path.read_text()]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_in_docstrings(module: str) -> None:
    name = f"fxdevice.{module}".removesuffix(".__init__")
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted > 0
    assert found.failed == 0
