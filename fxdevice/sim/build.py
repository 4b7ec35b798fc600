"""Builds the C++ extension of the simulated devices on first use and keeps it for later processes.

The finished library lies in the user's cache folder under a name that holds the versions of
PyTorch and Python and a hash of the sources, so that a change of any of them builds anew. Several
processes may ask for it at once (pytest-xdist): one builds under a file lock, the others wait. The
lock is the operating system's, so a process that dies gives it back, and the library appears by an
atomic rename, so that nobody loads half of one.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock

from fxdevice.errors import FxDeviceError

__all__ = ["SimBuildError", "cache_folder", "library_path", "load_library"]

MODULE_NAME = "_fxdevice_sim"
SOURCE_FOLDER = Path(__file__).parent / "csrc"
# The kernels that do the work are PyTorch's own: more optimization would only cost build time. The
# definition makes PyTorch's headers include the operators that are used, not all of them.
COMPILER_FLAGS = ("-O1", "-DAT_PER_OPERATOR_HEADERS")


class SimBuildError(FxDeviceError, RuntimeError):
    """The C++ extension of the simulated devices cannot be built on this machine."""


def cache_folder() -> Path:
    """Folder for built libraries: `FXDEVICE_CACHE`, or `fxdevice` in the user's cache folder."""
    override = os.environ.get("FXDEVICE_CACHE")
    if override:
        return Path(override).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "fxdevice"


def library_path() -> Path:
    """Where the library for this PyTorch, this Python and these sources lies once it is built."""
    digest = hashlib.sha256(" ".join((compiler(), *COMPILER_FLAGS)).encode())
    for path in sorted(SOURCE_FOLDER.iterdir()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    tag = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    folder = f"sim-torch-{torch.__version__}-{tag}-{digest.hexdigest()[:16]}"
    return cache_folder() / folder / f"{MODULE_NAME}.so"


def load_library() -> ModuleType:
    """The extension module, built first where the cache does not hold it.

    Loading registers the simulated devices' kernels with PyTorch, so call it once per process.

    Raises:
        SimBuildError: no C++ compiler or no ninja was found, or the compiler failed.
    """
    path = library_path()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                return _build(path)
    loader = importlib.machinery.ExtensionFileLoader(MODULE_NAME, str(path))
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def compiler() -> str:
    """Command of the C++ compiler that PyTorch's extension builder will call."""
    return os.environ.get("CXX", "c++")


def _build(path: Path) -> ModuleType:
    """Builds the library, loads it and leaves it at `path` for the next process."""
    command = compiler()
    if shutil.which(command.split()[0]) is None:
        raise SimBuildError(
            "fxdevice.sim builds a small C++ extension on first use and found no C++ compiler: "
            f"{command!r} is not on PATH. Install one (Debian, Ubuntu: apt install g++) or name "
            "one in the environment variable CXX."
        )
    sources = [str(source) for source in sorted(SOURCE_FOLDER.glob("*.cpp"))]
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, _ninja_on_path():
        # Imported here: it takes a while and only the first process needs it.
        from torch.utils import cpp_extension

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                module: ModuleType = cpp_extension.load(
                    name=MODULE_NAME,
                    sources=sources,
                    extra_cflags=list(COMPILER_FLAGS),
                    build_directory=folder,
                )
        except Exception as error:
            raise SimBuildError(
                f"the C++ extension of fxdevice.sim could not be built with {command!r} for torch "
                f"{torch.__version__}: {error}"
            ) from error
        os.replace(Path(folder) / f"{MODULE_NAME}.so", path)
    return module


@contextmanager
def _ninja_on_path() -> Iterator[None]:
    """Lets PyTorch's builder find the ninja of this Python environment even if it is not active."""
    previous = os.environ.get("PATH", "")
    scripts = sysconfig.get_path("scripts")
    os.environ["PATH"] = os.pathsep.join((previous, scripts)) if previous else scripts
    try:
        yield
    finally:
        os.environ["PATH"] = previous
