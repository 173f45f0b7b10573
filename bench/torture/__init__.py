"""Attacks, bad luck and exhaustion: one scenario a file, each against real servers of its own.

`python -m bench.torture NAME` runs one (`scripts/bench torture NAME` sets up what it needs, too). Everything a
scenario does at random comes from its seed, which is printed. The small runs in `tests/` use the same code.
"""
