"""Settings of a project of Django whose tasks zapq has. Processes that a test starts get the server's address."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

PLACE = Path(os.environ.get("PROJECT_PLACE") or tempfile.mkdtemp())
URL = os.environ.get("PROJECT_URL", "http://127.0.0.1:1")
SECRET_KEY = "of a test"
USE_TZ = True
INSTALLED_APPS = ["zapq.contrib.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": PLACE / "db.sqlite3"}}
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.filebased.FileBasedCache", "LOCATION": PLACE / "cache"}
}


def tasks(url: str, **options: object) -> dict[str, object]:
    """Return `TASKS` for a server."""
    given: dict[str, object] = {"url": url, "results": "default", "backoff": 0.01, **options}
    backend = {"BACKEND": "zapq.contrib.django.backend.ZapqBackend", "QUEUES": ["default", "emails"]}
    return {"default": {**backend, "OPTIONS": given}}


TASKS = tasks(URL)
