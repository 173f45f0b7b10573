"""What keeps the queues: the port that HTTP speaks to, and its kinds.

In this process (`local.py`), or in another one (`remote.py` here, `host.py` there; `wire.py` is what they say).
"""
