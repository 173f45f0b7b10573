"""Runs the checks of the page in one browser against one server, and writes what came of each as JSON.

    python -m tests.page.drive PYTHON DIRECTORY REPORT [PICTURES]

PYTHON has zapq; DIRECTORY is for the server's files; PICTURES, if given, is where those of the documentation go.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.page.checks import CHECKS
from tests.page.world import Server, World

CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-device-scale-factor=1"]


def main() -> None:
    """Run all of them; those behind one that fails run as well."""
    python, directory, report, *pictures = sys.argv[1:]
    server = Server(python, Path(directory))
    outcomes: dict[str, str] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        world = World(server, browser, Path(pictures[0]) if pictures else None)
        server.start()
        try:
            for name, check in CHECKS.items():
                begun = time.monotonic()
                try:
                    check(world)
                except Exception:
                    outcomes[name] = traceback.format_exc()
                else:
                    outcomes[name] = ""
                print(
                    f"{time.monotonic() - begun:5.1f} s  {'failed' if outcomes[name] else 'ok    '}  {name}",
                    flush=True,
                )
                Path(report).write_text(json.dumps(outcomes))
        finally:
            server.stop()
            browser.close()


if __name__ == "__main__":
    main()
