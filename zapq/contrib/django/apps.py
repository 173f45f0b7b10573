"""The app that brings `manage.py zapq_worker`: `zapq.contrib.django` in `INSTALLED_APPS`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import CheckMessage, Error, register


class ZapqConfig(AppConfig):
    """Names the app: Django would call it `django`."""

    name = "zapq.contrib.django"
    label = "zapq"

    def ready(self) -> None:
        """Have `manage.py check` look at the framework of tasks, which brings a check of `TASKS`."""
        register(framework_is_there)
        framework_is_there()


def framework_is_there(**kwargs: Any) -> list[CheckMessage]:
    """Return an error if no framework of tasks is installed; see Django's checks."""
    try:
        from zapq.contrib.django import framework  # noqa: F401
    except ImportError as error:
        return [Error(str(error), id="zapq.E003")]
    return []
