"""Every case has a test, and every test's case is one."""

from pathlib import Path

from tests.cases import AWAITED, CASES, REFUSED, covered, named

STATUS = Path(__file__).parents[2] / "docs/status.md"


def test_cases_are_named_as_people_write_them() -> None:
    assert list(named("C9 to C11, B2; A8: what C16 is; not RFC1071 or C4X")) == ["C9", "C10", "C11", "B2", "A8", "C16"]


def test_every_case_has_a_test() -> None:
    missing = CASES.keys() - covered().keys() - AWAITED
    assert not missing, {case: CASES[case] for case in sorted(missing)}


def test_every_case_that_a_test_names_is_one() -> None:
    unknown = {case: tests for case, tests in covered().items() if case not in CASES}
    assert not unknown


def test_nothing_is_awaited_that_is_there() -> None:
    assert not AWAITED & covered().keys()


def test_what_is_refused_has_a_reason_in_status() -> None:
    words = STATUS.read_text()
    assert all(f"`{reason}`" in words for reason in REFUSED.values())
