"""What is installed: the built packages hold exactly the tracked files."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def tracked_files() -> set[str]:
    """Return the tracked files of the two source folders, without the link between them."""
    command = ["git", "ls-files", "--stage", "--", "fxdevice", "passes"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 3) for line in listing.splitlines())
    return {path for mode, _, _, path in rows if mode != "120000"}


def build(hook: str, source: Path, target: Path) -> Path:
    """Call a hook of the build backend in a process of its own and return the file it made."""
    code = (
        "import sys; from setuptools import build_meta as backend;"
        "name = getattr(backend, sys.argv[1])(sys.argv[2]); print(name)"
    )
    target.mkdir()
    command = [sys.executable, "-c", code, hook, str(target)]
    result = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return target / result.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the working tree's tracked files: building must not litter the original."""
    copy = tmp_path_factory.mktemp("source")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listing.split("\0")):
        origin, target = ROOT / name, copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if origin.is_symlink():
            target.symlink_to(origin.readlink())
        else:
            target.write_bytes(origin.read_bytes())
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("build_sdist", checkout, tmp_path_factory.mktemp("sdist") / "dist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel built the way an index's users get it: from the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    return build("build_wheel", source, folder / "dist")


def test_wheel_holds_the_tracked_files(wheel: Path) -> None:
    expected = {
        f"fxdevice/{path}" if path.startswith("passes/") else path for path in tracked_files()
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {"fxdevice/__init__.py", "fxdevice/passes/__init__.py", "fxdevice/py.typed"} <= found


def test_wheel_has_the_entry_point_and_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        contents = {
            name: archive.read(name).decode() for name in archive.namelist() if "info/" in name
        }
    entry_points = next(
        text for name, text in contents.items() if name.endswith("entry_points.txt")
    )
    assert (
        "[torch_dynamo_backends]\nfxdevice = fxdevice.entry_point:fxdevice_backend" in entry_points
    )
    assert any(name.endswith("/LICENSE") for name in contents)


def test_sdist_keeps_passes_at_the_top(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {path for path in tracked_files()} <= names
