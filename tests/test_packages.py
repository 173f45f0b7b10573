"""The packages: built twice they are the same bytes, and the wheel works where it is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

import zapq

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first one builds them
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is in the repository, as a fresh clone is."""
    place = tmp_path_factory.mktemp("checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


def build(checkout: Path, place: Path, time: str) -> dict[str, bytes]:
    """Build as the release does, but with the hatchling that is here; the wheel comes out of the sdist."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place), str(checkout)]
    environ = {**os.environ, "SOURCE_DATE_EPOCH": time, "PYTHONPATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {each.name: each.read_bytes() for each in place.iterdir()}


@pytest.fixture(scope="module")
def packages(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    built = build(checkout, first, "1700000000")
    for file in checkout.rglob("*.py"):
        os.utime(file)
    assert build(checkout, second, "1700000000") == built
    return first


def test_the_source_distribution_has_all_that_is_in_the_repository(packages: Path, checkout: Path) -> None:
    [sdist] = packages.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    there = {str(file.relative_to(checkout)) for file in checkout.rglob("*") if file.is_file()}
    assert there - inside == set()
    assert inside - there == {"PKG-INFO"}


def test_the_wheel_has_zapq_and_nothing_else(packages: Path) -> None:
    [wheel] = packages.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names} == {"zapq", f"zapq-{zapq.__version__}.dist-info"}
    assert {"zapq/py.typed", "zapq/__main__.py"} <= {*names}
    there = {str(file.relative_to(ROOT)) for file in (ROOT / "zapq").rglob("*.py")}
    assert there <= {*names}


EXTRAS = {
    "client": "from zapq.client import Consumer, Producer",
    "cron": "import zapq.programs.cron",
    "django": "from zapq.contrib.django.backend import ZapqBackend",
    "otel": "import zapq.client, opentelemetry.trace",
    "plot": "import zapq.programs.plot",
    "taskiq": "from zapq.contrib.taskiq import ZapqBroker",
    "testing": "import zapq.testing",
    "valkey": "import hiredis, zapq.engine.valkey.engine",
}
"""For each extra, a program that runs with it."""


def test_each_extra_can_be_had(packages: Path) -> None:
    [wheel] = packages.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        about = archive.read(f"zapq-{zapq.__version__}.dist-info/METADATA").decode()
    assert sorted(re.findall(r"^Provides-Extra: (.*)$", about, re.MULTILINE)) == sorted(EXTRAS)
    # All of it is here, in versions that go together; nothing is fetched.
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", f"{wheel}[{','.join(EXTRAS)}]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_wheel_works_where_it_is_installed(packages: Path, tmp_path: Path) -> None:
    [wheel] = packages.glob("*.whl")
    # What it needs is taken from here, and nothing of zapq is: the checkout is not on the path.
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    here = {str(Path(str(each.locate_file("")))) for each in distributions() if each.name == "trio"}
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # Behind its own packages, and without the files there that put a checkout on the path.
    (site / "needs.pth").write_text("".join(f"{place}\n" for place in here))
    program = "import zapq; assert 'site-packages' in zapq.__file__, zapq.__file__"
    programs = "\n".join((program, *EXTRAS.values()))
    for arguments in (["-I", "-c", programs], ["-I", "-m", "zapq", "--version"]):
        done = subprocess.run([python, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"zapq {zapq.__version__}"
    assert (tmp_path / "venv" / "bin" / "zapq").exists()
