"""The faults that `scripts/bench mutants` puts back have their places in the source, and tests that are there."""

from __future__ import annotations

import pytest

from bench.mutants import MUTANTS, ROOT


@pytest.mark.parametrize("name", MUTANTS)
def test_a_fault_has_one_place_and_tests_that_are_there(name: str) -> None:
    mutant = MUTANTS[name]
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
    files = [each for each in mutant.tests if each.startswith("tests/")]
    assert files
    for each in files:
        assert (ROOT / each.partition("::")[0]).is_file(), each
