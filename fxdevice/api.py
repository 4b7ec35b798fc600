"""The calls that users make: thin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from torch import nn

from fxdevice.devices import DeviceLike
from fxdevice.errors import CompileOptionError
from fxdevice.machine import with_known_faults
from fxdevice.model import CompiledFunction, CompiledModel, compiled_model_of
from fxdevice.options import InnerLike, make_options
from fxdevice.plans import Plan
from fxdevice.preflight import check_module
from fxdevice.report import Report, make_report

__all__ = ["compile", "refresh", "report", "restore"]

ModelT = TypeVar("ModelT", bound=Callable[..., Any])


def compile(
    model: ModelT,
    devices: Sequence[DeviceLike] | None = None,
    *,
    strategy: str = "auto",
    device_map: Mapping[str, DeviceLike] | str | None = None,
    max_memory: Mapping[DeviceLike, int | str] | None = None,
    inner: InnerLike | None = None,
    output_device: DeviceLike | None = None,
    dynamic: bool | None = None,
    fullgraph: bool = False,
    repair: str = "warn",
    debug: bool | str = False,
    plan: Plan | None = None,
    no_split: Sequence[str] = (),
    profile: bool = False,
    optimizer: str | None = None,
) -> ModelT:
    """Puts a model on several devices.

    A module is changed in place and returned: its parameters and buffers move to their devices
    when the first call that uses them is captured, and calls run there. Any other callable is
    wrapped; the state that it uses stays where it is and is copied to the devices.

    Args:
        model: A module or function.
        devices: One entry a slot: ints (the machine's accelerator; CPU slots where there is none),
            strings or torch devices. Repeats are allowed: two slots on one device. None means all
            devices of the accelerator.
        strategy: "single", "data" (the batch is divided), "tensor" (features and heads are),
            "pipeline" (contiguous stages, balanced by time under the memory limits), "branch"
            (operators), "data_pipeline", or "auto": every graph by the one that is predicted to be
            fastest of those that fit. Simulated devices take turns, so that this is "single" there
            unless a memory limit or a pin is in its way.
        device_map: Pins modules to devices, in Accelerate's form: module name to device.
        max_memory: Memory limits in Accelerate's form: device to bytes or text such as "10GiB".
        inner: What compiles the single-device partitions: "inductor", "eager", another Dynamo
            backend or a callable. None means inductor where it supports the device, else eager.
        output_device: Where results go; None means where the inputs came from.
        dynamic: As in `torch.compile`.
        fullgraph: As in `torch.compile`.
        repair: What to do where the model's code would mix devices (a hard-coded device, a tensor
            made without `device=`, a tensor that is no buffer): "warn" puts it right and says so
            once, "silent" only lists it in the report, "error" refuses.
        debug: True runs node by node and synchronously, checks the devices of all arguments, and
            names node, device, source line and shapes in every error; "numbers" also stops at the
            first NaN or infinity. Slow.
        plan: What `fxdevice.plan` made for this model; followed instead of a strategy.
        no_split: Modules that must not be divided between slots, by class name (as in Accelerate's
            `no_split_module_classes`) or by qualified name.
        profile: Measure instead of predict: every distinct module is compiled and run on its own
            before the graph is placed, and every partition several times in its first call. The
            report shows measured beside predicted seconds.
        optimizer: Whose state must find room under the memory limits when the model is trained:
            "adam", "adamw", "sgd", "sgd-momentum" or "adafactor". None counts no such state; a plan
            counts its own.

    Returns:
        The same module, or a callable in place of a function.

    Raises:
        DeviceError: `devices` cannot be used.
        CompileOptionError: Another option cannot be used, or `model` was compiled before.
        PlacementError: The state does not fit into `max_memory`, or pins contradict each other or
            `no_split`.
        PlanError: The plan is for another model or another number of slots, or another option
            contradicts it.
        StateError: The module has no weights (meta device).
        TypeError: `model` is not callable, or an option has the wrong type.
    """
    if not callable(model):
        raise TypeError(f"expected an nn.Module or a function; found {type(model).__name__}")
    parts = model.modules() if isinstance(model, nn.Module) else (model,)
    if any(compiled_model_of(part) is not None for part in parts):
        raise CompileOptionError(
            "this model, or a module in it, is compiled by fxdevice already; call "
            "fxdevice.restore on it first"
        )
    options = make_options(
        devices,
        strategy=strategy,
        device_map=device_map,
        max_memory=max_memory,
        inner=inner,
        output_device=output_device,
        dynamic=dynamic,
        fullgraph=fullgraph,
        repair=repair,
        debug=debug,
        plan=plan,
        no_split=no_split,
        profile=profile,
        optimizer=optimizer,
    )
    options = with_known_faults(options)
    if isinstance(model, nn.Module):
        CompiledModel(model, check_module(model, options)).install()
        return model
    if options.pins:
        raise CompileOptionError("device_map needs a module; a function has no module names to pin")
    if options.no_split:
        raise CompileOptionError("no_split needs a module; a function has no modules to name")
    return CompiledFunction(model, options)  # type: ignore[return-value]


def restore(model: ModelT) -> Any:
    """Gives the original back: on the devices where its state was, without compilation.

    Args:
        model: What `fxdevice.compile` returned.

    Returns:
        The module, or the function that was wrapped.

    Raises:
        CompileOptionError: `model` was not compiled by fxdevice.
        StateError: A tensor cannot be moved; nothing was changed.
    """
    compiled = compiled_model_of(model)
    if compiled is None:
        raise CompileOptionError("this model was not compiled by fxdevice; nothing to restore")
    if isinstance(compiled, CompiledFunction):
        compiled.compiler.copies.clear()
        return compiled.__wrapped__
    compiled.restore()
    return model


def refresh(model: object) -> None:
    """Says that state of a model was written in a way that PyTorch does not count.

    A slot keeps its copies of other slots' parameters and buffers between calls. They are made anew
    after changes that PyTorch counts (an optimizer step, `load_state_dict`, any operation in place)
    and where another tensor or another content has taken the place of the original. Not seen are
    writes through `.data` or `.numpy()`, and those of other libraries into the memory of a tensor:
    call this after such a write outside of training. A backward drops the copies of what can be
    trained by itself.

    Args:
        model: What `fxdevice.compile` returned, or a module in it.

    Raises:
        CompileOptionError: `model` was not compiled by fxdevice.
    """
    _compiled(model).compiler.copies.clear()


def report(model: object) -> Report:
    """Returns what was placed where, and why, as it stands now.

    Args:
        model: What `fxdevice.compile` returned, after a call.

    Raises:
        CompileOptionError: `model` was not compiled by fxdevice.
    """
    return make_report(_compiled(model))


def _compiled(model: object) -> CompiledModel | CompiledFunction:
    compiled = compiled_model_of(model)
    if compiled is None:
        raise CompileOptionError(
            "this model was not compiled by fxdevice; expected what fxdevice.compile returned"
        )
    return compiled
