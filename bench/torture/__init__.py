"""Attacks, bad luck and exhaustion: one scenario a file, each against real servers of its own.

`scripts/bench torture NAME` sets up what it needs and runs one. Everything a scenario does at random comes from
its seed, which is printed. The small runs in `tests/` use the same code.
"""
