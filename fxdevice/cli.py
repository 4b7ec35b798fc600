"""The command line: `fxdevice check package.module:factory`."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from fxdevice.check import check
from fxdevice.errors import CompileOptionError

__all__ = ["main"]

FOUND = 1
"""Exit status when there are device errors; click's own for wrong usage is 2."""


@click.group()
@click.version_option(package_name="fxdevice")
def main() -> None:
    """One PyTorch model on several devices."""


@main.command("check")
@click.argument("factory")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
@click.option("--fake", is_flag=True, help="Run on fake tensors; no device has to exist.")
@click.option("--device-map", help='With --fake: JSON such as {"layers.0": "cuda:0"}, or its file.')
def check_command(factory: str, as_json: bool, fake: bool, device_map: str | None) -> None:
    """Run a model and list its device errors; exits with 1 when there are any.

    FACTORY is package.module:function. The function takes no arguments and returns the model, or a
    tuple of the model, its positional arguments and its keyword arguments.
    """
    model, args, kwargs = _made(_function(factory))
    places = None if device_map is None else _device_map(device_map)
    try:
        diagnosis = check(model, *args, fake=fake, device_map=places, **kwargs)
    except CompileOptionError as error:
        raise click.UsageError(str(error)) from error
    click.echo(diagnosis.to_json() if as_json else str(diagnosis))
    sys.exit(0 if diagnosis.ok else FOUND)


def _function(name: str) -> Any:
    module_name, separator, function_name = name.partition(":")
    if not separator or not module_name or not function_name:
        raise click.UsageError(f"expected package.module:function, found {name!r}")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise click.UsageError(f"cannot import {module_name!r}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise click.UsageError(f"{module_name!r} has no function {function_name!r}")
    return function


def _device_map(given: str) -> dict[str, str]:
    try:
        text = given if given.lstrip().startswith("{") else Path(given).read_text()
        found = json.loads(text)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--device-map: expected JSON or a file of it: {error}") from error
    if not isinstance(found, dict):
        raise click.UsageError(f"--device-map: expected module names and devices, found {found!r}")
    return found


def _made(function: Any) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    made = function()
    model, *rest = made if isinstance(made, tuple) else (made,)
    args = tuple(rest[0]) if rest else ()
    kwargs = dict(rest[1]) if len(rest) > 1 else {}
    if not callable(model) or len(rest) > 2:
        raise click.UsageError(
            f"the factory must return (model, args, kwargs); found {type(made).__name__}"
        )
    return model, args, kwargs
