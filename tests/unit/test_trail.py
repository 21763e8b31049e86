"""The audit trail: a line for each mirror that has come to an interface or left one, and a bound on both."""

from sniffer.model.identity import Identity
from sniffer.plan.trail import MOST_MIRRORS, MOST_PLACES, changes

WEB, API = Identity("TrafficMirror", "shop", "web"), Identity("TrafficMirror", "shop", "api")
CALLED = {1: "veth1 (pod shop/web-0)", 2: "veth2 (pod shop/web-1)"}


def test_what_came_and_what_went() -> None:
    before = {WEB: frozenset({1, 3}), API: frozenset({2})}
    after = {WEB: frozenset({1, 2})}
    assert list(changes(before, after, CALLED)) == [
        "TrafficMirror shop/api no longer mirrors veth2 (pod shop/web-1)",
        "TrafficMirror shop/web mirrors veth2 (pod shop/web-1)",
        "TrafficMirror shop/web no longer mirrors ifindex 3",
    ]
    assert not list(changes(after, after, CALLED))


def test_a_thousand_mirrors_and_interfaces_are_counted() -> None:
    (line,) = changes({}, {WEB: frozenset(range(1000))}, {})
    assert line.endswith(f" and {1000 - MOST_PLACES} more")
    many = {Identity("TrafficMirror", "shop", f"m{n}"): frozenset({1}) for n in range(1000)}
    lines = list(changes({}, many, CALLED))
    assert len(lines) == MOST_MIRRORS + 1
    assert lines[-1] == f"{1000 - MOST_MIRRORS} more mirrors have changed"
