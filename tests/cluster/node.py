"""One node: a network and a mount namespace with kubelet, kube-proxy, containerd and a CNI of its own.

What a node keeps over a reboot (its disk) is the directory `home`: containerd's images, the kubelet's files, and
everything that it writes below `/var`. `/run`, `/sys/fs/bpf` and the network namespace are new at each boot.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.cluster import configs
from tests.cluster.cgroups import Groups
from tests.cluster.daemon import Daemon, stop_all
from tests.cluster.host import GATEWAY, Host
from tests.topology import run, wait_until

# What the kubelet sets for the whole kernel, every machine's: here it writes to files of the node's own.
KERNEL_SYSCTLS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)

# $1: a directory for the new /run, $2: the node's home, $3: KERNEL_SYSCTLS, $4: its name. A fresh sysfs shows the
# devices of this network namespace; the control groups that were mounted on the former one are carried over, as is the
# directory that tests share (TMPDIR).
_BOOT = """set -eu
mount -t tmpfs -o mode=755 tmpfs "$1"
mkdir -p "$1"/netns "$1"/lock "$1"/containerd "$1"/cgroup "$1"/tmp "$1"/sysctl
mount --rbind /run/tmp "$1"/tmp
mount --rbind /sys/fs/cgroup "$1"/cgroup
mount --no-mtab --move "$1" /run
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount -l /run/cgroup
rmdir /run/cgroup
mount -t bpf bpf /sys/fs/bpf
mkdir -p "$2"/var "$2"/var.work
mount -t overlay -o "lowerdir=/var,upperdir=$2/var,workdir=$2/var.work" overlay /var
for name in $3; do
	[ -e "/proc/sys/$name" ] || continue
	file=/run/sysctl/$(echo "$name" | tr / .)
	cat "/proc/sys/$name" >"$file"
	mount --bind "$file" "/proc/sys/$name"
done
mount --make-rshared /
hostname "$4"
mkdir -p /run/booted
exec sleep infinity
"""


class Node(Host):
    """`nodeN` at 10.200.0.(10 + N) with pods in 10.244.N.0/24. `run` and `popen` enter its mounts as well.

    `containerd`, `kubelet` and `kube_proxy` are `Daemon`s: stop, kill, pause, restart them one by one.
    """

    def __init__(
        self, number: int, home: Path, binaries: Path, groups: Groups, kubeconfigs: dict[str, Path], ca: Path
    ) -> None:
        super().__init__(f"node{number}", f"10.200.0.{10 + number}")
        self.number, self.home = number, home
        self.pod_network = f"10.244.{number}.0/24"
        self.images: list[Path] = []
        """Archives that are imported at each boot, where the disk does not have them yet."""
        self._groups, self._ca = groups, ca
        self.joined = 0.0
        """When its kubelet was last started by `join`, in seconds since the epoch."""
        self._boot: subprocess.Popen[str] | None = None
        home.mkdir(parents=True)
        configs.write_node(home, self.name, self.pod_network, ca, groups.add(self.name))
        kube_proxy = (binaries / "kube-proxy", f"--config={home}/kube-proxy.yaml", f"--hostname-override={self.name}")
        kubelet = (
            *(binaries / "kubelet", f"--config={home}/kubelet.yaml", f"--kubeconfig={kubeconfigs['kubelet']}"),
            *(f"--hostname-override={self.name}", f"--node-ip={self.address}", f"--root-dir={home}/kubelet"),
            f"--cert-dir={home}/pki",
        )
        self.containerd = self._daemon("containerd", "containerd", "--config", home / "containerd.toml")
        self.kubelet = self._daemon("kubelet", *kubelet)
        self.kube_proxy = self._daemon("kube-proxy", *kube_proxy)
        configs.write_kube_proxy(home, kubeconfigs["kube-proxy"])

    def start(self) -> None:
        """Boots it: namespaces, containerd, images. `join` does the rest."""
        self.plug()
        new_run = Path("/run", f"{self.name}.run")
        new_run.mkdir(exist_ok=True)
        line = ("unshare", "--mount", "--uts", "--propagation", "private", "/bin/bash", "-c", _BOOT)
        words = ("boot", new_run, self.home, " ".join(KERNEL_SYSCTLS), self.name)
        self._boot = Host.popen(self, *line, *words, stderr=subprocess.PIPE)
        wait_until(self._booted, timeout=20, what=f"mounts of {self.name}")
        for name, value in (("net.ipv4.ip_forward", 1), ("net.bridge.bridge-nf-call-iptables", 1)):
            run("sysctl", "-qw", f"{name}={value}", netns=self.netns)
        self.containerd.start()

    def join(self) -> None:
        """Imports the images and starts kubelet and kube-proxy; the API server has to be there."""
        self.containerd.until(lambda: self._ctr("version"), what=f"containerd of {self.name}")
        for archive in self.images:
            self.load(archive)
        self.joined = time.time()
        self.kube_proxy.start()
        self.kubelet.start()

    def stop(self) -> None:
        """Switches it off, as a power cut does: every process at once, its network namespace, its pins.

        `home`, its disk, stays: `start` and `join` are a reboot.
        """
        for daemon in (self.kubelet, self.kube_proxy, self.containerd):
            daemon.kill()
        self._groups.kill(self.name)
        if self._boot is not None:
            self._boot.kill()
            self._boot.wait()
            self._boot = None
        self.unplug()

    def halt(self) -> None:
        """Stops it as a shutdown does: daemons first, so that none sees another die."""
        stop_all([self.kubelet, self.kube_proxy])
        self.stop()

    def reboot(self) -> None:
        """Power off and on again; returns when its daemons run, before the node is Ready anew."""
        self.stop()
        self.start()
        self.join()

    def load(self, archive: Path) -> None:
        """Imports an image archive (docker-archive tar), now and at every later boot."""
        self.run("ctr", "--namespace", "k8s.io", "images", "import", archive)
        if archive not in self.images:
            self.images.append(archive)

    @contextlib.contextmanager
    def without_api(self) -> Iterator[None]:
        """Meanwhile no packet of this node reaches the API server, and no connection is closed: half open.

        Everything else passes; copies reach their analyzer. kubelet and kube-proxy are cut off as well.
        """
        table = "inet test_partition"
        rule = f"ip daddr {GATEWAY} tcp dport 6443 counter drop"
        text = f"table {table} {{\n chain out {{\n type filter hook postrouting priority 300\n {rule}\n }}\n}}\n"
        self.run("nft", "-f", "-", stdin=text)
        try:
            yield
        finally:
            self.run("nft", "delete", "table", *table.split())

    def run(self, *words: object, check: bool = True, stdin: str | None = None) -> str:
        """Runs a command on this node, in its network and among its mounts, and returns its standard output."""
        return run(*self._enter(), *words, check=check, stdin=stdin)

    def popen(self, *words: object, **options: object) -> "subprocess.Popen[str]":
        """Starts a command on this node and leaves it running, in the node's control group: it ends with the node."""
        enter = ("/bin/sh", "-c", 'echo $$ >"$0" && exec "$@"', self._groups.procs(self.name))
        return Host.popen(self, *enter, *self._enter(network=False), *words, **options)

    def path(self, path: str) -> Path:
        """A path of this node (`/run/...`, `/sys/fs/bpf/...`) as the tests can open it."""
        assert self._boot is not None, f"{self.name} is off"
        return Path(f"/proc/{self._boot.pid}/root", path.lstrip("/"))

    def pids(self, below: str = "**") -> list[int]:
        """Processes of this node; `below` as in `Groups.pids`."""
        return self._groups.pids(self.name, below)

    def links(self) -> list[str]:
        """The names of its links, those of pods among them."""
        return [link["ifname"] for link in json.loads(self.run("ip", "--json", "link"))]

    def _daemon(self, name: str, *words: object) -> Daemon:
        log = self.home / f"{name}.log"
        environment = configs.environment(HOME=str(self.home))
        # Which namespaces, is known when the node has booted, so the line asks at each start.
        line = (
            "/bin/bash",
            "-c",
            f'exec nsenter --target="$(<{self.home}/boot.pid)" --mount --uts --net -- "$@"',
            name,
        )
        procs = self._groups.procs(self.name)
        return Daemon(f"{name} of {self.name}", [*line, *words], log, procs, environment)

    def _enter(self, network: bool = True) -> Sequence[object]:
        assert self._boot is not None, f"{self.name} is off"
        return ("nsenter", f"--target={self._boot.pid}", "--mount", "--uts", *(["--net"] if network else []), "--")

    def _booted(self) -> bool:
        boot = self._boot
        assert boot is not None
        if boot.poll() is not None:
            assert boot.stderr is not None
            raise AssertionError(f"{self.name} did not boot: {boot.stderr.read()}")
        if not self.path("/run/booted").exists():
            return False
        (self.home / "boot.pid").write_text(str(boot.pid))
        return True

    def _ctr(self, *words: str) -> bool:
        return subprocess.run([*map(str, self._enter()), "ctr", *words], capture_output=True).returncode == 0
