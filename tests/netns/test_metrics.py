"""Prometheus metrics of a running agent, scraped over HTTP."""

import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.agent import Agent, mirror, target
from tests.packets import CORPUS
from tests.topology import node
from tests.wire import send

ADDRESS = "127.0.0.1:19090"


def _scrape() -> dict[tuple[str, str], float]:
    with urllib.request.urlopen(f"http://{ADDRESS}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels.get("outcome") or sample.labels.get("state") or ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_what_status_tells(tmp_path: Path) -> None:
    frames = [case.frame for case in CORPUS[:20]]
    with node(), Agent(tmp_path, Path("/sys/fs/bpf/sniffer"), "--metrics", ADDRESS) as agent:
        agent.write(target(), mirror(direction="Ingress"))
        agent.programmed()
        send(frames)
        row = agent.wait(lambda status: status["mirrors"][0]["matched"]["packets"] == len(frames))["mirrors"][0]
        found = _scrape()
    assert found["sniffer_mirror_frames_total", "matched"] == len(frames)
    assert found["sniffer_mirror_frames_total", "sent"] == row["sent"]["packets"] == len(frames)
    assert found["sniffer_mirror_frames_total", "dropped_no_route"] == 0
    assert found["sniffer_mirror_wire_packets_total", ""] == row["wire"]["packets"]
    assert found["sniffer_mirror_state", "Programmed"] == 1
    assert found["sniffer_hooks", "attached"] == 1
    assert 0 < found["sniffer_mirror_lease_seconds", ""] <= 60
