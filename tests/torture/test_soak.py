"""Two seconds of what `python -m bench.torture soak` does for ten minutes."""

from __future__ import annotations

import pytest

from bench.torture import soak


@pytest.mark.slow
async def test_after_all_kinds_of_requests_no_more_is_open_than_before() -> None:
    report = await soak.run(seed=1, scale=0.004)
    assert report.failures == []
