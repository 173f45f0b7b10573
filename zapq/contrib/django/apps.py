"""The app that brings `manage.py zapq_worker`: `zapq.contrib.django` in `INSTALLED_APPS`."""

from __future__ import annotations

from django.apps import AppConfig


class ZapqConfig(AppConfig):
    """Names the app: Django would call it `django`."""

    name = "zapq.contrib.django"
    label = "zapq"
