"""Profiles for property tests: `--hypothesis-profile nightly` looks for longer."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("nightly", max_examples=20_000)
