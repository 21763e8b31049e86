"""Prometheus metrics of a running agent, scraped over HTTP."""

import time
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.agent import Agent, mirror, sniffer, target
from tests.packets import CORPUS
from tests.topology import node
from tests.wire import send

ADDRESS = "127.0.0.1:19090"


def _text() -> str:
    with urllib.request.urlopen(f"http://{ADDRESS}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _scrape() -> dict[tuple[str, str], float]:
    text = _text()
    return {
        (
            sample.name,
            sample.labels.get("reason") or sample.labels.get("outcome") or sample.labels.get("state") or "",
        ): (sample.value)
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
        assert all(name in _text() for name in ('mirror="all"', 'interface="pod0"', 'address="10.9.0.2"'))
        agent.stop()
        agent.arguments = (*agent.arguments, "--metrics-names", "none")
        agent.start()
        assert not any(name in _text() for name in ("pod0", "10.9.0.2", '"all"', '"ana"'))
        nameless = _scrape()
    assert nameless["sniffer_mirror_matched_frames_total", ""] == len(frames)
    assert found["sniffer_mirror_matched_frames_total", ""] == len(frames)
    assert found["sniffer_mirror_frames_total", "sent"] == row["sent"]["packets"] == len(frames)
    assert found["sniffer_mirror_frames_total", "no_route"] == 0
    assert found["sniffer_mirror_wire_packets_total", ""] == row["wire"]["packets"]
    assert found["sniffer_mirrors", "Programmed"] == 1
    assert found["sniffer_endpoints", "reachable"] == 1
    assert found["sniffer_hooks", "attached"] == 1
    assert 0 < found["sniffer_mirror_lease_seconds", ""] <= 60
    assert found["sniffer_pins_readable", ""] == found["sniffer_agent_source_fresh", ""] == 1
    assert found["sniffer_agent_reconcile_errors_total", ""] == 0
    assert found["sniffer_agent_reconcile_duration_seconds_count", ""] > 1
    assert 0 <= time.time() - found["sniffer_agent_last_reconcile_timestamp_seconds", ""] < 5
    assert found["sniffer_agent_reconcile_lag_seconds", ""] < 1
    assert ("sniffer_agent_api_last_contact_timestamp_seconds", "") not in found  # there is no API


def test_nothing_is_served_to_the_world(tmp_path: Path) -> None:
    """Said before anything is made."""
    pins = Path("/sys/fs/bpf/elsewhere")
    words = ("agent", "--manifests", tmp_path, "--pin-root", pins)
    done = sniffer(*words, "--metrics", "0.0.0.0:9750", check=False)
    assert done.returncode == 2
    assert "given 0.0.0.0:9750 without --metrics-tls, allowed 127.0.0.1 or [::1]" in done.stderr
    done = sniffer(*words, "--metrics-tls", tmp_path, check=False)
    assert done.returncode == 2
    assert not pins.exists()
