"""The image: built as the Containerfile says from a base without a shell, and run with a read-only root."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.image.containers import ROOT, Builder, Container, Image, wheels
from tests.support.ports import free_ports
from tests.support.waiting import eventually
from tests.support.wire import ask

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first one builds it


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the packages are those of Debian's Python, which is 3.11")
    made = subprocess.run([ROOT / "scripts" / "image-base"], capture_output=True, text=True, check=False)
    if made.returncode == 3:
        pytest.skip(made.stderr.strip())
    assert made.returncode == 0, made.stderr
    home = tmp_path_factory.mktemp("image")
    wheels(home / "wheels", sys.executable)
    (home / "pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    builder = Builder(home)
    yield builder.image(builder.base(Path(made.stdout.strip()), home / "pip.conf"), home / "wheels")
    # pytest keeps the files of three runs, and these are half a gigabyte.
    shutil.rmtree(home)


async def healthy(container: Container, check: list[str], config: Mapping[str, Any], url: str) -> bool:
    """Return what the image's own check says."""
    assert container.process.poll() is None, container.log.read_text()
    return await container.execute(check, config, ZAPQ_URL=url) == 0


async def test_it_keeps_messages_in_its_volume_and_ends_in_order(image: Image, tmp_path: Path) -> None:
    assert not (image.root / "bin" / "sh").exists(), "nothing here may need a shell"
    config = image.config
    assert config["User"] == "65532:65532"
    kind, *check = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    volume = image.volume(tmp_path / "data")
    for turn in range(2):
        [port] = free_ports(1)
        addr = f"127.0.0.1:{port}"
        url = f"http://{addr}"
        (home := tmp_path / str(turn)).mkdir()
        async with image.running(home, volume=volume, environ={"ZAPQ_ADDR": addr}) as container:
            await eventually(partial(healthy, container, check, config, url), "its own check to find it well")
            if turn == 0:
                for program in ("import anyio, cronsim, hiredis", "import zapq.client"):
                    assert await container.execute(["python3", "-c", program], config) == 0, program
                assert (await ask(url, "POST", "/queues/jobs/messages", b"hello")).status == 202
            else:
                assert (await ask(url, "POST", "/queues/jobs/receive")).body == b"hello"
            assert await container.stop(config["StopSignal"]) == 0, container.log.read_text()


def test_the_image_has_zapq_and_not_what_it_was_built_from(image: Image) -> None:
    assert not (image.root / "src").exists()
    assert image.config["Entrypoint"] == ["zapq"]
    assert (image.root / "data").stat().st_uid == 65532
    assert (image.root / "data").stat().st_mode & 0o777 == 0o700
