"""One question a file; `scripts/bench NAME` runs one."""
