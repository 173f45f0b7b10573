"""Django's tasks over zapq: `backend.py` sends them, `manage.py zapq_worker` runs them (`worker.py`)."""
