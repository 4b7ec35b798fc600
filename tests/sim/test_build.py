"""Building and caching, with a tiny module in place of the real sources, which take long."""

import subprocess
import sys
from pathlib import Path

import pytest

from fxdevice.sim import build

TINY_SOURCE = """
#include <Python.h>
static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_fxdevice_sim", nullptr, -1, nullptr};
PyMODINIT_FUNC PyInit__fxdevice_sim() {
  PyObject* module = PyModule_Create(&definition);
  PyModule_AddIntConstant(module, "ANSWER", 42);
  return module;
}
"""

LOAD = """
import sys
from pathlib import Path
from fxdevice.sim import build
build.SOURCE_FOLDER = Path(sys.argv[1])
print(build.load_library().ANSWER)
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of sources of its own and an empty cache."""
    folder = tmp_path / "csrc"
    folder.mkdir()
    (folder / "tiny.cpp").write_text(TINY_SOURCE)
    monkeypatch.setenv("FXDEVICE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "SOURCE_FOLDER", folder)
    return folder


def test_processes_at_once_build_once(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "compilations"
    compiler = tmp_path / "counting-c++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *" -c "*) echo one >> {log};; esac\nexec c++ "$@"\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    command = [sys.executable, "-W", "ignore", "-c", LOAD, str(sources)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=200)[0].strip() for process in processes]
    assert answers == ["42", "42"]
    assert log.read_text().split() == ["one"]
    assert build.library_path().exists()
    assert [path.suffix for path in build.library_path().parent.iterdir() if path.is_dir()] == []


def test_a_change_of_the_sources_is_another_library(sources: Path) -> None:
    before = build.library_path()
    (sources / "tiny.h").write_text("// new\n")
    assert build.library_path() != before


def test_no_compiler(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.SimBuildError, match="'no-such-compiler' is not on PATH"):
        build.load_library()


def test_a_failing_compilation_leaves_no_library(sources: Path) -> None:
    (sources / "tiny.cpp").write_text("this is not C++\n")
    with pytest.raises(build.SimBuildError, match="could not be built"):
        build.load_library()
    assert not build.library_path().exists()


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXDEVICE_CACHE", "/some/folder")
    assert build.cache_folder() == Path("/some/folder")
    monkeypatch.delenv("FXDEVICE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/other")
    assert build.cache_folder() == Path("/other/fxdevice")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_folder() == Path.home() / ".cache" / "fxdevice"
