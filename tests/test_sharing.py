"""What the two Pythons of the gate share out is there, and runs on one of them."""

from __future__ import annotations

from tests import sharing


def test_every_name_is_that_of_a_file_or_a_directory() -> None:
    assert [each for each in sharing._NEWEST | sharing._OTHER | sharing._UNMEASURED if not each.exists()] == []


def test_nothing_is_left_to_the_other_python_by_both() -> None:
    assert not sharing._NEWEST & sharing._OTHER


def test_a_file_is_listed_before_its_directory() -> None:
    directory = next(each for each in sharing._NEWEST if each.name == "valkey")
    assert sharing._listed(directory / "test_same.py") in sharing._OTHER
    assert sharing._listed(directory / "test_engine.py") == directory
