"""Makes inductor's C++ kernels release the GIL while they run.

Python code calls the kernels of a partition. Between the call's arguments and its result a kernel
needs no Python, but inductor's binding holds the GIL all the same (torch/_inductor/codecache.py,
`CppPythonBindingsCodeCache`), so that kernels of two threads would take turns. `cpp_wrapper`
releases it as well, and for whole partitions, but takes twice as long to compile.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from torch._inductor import config
from torch._inductor.codecache import CppPythonBindingsCodeCache

__all__ = ["kernels_release_gil"]

# Both are templates for `str.format`. Arguments are read from Python objects before the body runs.
_GUARD = """
struct ReleasedGil {{
    PyThreadState* state = PyEval_SaveThread();
    ~ReleasedGil() {{ PyEval_RestoreThread(state); }}
}};
"""
_CALL = (
    "[](auto... arguments) {{ ReleasedGil released; kernel(arguments...); }}({}); Py_RETURN_NONE;"
)


class _Binding:
    """The binding's templates, changed while at least one thread compiles with them.

    Another thread that compiles meanwhile gets kernels that release the GIL: they compute the same.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_users = 0
        self._guard: Any = None
        self._call: Any = None

    def change(self) -> None:
        cache: Any = CppPythonBindingsCodeCache
        with self._lock:
            if self._num_users == 0:
                self._guard, self._call = cache.extra_parse_arg, cache.call_entry_function
                cache.extra_parse_arg, cache.call_entry_function = _GUARD, _CALL
            self._num_users += 1

    def restore(self) -> None:
        cache: Any = CppPythonBindingsCodeCache
        with self._lock:
            self._num_users -= 1
            if self._num_users == 0:
                cache.extra_parse_arg, cache.call_entry_function = self._guard, self._call


_binding = _Binding()


@contextlib.contextmanager
def kernels_release_gil() -> Iterator[None]:
    """Compiles, inside, kernels that release the GIL while they run.

    They get other names, since inductor takes kernels of the same name and text from what it
    compiled before, with the GIL held.
    """
    _binding.change()
    try:
        with config.patch({"cpp.descriptive_names": "inductor_node"}):
            yield
    finally:
        _binding.restore()
