"""kernel/bpf.py and kernel/tcx.py against the real kernel, with small stand-in programs."""

import contextlib
import errno
import os
import platform
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sniffer.abi.limits import Direction
from sniffer.errors import KernelError, MachineError
from sniffer.kernel import bpf, tcx
from sniffer.kernel.libbpf import take_messages
from tests.topology import run

SOURCE = Path(__file__).with_name("stand_in.c")
FRAME = bytes(12) + b"\x88\xb5" + bytes(range(50))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("bpf"), SOURCE.read_text())


def compiled(directory: Path, source: str, name: str = "stand_in") -> Path:
    """`source` as an object file."""
    (directory / f"{name}.c").write_text(source)
    target = directory / f"{name}.o"
    include = f"-I/usr/include/{platform.machine()}-linux-gnu"
    run("clang-19", "-O2", "-g", "-target", "bpf", "-mcpu=v2", include, "-c", directory / f"{name}.c", "-o", target)
    return target


@pytest.fixture
def loaded(stand_in: Path) -> Iterator[bpf.Object]:
    with bpf.Object.open(stand_in, autoload={"refused": False}) as opened:
        yield opened


@pytest.fixture
def pins() -> Iterator[Path]:
    directory = Path("/sys/fs/bpf/libbpf-test")
    directory.mkdir()
    yield directory
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_an_object_is_loaded_whole(loaded: bpf.Object, stand_in: Path) -> None:
    assert loaded.programs() == ("count_the_packets_of_it", "second", "refused")
    assert set(loaded.maps()) == {"hash", "array", "per_cpu", "mapped_with_a_long_name"}
    program = loaded.program("count_the_packets_of_it")
    assert program.name == "count_the_packets_of_it"
    assert bpf.program_of(program.fd).name == "count_the_packe"
    listed = run("bpftool", "prog", "show", "id", program.id)
    assert f"tag {program.tag}" in listed
    assert abs(time.clock_gettime_ns(time.CLOCK_BOOTTIME) - program.load_time) < 60e9
    assert loaded.digest == run("sha256sum", stand_in).split()[0]
    with pytest.raises(KeyError):
        loaded.program("third")
    with pytest.raises(KernelError):
        loaded.program("refused")  # not loaded, so it has no fd


def test_what_the_verifier_refuses_carries_the_end_of_its_log(stand_in: Path) -> None:
    with pytest.raises(KernelError) as caught:
        bpf.Object.open(stand_in)
    error = caught.value
    assert error.errno == errno.EACCES
    assert error.call == "bpf_object__load of stand_in.o"
    assert "invalid access to packet" in error.detail
    assert "refused" in error.detail
    assert len(error.detail.splitlines()) <= 20
    assert error.detail.splitlines()[-1] in error.__notes__[0]
    assert not take_messages()


def test_a_file_that_is_no_object(tmp_path: Path) -> None:
    (tmp_path / "x.o").write_bytes(b"no ELF")
    with pytest.raises(KernelError, match=r"bpf_object__open_mem of x\.o: "):
        bpf.Object.open(tmp_path / "x.o")
    with pytest.raises(FileNotFoundError):
        bpf.Object.open(tmp_path / "y.o")


def test_an_object_of_another_digest(stand_in: Path) -> None:
    with pytest.raises(MachineError, match=r"stand_in\.o is not the one .*: SHA-256 [0-9a-f]{64}, not 0{64}; "):
        bpf.Object.open(stand_in, digest="0" * 64)


def test_pinned_maps_are_used_again(stand_in: Path, pins: Path) -> None:
    choice = {"refused": False}
    with bpf.Object.open(stand_in, pins, choice) as first, contextlib.closing(first.map("hash")) as table:
        table.update(number(1), struct.pack("=Q", 40))
    assert {file.name for file in pins.iterdir()} == {"hash", "array", "per_cpu", "mapped_with_a_long_name"}
    with contextlib.closing(bpf.open_pinned(pins / "hash")) as table:
        assert table.name == "hash"
        identity = table.id
    with bpf.Object.open(stand_in, pins, choice) as second, contextlib.closing(second.map("hash")) as table:
        assert table.id == identity
        assert table.lookup(number(1)) == struct.pack("=Q", 40)
        verdict, _, _ = bpf.test_run(second.program("count_the_packets_of_it").fd, FRAME, 1)
        assert verdict == -1


def test_a_pinned_map_of_another_shape_is_refused_and_left(stand_in: Path, pins: Path, tmp_path: Path) -> None:
    bpf.Object.open(stand_in, pins, {"refused": False}).close()
    other = compiled(tmp_path, SOURCE.read_text().replace("max_entries, 40)", "max_entries, 41)"))
    with pytest.raises(KernelError) as caught:
        bpf.Object.open(other, pins, {"refused": False})
    assert caught.value.errno == errno.EINVAL
    assert "parameter mismatch" in caught.value.detail
    with contextlib.closing(bpf.open_pinned(pins / "per_cpu")) as table:
        assert table.max_entries == 40


def test_a_failed_load_leaves_no_pins(stand_in: Path, pins: Path) -> None:
    with pytest.raises(KernelError):
        bpf.Object.open(stand_in, pins)
    assert not list(pins.iterdir())


def test_a_hash(loaded: bpf.Object) -> None:
    with contextlib.closing(loaded.map("hash")) as table:
        assert (table.type, table.key_size, table.value_size, table.max_entries) == (1, 4, 8, 3000)
        assert list(table.items()) == []
        assert list(table.keys()) == []
        assert table.lookup(number(5)) is None
        wanted = {number(n): struct.pack("=Q", n * n) for n in range(3000)}
        for key, value in wanted.items():
            table.update(key, value, bpf.NOEXIST)
        assert dict(table.items()) == wanted
        assert len(list(table.items())) == 3000
        assert set(table.keys()) == set(wanted)
        with pytest.raises(KernelError, match="bpf_map_update_elem: EEXIST"):
            table.update(number(5), bytes(8), bpf.NOEXIST)
        with pytest.raises(KernelError, match="E2BIG"):
            table.update(number(3000), bytes(8))
        assert table.delete(number(5))
        assert not table.delete(number(5))
        assert table.lookup(number(5)) is None
        with pytest.raises(ValueError, match="a key of 8 bytes, not 4"):
            table.lookup(bytes(8))
        with pytest.raises(ValueError, match="a value of 4 bytes, not 8"):
            table.update(number(1), bytes(4))


def test_a_hash_whose_bucket_outgrows_a_batch(loaded: bpf.Object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpf, "_BATCH_BYTES", 1)  # room for one element only
    with contextlib.closing(loaded.map("hash")) as table:
        for n in range(3000):
            table.update(number(n), bytes(8))
        assert len(list(table.items())) == 3000


def test_batches_and_single_look_ups_agree(loaded: bpf.Object, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(loaded.map("array")) as array, contextlib.closing(loaded.map("per_cpu")) as per_cpu:
        cpus = bpf.possible_cpus()
        for table, parts in ((array, 1), (per_cpu, cpus)):
            assert table.length == 16 * parts
            for n in range(table.max_entries):
                table.update(number(n), b"".join(struct.pack("=QII", n, cpu, 0) for cpu in range(parts)))
            by_batch = list(table.items())
            assert [struct.unpack("=I", key)[0] for key, _ in by_batch] == list(range(table.max_entries))
            assert by_batch[-1][1][-16:] == struct.pack("=QII", table.max_entries - 1, parts - 1, 0)
            with monkeypatch.context() as patch:
                patch.setattr(table, "_batches", lambda: iter(()))
                assert list(table.items()) == by_batch


def test_a_program_counts_per_cpu(loaded: bpf.Object) -> None:
    program = loaded.program("count_the_packets_of_it")
    bpf.test_run(program.fd, FRAME, 1, repeat=1000)
    with contextlib.closing(loaded.map("per_cpu")) as table:
        value = table.lookup(number(1)) or b""
    cells = [struct.unpack_from("=QI", value, 16 * cpu) for cpu in range(bpf.possible_cpus())]
    assert sum(packets for packets, _ in cells) == 1000
    assert sum(size for _, size in cells) == 1000 * len(FRAME)


def test_run_answers_verdict_time_and_frame(loaded: bpf.Object) -> None:
    program = loaded.program("count_the_packets_of_it")
    run("ip", "link", "add", "bridge7", "type", "bridge")
    try:
        index = Path("/sys/class/net/bridge7/ifindex").read_text()
        verdict, duration, frame = bpf.test_run(program.fd, FRAME, int(index), mark=99, repeat=10)
    finally:
        run("ip", "link", "delete", "bridge7")
    assert verdict == 99
    assert 0 <= duration < 1_000_000
    assert frame == FRAME
    assert bpf.test_run(program.fd, FRAME, 1)[0] == -1
    with pytest.raises(KernelError, match="bpf_prog_test_run_opts of a frame of 13 bytes: EINVAL"):
        bpf.test_run(program.fd, FRAME[:13], 1)


def test_words_are_what_the_program_reads(loaded: bpf.Object) -> None:
    program = loaded.program("count_the_packets_of_it")
    with (
        contextlib.closing(loaded.map("mapped_with_a_long_name")) as table,
        contextlib.closing(loaded.map("array")) as array,
    ):
        assert table.stride == 16
        view, read_only = table.mmap(True), table.mmap(False)
        assert len(view) == 16000
        bpf.store_word(view, table.stride // 8, 0x0123456789ABCDEF)
        assert bpf.load_word(read_only, 2) == 0x0123456789ABCDEF
        assert table.lookup(number(1)) == struct.pack("=QI", 0x0123456789ABCDEF, 0)
        bpf.test_run(program.fd, FRAME, 1)
        assert (array.lookup(number(1)) or b"")[:8] == struct.pack("=Q", 0x0123456789ABCDEF)
        view[24:28] = b"\x09\x00\x00\x00"
        assert table.lookup(number(1)) == struct.pack("=QI", 0x0123456789ABCDEF, 9)
        with pytest.raises(TypeError):
            bpf.store_word(read_only, 0, 1)
        with pytest.raises(ValueError, match="Buffer size too small"):
            bpf.store_word(view, 2000, 1)
        view.close()
        read_only.close()
    with contextlib.closing(loaded.map("hash")) as table, pytest.raises(KernelError, match="mmap"):
        table.mmap(True)


def test_a_word_is_never_torn(loaded: bpf.Object) -> None:
    with contextlib.closing(loaded.map("mapped_with_a_long_name")) as table:
        view = table.mmap(True)
    child = os.fork()
    if not child:
        while True:
            bpf.store_word(view, 2, 0)
            bpf.store_word(view, 2, 2**64 - 1)
    try:
        end = time.monotonic() + 1
        seen = set()
        while time.monotonic() < end:
            seen.update(bpf.load_word(view, 2) for _ in range(1000))
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert seen == {0, 2**64 - 1}


def test_pins(loaded: bpf.Object, pins: Path) -> None:
    program = loaded.program("second")
    bpf.pin(program.fd, pins / "second")
    with pytest.raises(KernelError, match=f"bpf_obj_pin of {pins}/second: EEXIST"):
        bpf.pin(program.fd, pins / "second")
    fd = bpf.get_pinned(pins / "second")
    assert bpf.program_of(fd).id == program.id
    os.close(fd)
    with pytest.raises(KernelError) as caught:
        bpf.get_pinned(pins / "third")
    assert caught.value.errno == errno.ENOENT
    with contextlib.closing(loaded.map("hash")) as table:
        bpf.pin(table.fd, pins / "hash")
    with contextlib.closing(bpf.open_pinned(pins / "hash", read_only=True)) as table:
        assert list(table.items()) == []
        with pytest.raises(KernelError, match="EPERM"):
            table.update(number(1), bytes(8))


def test_a_program_by_its_id(stand_in: Path) -> None:
    with bpf.Object.open(stand_in, autoload={"refused": False}) as opened:
        program = opened.program("second")
        fd = bpf.program_fd_by_id(program.id)
        assert fd is not None
        assert bpf.program_of(fd).tag == program.tag
        os.close(fd)
    bpf.synchronize_rcu()
    deadline = time.monotonic() + 5
    while (fd := bpf.program_fd_by_id(program.id)) is not None:
        os.close(fd)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_tcx_links_at_the_head(loaded: bpf.Object, stand_in: Path, pins: Path) -> None:
    """Ours ahead of what was there; a pinned link survives its fd, an update keeps its place."""
    assert tcx.has_tcx()
    first, second = loaded.program("count_the_packets_of_it"), loaded.program("second")
    foreign = tcx.attach_tcx(1, Direction.INGRESS, second.fd)
    ours = tcx.attach_tcx(1, Direction.INGRESS, first.fd)
    assert tcx.query_tcx(1, Direction.INGRESS) == (first.id, second.id)
    assert tcx.query_tcx(1, Direction.EGRESS) == ()
    found = tcx.link_of(ours)
    assert (found.type, found.program, found.ifindex, found.direction) == (11, first.id, 1, Direction.INGRESS)
    bpf.pin(ours, pins / "link")
    os.close(ours)
    ours = bpf.get_pinned(pins / "link")
    assert tcx.link_of(ours) == found
    with bpf.Object.open(stand_in, autoload={"refused": False}) as other:
        tcx.link_update(ours, other.program("second").fd)
        assert tcx.query_tcx(1, Direction.INGRESS) == (other.program("second").id, second.id)
    tcx.link_detach(ours)
    tcx.link_detach(ours)
    assert tcx.query_tcx(1, Direction.INGRESS) == (second.id,)
    assert tcx.link_of(ours).ifindex == 0
    with pytest.raises(KernelError, match="bpf_link_update: ENOLINK"):
        tcx.link_update(ours, second.fd)
    os.close(ours)
    os.close(foreign)
    assert tcx.query_tcx(1, Direction.INGRESS) == ()


def test_tcx_of_an_interface_that_goes(loaded: bpf.Object) -> None:
    program = loaded.program("second")
    run("ip", "link", "add", "bridge7", "type", "bridge")
    index = int(Path("/sys/class/net/bridge7/ifindex").read_text())
    link = tcx.attach_tcx(index, Direction.EGRESS, program.fd)
    assert tcx.query_tcx(index, Direction.EGRESS) == (program.id,)
    run("ip", "link", "delete", "bridge7")
    assert tcx.link_of(link).ifindex == 0
    os.close(link)
    with pytest.raises(KernelError) as caught:
        tcx.query_tcx(index, Direction.EGRESS)
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(KernelError, match=f"bpf_link_create of TCX ingress of ifindex {index}: ENODEV"):
        tcx.attach_tcx(index, Direction.INGRESS, program.fd)


def test_a_kernel_without_tcx_is_told_from_one_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attach type that no kernel has stands for TCX on a kernel before 6.6."""
    monkeypatch.setitem(tcx._ATTACH_TYPES, Direction.INGRESS, 4000)
    assert not tcx.has_tcx()


def test_bpffs_is_told_from_other_filesystems(pins: Path, tmp_path: Path) -> None:
    assert bpf.is_bpffs(pins)
    assert not bpf.is_bpffs(tmp_path)
    assert not bpf.is_bpffs(Path("/proc"))
    assert not bpf.is_bpffs(pins / "absent" / "deeper")


def test_the_clock_is_the_one_of_programs_and_rcu_ends() -> None:
    before = bpf.monotonic_ns()
    for _ in range(5):
        bpf.synchronize_rcu()
    assert 0 < bpf.monotonic_ns() - before < 2_000_000_000


def test_nothing_leaks(stand_in: Path, pins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand rounds of everything, the failing calls too, leave no file open."""

    def refuse(*_: object) -> None:
        raise KernelError("bpf_obj_get_info_by_fd", errno.EPERM)

    choice = {"refused": False}
    bpf.Object.open(stand_in, pins, choice).close()
    with bpf.Object.open(stand_in, pins, choice) as opened:
        fd = opened.program("second").fd
        before = open_files()
        for turn in range(1000):
            with contextlib.closing(opened.map("mapped_with_a_long_name")) as table:
                table.mmap(False).close()
            with contextlib.closing(bpf.open_pinned(pins / "hash")) as table:
                list(table.items())
            if turn % 20 == 0:  # each waits for grace periods
                os.close(tcx.attach_tcx(1, Direction.EGRESS, fd))
            os.close(bpf.program_fd_by_id(opened.program("second").id) or -1)
            for failing in (pins / "absent", Path("/")):
                with pytest.raises(KernelError):
                    bpf.open_pinned(failing)
            with pytest.raises(KernelError):
                bpf.test_run(fd, b"", 1)
            with monkeypatch.context() as patch:
                patch.setattr(bpf, "Map", refuse)
                with pytest.raises(KernelError):
                    bpf.open_pinned(pins / "hash")
        assert open_files() == before
        for _ in range(10):
            bpf.Object.open(stand_in, pins, choice).close()
            with pytest.raises(KernelError):
                bpf.Object.open(stand_in, pins)
        assert open_files() == before


@pytest.mark.parametrize("ahead_s", [100_000, -5])
def test_the_clock_of_programs_in_another_time_namespace(ahead_s: int) -> None:
    """Leases by a clock that is ahead would outlive their agent for as long; by one behind they would be over."""
    script = "import time; from sniffer.kernel.bpf import monotonic_ns; print(monotonic_ns(), time.monotonic_ns())"
    line = ["unshare", "--time", "--fork", "--monotonic", ahead_s, sys.executable, "-c", script]
    before_ns = time.monotonic_ns()
    told_ns, own_ns = map(int, run(*line).split())
    assert before_ns < told_ns < time.monotonic_ns()
    assert abs(own_ns - told_ns - ahead_s * 10**9) < 10**9
