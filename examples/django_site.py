"""Django's tasks over zapq, in one file: a project has the same in its settings and in `tasks.py`.

zapq --durable
python django_site.py zapq_worker    # in examples/
python django_site.py                # sends tasks
"""

import os
import sys

import django
from django.conf import settings
from django.core.management import execute_from_command_line

settings.configure(
    INSTALLED_APPS=["zapq.contrib.django"],
    TASKS={
        "default": {
            "BACKEND": "zapq.contrib.django.backend.ZapqBackend",
            "OPTIONS": {"url": os.environ.get("ZAPQ_URL", "http://127.0.0.1:8080")},
        }
    },
)
django.setup()
try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task


@task
def resize(picture: str) -> None:
    """Do the work."""
    print(f"resized {picture}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        execute_from_command_line(sys.argv)
    else:
        for number in range(3):
            resize.enqueue(f"picture {number}")
