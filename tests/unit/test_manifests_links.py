"""Links in the manifest directory that lead nowhere, or in a circle."""

from pathlib import Path

from sniffer.manifests import Manifests


def test_links_that_lead_nowhere_end_nothing(tmp_path: Path) -> None:
    (tmp_path / "gone.yaml").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.yaml").symlink_to(tmp_path / "circle.yaml")
    source = Manifests(tmp_path)
    source.poll()
    source.poll()
    (problem,) = source.problems()
    assert problem.file.endswith("circle.yaml")
    assert not source.sources().complete
