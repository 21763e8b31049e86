"""Whether this machine can mirror: everything that `sniffer doctor` says. It only looks.

What takes a trial is tried on maps and programs that nobody else sees and that end with this process.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from sniffer import pcap
from sniffer.abi.records import EgressRecord
from sniffer.errors import KernelError, MachineError, SnifferError
from sniffer.kernel import bpf, capabilities, cni, policy, programs, relay, tcx, uname
from sniffer.kernel.look import look_at
from sniffer.kernel.netlink import Netlink
from sniffer.kernel.pins import Pins, holder_words, is_held
from sniffer.kernel.rivals import rivals
from sniffer.plan.facts import Link
from sniffer.plan.template import address_of
from sniffer.stats.finding import Finding, Findings, Result

_OVERHEAD, _OVERHEAD_MOST = 50, 110
"""Bytes that a tunnel adds to an IP packet (the inner Ethernet header, the tunnel's, UDP, IP): VXLAN over IPv4, and
GENEVE with its options over IPv6."""
_BACKLOG = 1000
_SOMEWHERE = "192.0.2.1"  # an address for documentation: only the default route leads there
_LOOPBACK, _ETHERNET = 772, 1  # ARPHRD_*
_LATER = "install the newest kernel of your distribution's 6.1, 6.12 or later series"
_BPFFS_FIX = "mount one: mount -t bpf bpf /sys/fs/bpf; or name a --pin-root that lies on one"


def examine(pin_root: Path) -> Findings:
    """All checks in order. One that is not allowed to look says so, as a warning."""
    pins = Pins(pin_root)
    with Netlink() as netlink:
        checks: tuple[tuple[str, Callable[[], Findings]], ...] = (
            ("kernel", _kernel),
            ("capabilities", _capabilities),
            ("selinux", _selinux),
            ("lockdown", _lockdown),
            ("libpcap", _libpcap),
            ("programs", _programs),
            ("attachment", _attachment),
            ("jit", _jit),
            ("btf", _btf),
            ("memlock", _memlock),
            ("bpffs", lambda: _bpffs(pins)),
            ("agent", lambda: _agent(pins)),
            ("relay", lambda: _relay(netlink)),
            ("backlog", _backlog),
            ("mtu", lambda: _mtu(netlink, _overhead(_records(pins)))),
            ("tunnels", lambda: _tunnels(pins)),
            ("cni", lambda: _cni(netlink)),
            ("rivals", lambda: _rivals(netlink, pins)),
            ("rx-gro-list", lambda: _gro_list(netlink)),
            ("network services", _services),
        )
        for name, check in checks:
            try:
                yield from check()
            except (SnifferError, OSError) as error:
                fix = "run as root" if capabilities.missing() else "see the message"
                yield Finding(name, Result.WARN, f"not known: {error}", fix)


def _kernel() -> Findings:
    judgement = uname.judgement()
    fix = {
        Result.OK: "",
        Result.WARN: _LATER,
        Result.FAIL: f"{_LATER}; an agent does not run on this one, unless it is given --allow-kernel",
    }[Result(judgement.result)]
    yield Finding("kernel", Result(judgement.result), judgement.text, fix)


def _capabilities() -> Findings:
    lacking = capabilities.missing()
    if lacking:
        fix = "run as root; in a container add them (CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON)"
        yield Finding("capabilities", Result.FAIL, f"{', '.join(lacking)} missing", fix)
    else:
        yield Finding("capabilities", Result.OK, "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON")


def _selinux() -> Findings:
    found, suspect = policy.selinux(), policy.may_forbid()
    if suspect:
        yield Finding("selinux", Result.WARN, f"{suspect}, which may not use bpf()", policy.SELINUX_FIX)
    elif found:
        yield Finding("selinux", Result.OK, f"{'permissive' if found[1] else 'on'}; this runs as {found[0]}")
    else:
        yield Finding("selinux", Result.OK, "off")


def _lockdown() -> Findings:
    mode = policy.lockdown()
    if mode == "confidentiality":
        text = "confidentiality: agents and captures run, but `sniffer trace` may not read the kernel's memory"
        yield Finding("lockdown", Result.WARN, text, "for `sniffer trace` boot with lockdown=integrity, or none")
    else:
        yield Finding("lockdown", Result.OK, mode or "none, or not to be seen from here")


def _libpcap() -> Findings:
    try:
        pcap.compile("tcp port 80")
    except MachineError as error:
        yield Finding("libpcap", Result.FAIL, error.message, error.fix)
    else:
        yield Finding("libpcap", Result.OK, "compiles filters")


def _programs() -> Findings:
    """The object with all its programs, loaded beside whatever an agent has: kernel and helpers suffice or not."""
    try:
        with programs.open_object() as opened:
            number, loaded = len(opened.programs()), len(opened.loaded())
        if loaded == number:
            yield Finding("programs", Result.OK, f"the kernel takes all {number}, with their helpers")
        else:
            text = f"the kernel takes {loaded} of {number}: without the relay's ring copies share production's backlog"
            yield Finding("programs", Result.WARN, text, "use kernel 5.18 or later")
    except MachineError as error:
        yield Finding("programs", Result.FAIL, error.message, error.fix)
    except KernelError as error:
        if capabilities.missing():
            yield Finding("programs", Result.WARN, "not tried: capabilities are missing", "run as root")
        else:
            words = " ".join(str(error).split())
            yield Finding("programs", Result.FAIL, f"the kernel refuses them: {words}", "use kernel 5.10 or later")


def _attachment() -> Findings:
    if tcx.has_tcx():
        yield Finding("attachment", Result.OK, "TCX")
        return
    modules = {name: _has_module(name) for name in ("sch_ingress", "cls_bpf")}
    lacking = [name for name, there in modules.items() if there is False]
    unknown = [name for name, there in modules.items() if there is None]
    if lacking:
        fix = f"install the kernel's modules (linux-modules-extra), modprobe {' '.join(modules)}"
        yield Finding("attachment", Result.FAIL, f"neither TCX nor the modules {' and '.join(lacking)}", fix)
    elif unknown:
        text = f"clsact, if the kernel has {' and '.join(unknown)}: {_modules()} cannot be seen from here"
        yield Finding("attachment", Result.WARN, text, f"look on the node itself: modprobe {' '.join(unknown)}")
    else:
        yield Finding("attachment", Result.OK, "clsact; this kernel has no TCX")


def _modules() -> Path:
    return Path("/lib/modules") / os.uname().release


def _has_module(name: str) -> bool | None:
    """Loaded, built in, or there to be loaded; None: what there is to be loaded cannot be seen, as in a container."""
    if Path("/sys/module", name).exists():
        return True
    lists = [file for file in (_modules() / "modules.builtin", _modules() / "modules.dep") if file.exists()]
    if any(f"/{name}.ko" in path.read_text(errors="replace") for path in lists):
        return True
    return False if len(lists) == 2 else None


def _jit() -> Findings:
    setting = Path("/proc/sys/net/core/bpf_jit_enable")
    if not setting.exists():  # another network namespace than the machine's
        yield Finding("jit", Result.OK, "not to be seen from this network namespace")
    elif setting.read_text().strip() == "0":
        yield Finding(
            "jit", Result.WARN, "off: programs are interpreted, ten times slower", "sysctl net.core.bpf_jit_enable=1"
        )
    else:
        yield Finding("jit", Result.OK, "on")


def _btf() -> Findings:
    there = Path("/sys/kernel/btf/vmlinux").exists()
    yield Finding("btf", Result.OK, "of the kernel" if there else "none of the kernel, and none is needed")


def _memlock() -> Findings:
    limit = programs.memlock_limit()
    if limit is None:
        yield Finding("memlock", Result.OK, "not limited, or maps are not counted (since 5.11)")
    elif "CAP_SYS_RESOURCE" in capabilities.effective():
        yield Finding("memlock", Result.OK, "limited, and the limit may be lifted")
    else:
        yield Finding("memlock", Result.FAIL, programs.memlock_words(limit), programs.MEMLOCK_FIX)


def _bpffs(pins: Pins) -> Findings:
    existing = next(path for path in (pins.root, *pins.root.parents) if path.exists())
    if not bpf.is_bpffs(existing):
        yield Finding("bpffs", Result.FAIL, f"{pins.root} is not on a bpffs", _BPFFS_FIX)
    elif not os.access(existing, os.W_OK):
        yield Finding("bpffs", Result.FAIL, f"{existing} cannot be written", "run as root, or mount it for writing")
    else:
        yield Finding("bpffs", Result.OK, f"{pins.root} is on one")


def _agent(pins: Pins) -> Findings:
    if is_held(pins):
        yield Finding("agent", Result.OK, f"runs, pid {holder_words(pins).get('pid', 'unknown')}")
    elif pins.exists():
        fix = "start the agent again, or remove what it left: sniffer cleanup"
        yield Finding("agent", Result.WARN, "none runs, but one was here: its mirrors end with their lease", fix)
    else:
        yield Finding("agent", Result.OK, "none runs, none was here")


def _relay(netlink: Netlink) -> Findings:
    try:
        there = relay.observe(netlink)
    except MachineError as error:
        yield Finding("relay", Result.FAIL, error.message, error.fix)
        return
    if there is None and _has_module("veth") is False:
        yield Finding("relay", Result.FAIL, "this kernel has no veth", "install the kernel's modules, modprobe veth")
    elif there and there[1]:
        yield Finding("relay", Result.WARN, "; ".join(there[1]), "the agent mends it when it starts")
    else:
        yield Finding("relay", Result.OK, "is there" if there else f"the names {relay.TX} and {relay.RX} are free")


def _backlog() -> Findings:
    setting = Path("/proc/sys/net/core/netdev_max_backlog")
    if not setting.exists():
        yield Finding("backlog", Result.OK, "not to be seen from this network namespace")
    elif int(setting.read_text()) < _BACKLOG:
        text = f"net.core.netdev_max_backlog is {int(setting.read_text())}: bursts between interfaces are dropped early"
        yield Finding("backlog", Result.WARN, text, f"sysctl net.core.netdev_max_backlog={_BACKLOG}")
    else:
        yield Finding("backlog", Result.OK, f"net.core.netdev_max_backlog is {int(setting.read_text())}")


def _records(pins: Pins) -> tuple[EgressRecord, ...]:
    """Of the endpoints that there are."""
    return tuple(look_at(pins.root).state.egress.values()) if pins.exists() else ()


def _overhead(records: Collection[EgressRecord]) -> tuple[int, str]:
    """Bytes that these tunnels add to an IP packet at most, or most people's where there are none; in words."""
    if records:
        # The template takes the place of the inner Ethernet header, which the tunnel carries.
        return max(len(record.template) for record in records), "by the tunnels that are here"
    return _OVERHEAD, f"in VXLAN over IPv4; GENEVE over IPv6 takes {_OVERHEAD_MOST - _OVERHEAD} more"


def _mtu(netlink: Netlink, wrapped: tuple[int, str]) -> Findings:
    overhead, how = wrapped
    uplink = netlink.path_to(_SOMEWHERE)
    if uplink.device is None:
        yield Finding("mtu", Result.OK, "no default route: each target needs a route of its own")
        return
    others = [link for link in netlink.links() if _is_mirrored(link) and link.name != uplink.device]
    largest = max(others, key=lambda link: link.mtu, default=None)
    text = f"{uplink.device}, where the default route leads, has {uplink.mtu}"
    if largest is None or largest.mtu + overhead <= uplink.mtu:
        yield Finding("mtu", Result.OK, f"{text}: the largest frames of other interfaces fit, wrapped ({how})")
        return
    needed = largest.mtu + overhead
    words = f"{text}, full frames of {largest.name} take {needed} wrapped ({how}): they will be cut in two"
    fix = f"ip link set {uplink.device} mtu {needed}, where the network behind carries it"
    yield Finding("mtu", Result.WARN, words, fix)


def _tunnels(pins: Pins) -> Findings:
    """Of the endpoints that there are: whether full frames of what is mirrored fit, wrapped."""
    if not pins.exists():
        yield Finding("tunnels", Result.OK, "none yet")
        return
    state, links = (look := look_at(pins.root)).state, {link.index: link for link in look.links}
    mirrored = [links[hook.ifindex] for hook, mirrors in state.hooks.items() if mirrors and hook.ifindex in links]
    largest = max(mirrored, key=lambda link: link.mtu, default=None)
    tight = False
    for record in state.egress.values():
        # The template takes the place of the inner Ethernet header, which the tunnel carries.
        needed = largest.mtu + len(record.template) if largest else 0
        if largest and record.mtu and needed > record.mtu:
            tight = True
            device = links[record.ifindex].name if record.ifindex in links else f"ifindex {record.ifindex}"
            text = (
                f"to {address_of(record)} by {device} packets of {record.mtu} bytes pass, full frames of {largest.name}"
                f" take {needed} wrapped: TCP is cut anew, others are sent in two"
            )
            fix = f"ip link set {device} mtu {needed}, where the network behind carries it; or a snapLength"
            yield Finding("tunnels", Result.WARN, text, fix)
    if not tight:
        count = len(state.egress)
        yield Finding("tunnels", Result.OK, f"{count} endpoints: what is mirrored fits, wrapped" if count else "none")


def _cni(netlink: Netlink) -> Findings:
    links = netlink.links()
    one = cni.found(link.name for link in links)
    if one is None:
        yield Finding("cni", Result.OK, f"none, by {cni.CONFIGURATIONS} and by the interfaces that there are")
        return
    text = f"{one.name} ({one.how}{': ' + ', '.join(one.plugins) if one.plugins else ''})"
    said = cni.remark(one, tcx.has_tcx(), [link.kind for link in links])
    if said:
        yield Finding("cni", Result.WARN, f"{text}: {said[0]}", said[1])
    else:
        yield Finding("cni", Result.OK, text)


def _is_mirrored(link: Link) -> bool:
    return link.up and link.arphrd == _ETHERNET and link.name not in (relay.TX, relay.RX)


def _rivals(netlink: Netlink, pins: Pins) -> Findings:
    ours = frozenset(programs.pinned_ids(pins).values())
    found = False
    for rival in rivals(netlink, ours):
        found = True
        text = f"{rival.interface}: {rival.where} has {rival.what}; what it takes or drops, the tap does not see"
        yield Finding("rivals", Result.WARN, text, "mirror this traffic at another interface, or have it run later")
    if not found:
        yield Finding("rivals", Result.OK, "nobody else is on the hooks, or only behind us")


def _gro_list(netlink: Netlink) -> Findings:
    version, _ = uname.version()
    if version[:2] != (5, 10):
        yield Finding("rx-gro-list", Result.OK, "matters on 5.10 only")
        return
    risky = [
        link.name for link in netlink.links() if _is_mirrored(link) and "rx-gro-list" in netlink.offloads(link.name)
    ]
    for name in risky:
        text = f"{name}: on, and 5.10 lacks the fixes of what it merges"
        yield Finding("rx-gro-list", Result.WARN, text, f"ethtool -K {name} rx-gro-list off")
    if not risky:
        yield Finding("rx-gro-list", Result.OK, "off everywhere")


def _services() -> Findings:
    services = {"NetworkManager": "/run/NetworkManager", "systemd-networkd": "/run/systemd/netif"}
    running = [name for name, path in services.items() if Path(path).is_dir()]
    text = f"{' and '.join(running)}; the agent tells it to leave the relay alone" if running else "none"
    yield Finding("network services", Result.OK, text)
