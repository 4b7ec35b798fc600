"""What every test run needs: no network, one thread per worker, repeatable examples."""

import gc
import os
import sys
from collections.abc import Iterator

# Read when the libraries are imported, so set before any import of them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# More and new examples each time: pytest --hypothesis-profile=explore
hypothesis.settings.register_profile("explore", max_examples=1000, deadline=None)
hypothesis.settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the workers of one run from competing for the same cores."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need real accelerators where there are fewer than two."""
    # Not torch.accelerator: the simulated devices are one for it, once they are enabled.
    num_accelerators = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_accelerators >= 2:
        return
    for item in items:
        if "gpu" in item.keywords:
            reason = f"needs 2 CUDA devices, found {num_accelerators}"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    """Forget compiled code after each test: Dynamo keeps it per code object, across models."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


@pytest.fixture(autouse=True)
def fixed_seed() -> None:
    """Seed torch's generator, so that a test gives the same result alone and in a full run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_kept_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no calibration of this machine's user change what is predicted."""
    machine = sys.modules.get("fxdevice.machine")
    if machine is not None:
        monkeypatch.setattr(machine, "read_calibration", lambda devices: None)
        monkeypatch.setattr(machine, "known_faults", dict)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
