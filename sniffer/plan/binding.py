"""Which host veths are a pod's: from the pods that the API server tells of and the network namespaces of this node.

A pod is found by its address, and an address lies: it is used again while its last holder's namespace still stands, the
API server tells of the holder's end late, and a pod may put a neighbour's address on its own device. So a binding
needs more than the address:

- The pods must have been read before the links, and the links before the namespaces. Then whoever is said to have an
  address has its namespace among those looked at, if that lives, and an nsid means the namespace it is said to mean.
  Links of a former look still mean the namespaces that were seen before and after they were read: a veth leads where it
  leads for as long as it lives.
- A namespace has one owner for as long as it lives. What its addresses become does not matter any more.
- A pod has its namespace before its address is known: one that turned up after the pod was first said to have that
  address is not the pod's. A pod whose namespace has gone waits to be told of anew: unready, or with other addresses.
- A veth of the pod's stays the pod's while its other end lies where no runtime put it: a pod that may (CAP_NET_ADMIN)
  takes its device along into a namespace of its own making, and goes on talking through the same veth.
- Several namespaces that could be the pod's: none is. Once only one of them is left, it must be the youngest: an older
  one had the address before, and it is the pod's own that has gone. And it must have no address that is nobody's: it
  may be of a pod that nobody has told of yet, which has put this one's on its device.
"""

import ipaddress
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from sniffer.plan.cluster import Binding, Pod
from sniffer.plan.facts import Link

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace other than the node's."""

    inode: int
    born_ns: int
    """When the kernel made its inode, by the wall clock."""
    nsid: int
    """By which the node's own namespace knows it; -1 when it could not be asked for."""
    name: str
    addresses: frozenset[str] | None = None
    """None: not asked for in this look, or not told."""

    @property
    def key(self) -> Key:
        """Tells it from every other, former ones included: an inode's number alone is used again."""
        return self.inode, self.born_ns


@dataclass(frozen=True, slots=True)
class Owner:
    """The pod that a namespace belongs to, and the addresses it was found by."""

    uid: str
    addresses: frozenset[str]


@dataclass(frozen=True, slots=True)
class Claim:
    """A living sandbox of a pod, as the API server tells of it, and the number of the look that first heard of it."""

    addresses: frozenset[str]
    look: int
    rivals: frozenset[Key] = frozenset()
    """Namespaces that could be the sandbox's, or could have been before they went; none that became another pod's."""
    found: bool = False
    """It was bound. When its namespace goes, so does the sandbox."""
    since: str = ""
    """When the sandbox became ready, where the cluster tells: another time is another sandbox."""


@dataclass(frozen=True, slots=True)
class Owners:
    """What one look hands to the next. A new one, of an agent that has just started, knows nothing."""

    looks: int = 0
    seen: Mapping[Key, int] = field(default_factory=dict)
    """The look that first saw each living namespace."""
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """By UID."""
    by_namespace: Mapping[Key, Owner] = field(default_factory=dict)
    """Of living namespaces only. The owner may be gone."""
    bindings: Mapping[str, Binding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bindings:
    """The outcome of one look."""

    bindings: Mapping[str, Binding]
    """By UID; every pod has one."""
    owners: Owners
    waits: bool
    """Some pod with a living sandbox is not bound: look again, with the addresses of all that is nobody's."""
    unclaimed: Mapping[Key, tuple[int, ...]] = field(default_factory=dict)
    """The host veths of namespaces that are nobody's yet."""


def bind(
    pods: Sequence[Pod],
    namespaces: Sequence[Namespace] | None,
    links: Sequence[Link],
    former: Owners | None = None,
    linked: Container[Key] | None = None,
) -> Bindings:
    """Binds each pod to its namespace and to all host veths whose other end lies there.

    namespaces: None where they could not be looked at: whoever is bound keeps the veths that are still there. While one
    that is nobody's has no addresses, nobody is bound anew.
    former: what the last look handed on.
    linked: the links are those of a former look, and these namespaces were there before and after they were read; of
    others nothing is known yet. None: they were just read.
    Reasons for no interfaces: see cluster.REASONS.
    """
    former = former or Owners()
    if namespaces is None:
        return _blind(pods, links, former)
    looks = former.looks + 1
    seen = {namespace.key: former.seen.get(namespace.key, looks) for namespace in namespaces}
    owned = {key: owner for key, owner in former.by_namespace.items() if key in seen}
    claims = _claims(pods, former.claims, looks)
    bound = _still_bound(owned, claims, seen)
    waiting = {pod.uid: pod for pod in pods if pod.uid not in bound and _is_open(claims.get(pod.uid))}
    free = [namespace for namespace in namespaces if namespace.key not in owned]
    if waiting and all(namespace.addresses is not None for namespace in free):
        choices = {uid: _choices(claims[uid], free, seen) for uid in waiting}
        rivals = {uid: keys | (claims[uid].rivals - owned.keys()) for uid, keys in choices.items()}
        claimed = frozenset(address for claim in claims.values() for address in claim.addresses)
        untold = {namespace.key for namespace in free if not _is_told(namespace, claimed)}
        own = {uid: keys - untold if rivals[uid] - keys else keys for uid, keys in choices.items()}
        new = _bind_anew(waiting, own, rivals)
        claims |= {uid: replace(claims[uid], rivals=frozenset(rivals[uid])) for uid in waiting}
        claims |= {uid: replace(claims[uid], found=True) for uid in new}
        owned |= {key: Owner(uid, claims[uid].addresses) for uid, key in new.items()}
        bound |= new
    veths = _veths(links)
    astray = _astray(links, namespaces)
    by_key = {namespace.key: namespace for namespace in namespaces}
    bindings = {}
    for pod in pods:
        if pod.host_network:
            bindings[pod.uid] = Binding((), "HostNetwork")
        elif pod.uid in bound:
            namespace = by_key[bound[pod.uid]]
            last = former.bindings.get(pod.uid)
            kept = astray.intersection(last.interfaces) if last and last.inode == namespace.inode else frozenset()
            there = veths.get(namespace.nsid, ()) if linked is None or namespace.key in linked else ()
            interfaces = tuple(sorted({*there, *kept}))
            missing = "NoHostVeth" if linked is None else "NotYet"
            bindings[pod.uid] = Binding(interfaces, None if interfaces else missing, namespace.inode)
        else:
            several = pod.uid in claims and len(claims[pod.uid].rivals & seen.keys()) > 1
            bindings[pod.uid] = Binding((), "Ambiguous" if several else "NotYet")
    unclaimed = {
        namespace.key: veths[namespace.nsid]
        for namespace in free
        if namespace.key not in owned and namespace.nsid in veths and (linked is None or namespace.key in linked)
    }
    owners = Owners(looks, seen, claims, owned, bindings)
    return Bindings(bindings, owners, any(uid not in bound for uid in waiting), unclaimed)


def _claims(pods: Iterable[Pod], former: Mapping[str, Claim], look: int) -> dict[str, Claim]:
    """Who is said to have a living sandbox with addresses. One that was unready meanwhile claims anew."""
    claims = {}
    for pod in pods:
        addresses = frozenset(plain for address in pod.addresses if (plain := _plain(address)))
        if addresses and pod.sandbox_ready and not pod.host_network:
            claim = former.get(pod.uid)
            same = claim is not None and (claim.addresses, claim.since) == (addresses, pod.sandbox_since)
            claims[pod.uid] = claim if claim and same else Claim(addresses, look, since=pod.sandbox_since)
    return claims


def _is_open(claim: Claim | None) -> bool:
    return claim is not None and not claim.found


def _still_bound(owned: Mapping[Key, Owner], claims: Mapping[str, Claim], seen: Mapping[Key, int]) -> dict[str, Key]:
    """UID -> its namespace. A pod that has none of the addresses any more that it was found by has another sandbox."""
    bound: dict[str, Key] = {}
    for key, owner in sorted(owned.items(), key=lambda item: seen[item[0]]):
        claim = claims.get(owner.uid)
        if claim is None or claim.addresses & owner.addresses:
            bound[owner.uid] = key
    return bound


def _choices(claim: Claim, free: Iterable[Namespace], seen: Mapping[Key, int]) -> set[Key]:
    """Namespaces that have an address of this pod's and were there when it was first said to have it."""
    addressed = (namespace for namespace in free if claim.addresses & (namespace.addresses or frozenset()))
    return {namespace.key for namespace in addressed if seen[namespace.key] <= claim.look}


def _is_told(namespace: Namespace, claimed: frozenset[str]) -> bool:
    """Whether each address is some pod's, but for those of a link alone."""
    return all(_is_link_local(address) for address in (namespace.addresses or frozenset()) - claimed)


def _bind_anew(
    waiting: Mapping[str, Pod], choices: Mapping[str, set[Key]], rivals: Mapping[str, set[Key]]
) -> dict[str, Key]:
    """UID -> namespace. What one pod is bound to is nobody else's choice any more, and is taken out of both sets.

    rivals: the choices, and those of earlier looks that are gone.
    """
    new: dict[str, Key] = {}
    while True:
        only: dict[Key, list[str]] = {}
        for uid, keys in choices.items():
            youngest = max((born_ns for _, born_ns in rivals[uid]), default=0)
            if uid not in new and len(keys) == 1 and all(born_ns >= youngest for _, born_ns in keys):
                only.setdefault(min(keys), []).append(uid)
        found = {newest: key for key, uids in only.items() if (newest := _newest(uids, waiting))}
        if not found:
            return new
        new |= found
        for keys in (*choices.values(), *rivals.values()):
            keys.difference_update(found.values())


def _newest(uids: Sequence[str], pods: Mapping[str, Pod]) -> str | None:
    """Of pods that claim one namespace, the one created last; None when that is not to be told."""
    last = max(pods[uid].created for uid in uids)
    newest = [uid for uid in uids if pods[uid].created == last]
    return newest[0] if len(newest) == 1 else None


def _veths(links: Iterable[Link]) -> dict[int, tuple[int, ...]]:
    """Nsid -> the ifindexes of host veths whose other end lies there."""
    found: dict[int, list[int]] = {}
    for link in links:
        if link.peer:
            found.setdefault(link.peer[0], []).append(link.index)
    return {nsid: tuple(sorted(indexes)) for nsid, indexes in found.items()}


def _astray(links: Iterable[Link], namespaces: Iterable[Namespace]) -> frozenset[int]:
    """The ifindexes of host veths whose other end lies in a namespace that is not among these."""
    known = {namespace.nsid for namespace in namespaces}
    return frozenset(link.index for link in links if link.peer and link.peer[0] not in known)


def _blind(pods: Sequence[Pod], links: Sequence[Link], former: Owners) -> Bindings:
    """A veth keeps its index, and dies with its namespace: what is still there is still the pod's."""
    present = {link.index for link in links}
    bindings = {}
    for pod in pods:
        known = former.bindings.get(pod.uid, Binding((), "HostNetwork" if pod.host_network else "NotYet"))
        interfaces = tuple(index for index in known.interfaces if index in present)
        bindings[pod.uid] = known if interfaces == known.interfaces else replace(known, interfaces=interfaces)
    current = _claims(pods, former.claims, former.looks)
    claims = {uid: claim for uid, claim in current.items() if former.claims.get(uid) is claim}
    return Bindings(bindings, replace(former, claims=claims, bindings=bindings), waits=True)


def _is_link_local(address: str) -> bool:
    return bool(_plain(address)) and ipaddress.ip_address(address).is_link_local


@lru_cache(maxsize=4096)
def _plain(address: str) -> str | None:
    """As the kernel would write it; None for what is no address."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return None
