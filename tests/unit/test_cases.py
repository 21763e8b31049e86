"""Every case has a test, and every test's case is one."""

import re
from pathlib import Path

from tests.cases import CASES, REFUSED, UNTESTED, covered, named

ROOT = Path(__file__).parents[2]
STATUS = ROOT / "docs/status.md"
PAGE = re.compile(r"docs/[a-z/-]+\.md")


def test_cases_are_named_as_people_write_them() -> None:
    assert list(named("C9 to C11, B2; A8: what C16 is; not RFC1071 or C4X")) == ["C9", "C10", "C11", "B2", "A8", "C16"]


def test_every_case_has_a_test() -> None:
    missing = CASES.keys() - covered().keys() - UNTESTED.keys()
    assert not missing, {case: CASES[case] for case in sorted(missing)}


def test_every_case_that_a_test_names_is_one() -> None:
    unknown = {case: tests for case, tests in covered().items() if case not in CASES}
    assert not unknown


def test_no_reason_for_what_has_a_test() -> None:
    assert UNTESTED.keys() <= CASES.keys()
    assert not UNTESTED.keys() & covered().keys()


def test_pages_that_reasons_name_are_there() -> None:
    assert not {page for why in UNTESTED.values() for page in PAGE.findall(why) if not (ROOT / page).exists()}


def test_what_is_refused_has_a_reason_in_status() -> None:
    words = STATUS.read_text()
    assert all(f"`{reason}`" in words for reason in REFUSED.values())
