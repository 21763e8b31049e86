"""The addresses that a Service stands for."""

from typing import Any

import pytest

from sniffer.cli.agent import networks
from sniffer.errors import InputError
from sniffer.plan.cluster import Policy
from sniffer.plan.endpoints import choose
from sniffer.plan.views import node_addresses, ready_addresses


def slice_of(kind: str, *addresses: str, ready: bool | None = True) -> dict[str, Any]:
    conditions = {} if ready is None else {"ready": ready}
    return {"addressType": kind, "endpoints": [{"addresses": [one], "conditions": conditions} for one in addresses]}


def test_of_a_service_with_both_families_the_ipv4_ones() -> None:
    """They are the same pods."""
    four, six = slice_of("IPv4", "10.0.0.1"), slice_of("IPv6", "fd00::1", "fd00::2")
    assert ready_addresses([six, four]) == {"10.0.0.1"}
    assert ready_addresses([six]) == {"fd00::1", "fd00::2"}
    assert ready_addresses([slice_of("IPv4", "10.0.0.1", ready=False), six]) == {"fd00::1", "fd00::2"}
    assert ready_addresses([slice_of("FQDN", "ana.lan"), slice_of("IPv6", "fe80::1", ready=None)]) == set()


def test_addresses_in_use_stay_and_are_sorted_as_numbers() -> None:
    ready = frozenset({"fd00::10", "fd00::9", "10.0.0.9", "10.0.0.10"})
    assert choose((), ready, 8) == ("10.0.0.9", "10.0.0.10", "fd00::9", "fd00::10")
    assert choose(("fd00::10",), ready, 2) == ("10.0.0.9", "fd00::10")


def test_a_nodes_addresses_of_both_families() -> None:
    listed = [("InternalIP", "10.0.0.1"), ("InternalIP", "fd00::1"), ("Hostname", "node-1")]
    raw = {"status": {"addresses": [{"type": kind, "address": text} for kind, text in listed]}}
    assert node_addresses(raw) == {"10.0.0.1", "fd00::1"}


def test_where_copies_may_not_go_over_ipv6() -> None:
    policy = Policy(
        {"in the service range": networks("--x", "10.96.0.0/12, fd00:96::/108")}, networks("--y", "fd00:96::7/128")
    )
    assert policy.objection("fd00:96::8") == "in the service range"
    assert policy.objection("fd00:96::7") is None
    assert policy.objection("10.96.0.1") == "in the service range"
    assert policy.objection("fd00:97::1") is None
    with pytest.raises(InputError, match="given fd00::1/64, allowed networks as in"):
        networks("--x", "fd00::1/64")
