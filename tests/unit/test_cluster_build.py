"""What a cluster of the tests is built of: where it lies, who may override it, and what is said where it is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "tests/cluster/build"
PROGRAMS = (
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"),
    *("helm3", "helm4", "kubeconform"),
)


def build(**environment: object) -> "subprocess.CompletedProcess[str]":
    others = {name: value for name, value in os.environ.items() if not name.startswith(("SNIFFER_", "XDG_"))}
    return subprocess.run(
        [BUILD], capture_output=True, text=True, env=others | {name: str(value) for name, value in environment.items()}
    )


def programs(directory: Path, *names: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).touch(0o755)
    return directory


def test_a_directory_that_has_them_overrides_the_build(tmp_path: Path) -> None:
    given = programs(tmp_path / "given", *PROGRAMS)
    done = build(SNIFFER_KUBERNETES=given, SNIFFER_CACHE=tmp_path / "cache")
    assert (done.returncode, done.stdout.strip()) == (0, str(given))
    assert not (tmp_path / "cache").exists()


def test_a_directory_that_lacks_some_is_refused_with_their_names(tmp_path: Path) -> None:
    done = build(SNIFFER_KUBERNETES=programs(tmp_path, *PROGRAMS[2:]))
    assert done.returncode == 3
    assert done.stderr.strip() == f"sniffer: SNIFFER_KUBERNETES={tmp_path} lacks: etcd kube-apiserver"


@pytest.mark.parametrize("name", ["SNIFFER_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_they_are_cached_outside_the_checkout_by_their_versions(tmp_path: Path, name: str) -> None:
    """In a run without network nothing is built, and it is said what is missing; what is there is used."""
    environment = {"SNIFFER_ISOLATED": 1, "HOME": tmp_path / "nobody"} | {name: tmp_path}
    done = build(**environment)
    assert done.returncode == 3
    assert "run tests/cluster/build kubernetes first" in done.stderr
    (cache,) = tmp_path.glob("**/kubernetes-*")
    assert not cache.is_relative_to(ROOT)
    programs(cache, *PROGRAMS)
    assert build(**environment).stdout.strip() == str(cache)


def test_without_them_tests_fail_and_say_why(tmp_path: Path) -> None:
    """They are not skipped."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/cluster/test_cluster.py"]
    environment = os.environ | {"SNIFFER_KUBERNETES": str(tmp_path), "SNIFFER_ISOLATED": "1"}
    done = subprocess.run([*words, "-k", "ready"], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert f"SNIFFER_KUBERNETES={tmp_path} lacks: etcd" in done.stdout or "missing packages" in done.stdout
    assert "1 error" in done.stdout
    assert "skipped" not in done.stdout
