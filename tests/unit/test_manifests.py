"""A directory of manifests: what it says now and, of what cannot be read, what it said last."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from sniffer.errors import InputError
from sniffer.manifests import Manifests
from sniffer.model.identity import Identity
from sniffer.plan.compile import Sources
from tests.agent import Document, mirror, target


def identity(name: str, kind: str = "ClusterTrafficMirror") -> Identity:
    return Identity(kind, None, name)


def text(*documents: Document) -> str:
    return yaml.safe_dump_all(documents, sort_keys=False)


def look(manifests: Manifests) -> Sources:
    """What is read and has stood still since."""
    manifests.poll()
    manifests.poll()
    return manifests.sources()


def names(sources: Sources) -> list[str]:
    return [one.metadata.name for one in (*sources.targets, *sources.mirrors)]


def filters(sources: Sources) -> dict[str, str | None]:
    return {one.metadata.name: one.spec.filter for one in sources.mirrors}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mirrors.yaml"
    path.write_text(text(target(), mirror("a", filter="tcp"), mirror("b", filter="udp")))
    return path


@pytest.fixture
def manifests(file: Path) -> Manifests:
    made = Manifests(file.parent)
    assert made.poll()
    return made


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--manifests: given .*nowhere, allowed a directory"):
        Manifests(tmp_path / "nowhere")


def test_the_first_look_reads_everything(manifests: Manifests) -> None:
    sources = manifests.sources()
    assert names(sources) == ["ana", "a", "b"]
    assert sources.complete
    assert not sources.stale
    assert not sources.refused
    assert sources.known == {identity("ana", "MirrorTarget"), identity("a"), identity("b")}


def test_nothing_changes_when_nothing_changed(manifests: Manifests) -> None:
    assert not manifests.poll()


def test_only_visible_yaml_files_are_read(manifests: Manifests, tmp_path: Path) -> None:
    for name in (".hidden.yaml", "notes.txt", "a.yaml~", "b.yaml.swp"):
        (tmp_path / name).write_text(text(mirror("other")))
    (tmp_path / "second.yml").write_text(text(mirror("second")))
    assert names(look(manifests)) == ["ana", "a", "b", "second"]


def test_an_edit_counts_once_the_file_stands_still(manifests: Manifests, file: Path) -> None:
    """A file that is being written is empty first: that is no order to stop."""
    file.write_text("")
    assert not manifests.poll()
    assert filters(manifests.sources()) == {"a": "tcp", "b": "udp"}
    file.write_text(text(target(), mirror("a", filter="icmp")))
    assert not manifests.poll()
    assert manifests.poll()
    assert filters(manifests.sources()) == {"a": "icmp"}


BROKEN = {
    "half written": "apiVersion: sniffer.dev/v1alpha1\nkind: ClusterTrafficMirror\nmetadata: {name: a",
    "no yaml": "}{\n",
    "not utf-8": b"\xff\xfe\xfa",
    "a list": "- 1\n- 2\n",
    "a tab": "metadata:\n\tname: a\n",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_keeps_what_was_said_last(manifests: Manifests, file: Path, broken: str | bytes) -> None:
    file.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    sources = look(manifests)
    assert filters(sources) == {"a": "tcp", "b": "udp"}
    assert sources.stale.keys() == {identity("a"), identity("b"), identity("ana", "MirrorTarget")}
    assert all(str(file) in message for message in sources.stale.values())
    assert sources.complete, "what the file said before is known"
    file.write_text(text(target(), mirror("b", filter="udp")))
    sources = look(manifests)
    assert filters(sources) == {"b": "udp"}
    assert not sources.stale


def test_one_bad_resource_keeps_its_last_version_and_stops_no_other(manifests: Manifests, file: Path) -> None:
    """I3, I16: the good half of an edit is in force."""
    file.write_text(text(target(), mirror("a", filter="tcp and and"), mirror("b", filter="port 53"), mirror("c")))
    sources = look(manifests)
    assert filters(sources) == {"a": "tcp", "b": "port 53", "c": None}
    assert sources.stale.keys() == {identity("a")}
    assert "spec.filter" in sources.stale[identity("a")]
    assert "tcp and and" in sources.stale[identity("a")]


@pytest.mark.parametrize("wrong", [{"snapLength": 13}, {"sampling": 2}, {"direction": "egress"}, {"filter": "port 0x"}])
def test_a_bad_resource_without_a_former_version_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (tmp_path / "a.yaml").write_text(text(target(), mirror("a", **wrong), mirror("b")))
    sources = look(Manifests(tmp_path))
    assert names(sources) == ["ana", "b"]
    assert sources.refused.keys() == {identity("a")}
    assert f"{tmp_path}/a.yaml:21: spec" in sources.refused[identity("a")]
    assert next(iter(wrong)) in sources.refused[identity("a")]
    assert not sources.complete, "what it said to a former agent is not known"


def test_a_refused_resource_that_another_file_has_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "1.yaml").write_text(text(mirror("a", snapLength=13)))
    (tmp_path / "2.yaml").write_text(text(mirror("a", filter="tcp")))
    sources = look(Manifests(tmp_path))
    assert filters(sources) == {"a": "tcp"}
    assert not sources.refused


def test_broken_from_the_start_nobody_knows_what_it_said(tmp_path: Path) -> None:
    """Nothing is deleted before the first complete list from the source."""
    (tmp_path / "good.yaml").write_text(text(target(), mirror("a")))
    broken = tmp_path / "broken.yaml"
    broken.write_text("}{")
    manifests = Manifests(tmp_path)
    sources = look(manifests)
    assert names(sources) == ["ana", "a"]
    assert not sources.complete
    broken.write_text("}{ still")
    assert not look(manifests).complete
    broken.write_text(text(mirror("b")))
    sources = look(manifests)
    assert sources.complete
    assert sorted(names(sources)) == ["a", "ana", "b"]


def test_a_broken_file_that_is_removed_is_no_riddle_any_more(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("}{")
    manifests = Manifests(tmp_path)
    assert not look(manifests).complete
    (tmp_path / "broken.yaml").unlink()
    assert look(manifests).complete


def test_a_new_file_that_is_broken_leaves_the_source_incomplete(manifests: Manifests, tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("}{")
    sources = look(manifests)
    assert not sources.complete
    assert filters(sources) == {"a": "tcp", "b": "udp"}
    assert not sources.stale


def test_a_deleted_file_is_an_order(manifests: Manifests, file: Path) -> None:
    file.unlink()
    assert not manifests.poll(), "an editor may be about to write it anew"
    assert manifests.poll()
    sources = manifests.sources()
    assert names(sources) == []
    assert sources.complete
    assert identity("a") in sources.known, "it was there and was removed: nothing holds it"


def test_a_file_that_is_moved_away_and_written_anew_never_goes(manifests: Manifests, file: Path) -> None:
    file.rename(file.with_suffix(".yaml~"))
    assert not manifests.poll()
    assert filters(manifests.sources()) == {"a": "tcp", "b": "udp"}
    file.write_text(text(target(), mirror("a", filter="icmp")))
    assert filters(look(manifests)) == {"a": "icmp"}


def test_a_renamed_file_says_the_same(manifests: Manifests, file: Path) -> None:
    file.rename(file.with_name("other.yaml"))
    sources = look(manifests)
    assert filters(sources) == {"a": "tcp", "b": "udp"}
    assert not sources.stale


def test_what_the_directory_said_holds_while_it_cannot_be_read(manifests: Manifests, file: Path) -> None:
    away = file.parent.with_name("away")
    file.parent.rename(away)
    assert manifests.poll()
    sources = manifests.sources()
    assert filters(sources) == {"a": "tcp", "b": "udp"}
    assert set(sources.stale.values()) == {f"{file.parent} cannot be read"}
    assert not manifests.poll()
    away.rename(file.parent)
    assert manifests.poll()
    assert not manifests.sources().stale


def test_a_file_that_cannot_be_opened_keeps_what_it_said(manifests: Manifests, file: Path) -> None:
    """Root may read anything, so a directory stands in its place."""
    file.unlink()
    file.mkdir()
    sources = look(manifests)
    assert filters(sources) == {"a": "tcp", "b": "udp"}
    assert sources.stale.keys() >= {identity("a"), identity("b")}
    assert sources.complete


def test_of_two_with_one_name_the_first_file_holds(tmp_path: Path) -> None:
    (tmp_path / "2.yaml").write_text(text(mirror("a", filter="udp")))
    (tmp_path / "1.yaml").write_text(text(mirror("a", filter="tcp"), mirror("a", filter="icmp")))
    manifests = Manifests(tmp_path)
    assert filters(look(manifests)) == {"a": "tcp"}
    found = sorted(str(problem) for problem in manifests.problems())
    assert len(found) == 2
    assert all("metadata.name" in line and "each ClusterTrafficMirror once" in line for line in found)
    assert {line.split(":")[0] for line in found} == {str(tmp_path / "1.yaml"), str(tmp_path / "2.yaml")}
    (tmp_path / "1.yaml").unlink()
    assert filters(look(manifests)) == {"a": "udp"}
    assert not manifests.problems()


def test_a_problem_is_said_once(manifests: Manifests, file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("}{")
    look(manifests)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{file}:1: document: given")
    os.utime(file, (1, 1))
    look(manifests)
    assert len(caplog.messages) == 1
    file.write_text(text(target()))
    look(manifests)
    file.write_text("}{")
    look(manifests)
    assert len(caplog.messages) == 2


def test_a_file_that_is_broken_somewhere_removes_nothing(manifests: Manifests, file: Path) -> None:
    """A name may be cut off like everything else."""
    file.write_text(text(target(), mirror("a", interfaces=[]), mirror("c")))
    sources = look(manifests)
    assert filters(sources) == {"a": "tcp", "b": "udp", "c": None}
    assert sources.stale.keys() == {identity("a"), identity("b")}
    file.write_text(text(target(), mirror("c")))
    assert filters(look(manifests)) == {"c": None}


def test_what_is_no_file_and_what_is_endless(
    manifests: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that nobody writes to, a socket, a device without end, a terabyte of nothing: each is said, none is waited
    for or read, and the rest goes on."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    (tmp_path / "directory.yaml").mkdir()
    with (tmp_path / "sparse.yaml").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.yaml")
        assert names(look(manifests)) == ["ana", "a", "b"]
    said = {Path(problem.file).name: problem.given for problem in manifests.problems()}
    assert said == {
        "pipe.yaml": "a pipe, a socket or a device",
        "socket.yaml": "a pipe, a socket or a device",
        "zero.yaml": "a pipe, a socket or a device",
        "directory.yaml": "Is a directory",
        "sparse.yaml": "1048577 bytes",
    }
