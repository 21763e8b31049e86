"""The relay is nobody's network: NetworkManager and networkd are told so, where they are."""

import subprocess
from pathlib import Path

from sniffer.kernel.relay import RX, TX
from tests.agent import Agent, mirror, sniffer, target
from tests.topology import node

RULES, NETWORK = Path("/run/udev/rules.d/85-sniffer.rules"), Path("/run/systemd/network/00-sniffer.network")


def test_services_that_are_there_are_told(tmp_path: Path) -> None:
    Path("/run/udev").mkdir(exist_ok=True)
    Path("/run/systemd/netif").mkdir(parents=True, exist_ok=True)
    with node(), Agent(tmp_path) as agent:
        agent.write(target(), mirror())
        agent.programmed()
        for name in (TX, RX):
            assert f'ENV{{INTERFACE}}=="{name}", ENV{{NM_UNMANAGED}}="1"' in RULES.read_text()
            assert name in NETWORK.read_text().split("[Link]")[0]
        agent.stop()
        assert str(RULES) in sniffer("cleanup").stdout
        assert not RULES.exists()
        assert not NETWORK.exists()


def test_services_that_are_not_there_get_no_files(tmp_path: Path) -> None:
    for path in (Path("/run/udev"), Path("/run/systemd")):
        subprocess.run(["rm", "-rf", path], check=True)
    with node(), Agent(tmp_path) as agent:
        agent.write(target(), mirror())
        agent.programmed()
        assert not RULES.exists()
        assert not NETWORK.exists()
