"""The graph passes, one a file. Installed as `fxdevice.passes`.

The folder stands at the top of the repository; `fxdevice/passes` is a link to it.
"""

if __name__ != "fxdevice.passes":
    raise ImportError(
        "import fxdevice.passes, not passes: two copies would have two sets of classes"
    )
