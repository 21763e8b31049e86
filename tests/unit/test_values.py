"""The table of the chart's values: it is current, and nothing can be left out of it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/sniffer"


def values(chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "scripts/values", chart], capture_output=True, text=True)


def test_the_table_is_current() -> None:
    done = values()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (ROOT / "docs/values.md").read_text(), "run `scripts/values >docs/values.md`"


@pytest.mark.parametrize(
    ("file", "former", "latter", "words"),
    [
        ("values.yaml", "\nlease: 60\n", "\nlease: 60\n\nleese: 60\n", "leese: not in values.schema.json"),
        ("values.yaml", "  # Pods of it; one leads", "  # Pods of it;\n\n", "controller.replicas: no comment above it"),
        ("values.yaml", "\nlease: 60\n", "\n", "lease: not in values.yaml"),
        ("values.schema.json", '"lease": {', '"leese": {', "lease: not in values.schema.json"),
    ],
)
def test_no_value_is_left_out(tmp_path: Path, file: str, former: str, latter: str, words: str) -> None:
    for name in ("values.yaml", "values.schema.json"):
        text = (CHART / name).read_text()
        if name == file:
            assert former in text
            text = text.replace(former, latter)
        (tmp_path / name).write_text(text)
    done = values(tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
