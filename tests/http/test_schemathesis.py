"""A server is asked for all that /openapi.json says, and for much that it does not: no 5xx, no unknown answer.

scripts/test --all --hypothesis-profile nightly tests/http/test_schemathesis.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from tests.support.process import ENVIRON, running_zapq

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow
EXAMPLES = 500
"""Of each operation: some ten minutes."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
# After one of them every answer would be 503; the other would have all that is held expire.
LEFT_OUT = ("/drain", "/test/advance")


async def test_every_answer_is_one_that_is_said(nightly: bool, tmp_path: Path) -> None:
    if not nightly:
        pytest.skip("takes long: --hypothesis-profile nightly")
    environ = {name: text for name, text in ENVIRON.items() if name != "PYTHONPATH"}
    made = await trio.run_process(
        [str(ROOT / "scripts" / "contract")],
        env={**environ, "PYTHON": sys.executable},
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert made.returncode == 0, f"schemathesis cannot be installed (scripts/contract):\n{made.stderr.decode()}"
    program = Path(made.stdout.decode().splitlines()[-1]) / "bin" / "schemathesis"
    # Without waiters, none is waited for.
    async with running_zapq(tmp_path, "--test-clock", "--max-waiters", "0") as server:
        left_out = [word for path in LEFT_OUT for word in ("--exclude-path", path)]
        done = await trio.run_process(
            [
                *(str(program), "run", f"{server.url}/openapi.json", *left_out, "--checks", ",".join(CHECKS)),
                *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--request-timeout", "30"),
                *("--continue-on-failure", "--no-color"),
            ],
            cwd=tmp_path,
            env=environ,
            capture_stdout=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout.decode()[-5000:]
