"""What a node reports beside what was compiled: hooks that could not be attached, leases that are not renewed."""

from sniffer.agent import _unheard
from sniffer.model.identity import Identity
from sniffer.node import _not_attached
from sniffer.plan.state import Verdict

WEB = Verdict(Identity("TrafficMirror", "shop", "web"), "Programmed", interfaces=("veth1", "veth2"), selected=2, pods=2)
BAD = Verdict(Identity("TrafficMirror", "shop", "bad"), "Rejected", "BadFilter", "spec.filter: syntax error")


def test_a_hook_that_cannot_be_attached_is_told_by_the_mirrors_that_need_it() -> None:
    told = _not_attached(WEB, {"veth2": "no clsact there"})
    assert (told.state, told.reason, told.message) == ("Degraded", "NotAttached", "no clsact there")
    assert (told.selected, told.pods) == (2, 2), "it still concerns this node"
    assert _not_attached(WEB, {"veth9": "no clsact there"}) is WEB


def test_what_is_in_force_says_that_its_lease_is_not_renewed() -> None:
    web, bad = _unheard((WEB, BAD), {"pods of this node": "403 Forbidden"})
    assert (web.state, web.reason) == ("Suspended", "LeaseEnded")
    assert "pods of this node: 403 Forbidden" in (web.message or "")
    assert bad is BAD
