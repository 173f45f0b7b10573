"""What docs/how-to/django.md shows is what happens."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import trio

from tests.support.process import ENVIRON
from tests.support.typed import typed
from zapq.testing import ZapqServer

django = pytest.importorskip("django")
ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs/how-to/django.md").read_text()
SETTINGS, TASK, SEND, COMMIT = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
START = """
from pathlib import Path
BASE_DIR = Path(__file__).parent
"""
REST = """
SECRET_KEY = "of a test"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""
PROGRAM = f"""
import django, os, signal, threading, time
django.setup()
from django.core.management import call_command
{SEND}
{COMMIT}
register(9)

def stop():
    while not result.is_finished:
        time.sleep(0.005)
        result.refresh()
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop).start()
call_command("zapq_worker")
print(result.return_value)
"""


@pytest.mark.slow
async def test_a_project_as_it_is_shown_runs_its_tasks(zapq_server: ZapqServer, tmp_path: Path) -> None:
    [configure] = re.findall(r"^\$ zapq (queue set .*)$", DOCUMENT, re.MULTILINE)
    url = {"ZAPQ_URL": zapq_server.url}
    configured = await trio.to_thread.run_sync(lambda: typed(*configure.split(), environ=url))
    assert configured.returncode == 0, configured.stderr
    if django.VERSION < (6, 0):
        pytest.importorskip("django_tasks")
    framework = "django.tasks" if django.VERSION >= (6, 0) else "django_tasks"
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/tasks.py").write_text(TASK.replace("django.tasks", framework))
    (tmp_path / "settings.py").write_text(
        START + SETTINGS.replace("http://127.0.0.1:8080", zapq_server.url) + REST
    )
    environ = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "DJANGO_SETTINGS_MODULE": "settings"}
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    shown = await trio.run_process(command, env=ENVIRON | environ, cwd=tmp_path, capture_stdout=True)
    assert shown.stdout.decode().splitlines() == [
        f"running tasks of default, emails, from {zapq_server.url}",
        "Hello, user 7!",
    ]
    assert zapq_server.service.queue("emails").info().stats.delayed == 1
