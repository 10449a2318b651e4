"""Frames on disk: head and tail kept, the middle counted, read by offset beside the one who writes them."""

from __future__ import annotations

import os
import subprocess
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workbench import fill, tmpfs

from jetwatch.process import output
from jetwatch.process.output import HEADER, NAMES, Writer


def written(directory: Path, chunks: list[bytes], keep_bytes: int) -> Writer:
    """The chunks, each at the boot time of its index."""
    writer = Writer(str(directory), keep_bytes)
    for index, chunk in enumerate(chunks):
        writer.write(chunk, index)
    return writer


def kept(directory: Path, offset: int = 0) -> list[tuple[int, bytes]]:
    """Offset and bytes of each frame that can be read."""
    return [(start, data) for start, _, data in output.read(str(directory), offset)]


def on_disk(directory: Path) -> int:
    """Bytes in all files of the output."""
    return sum(path.stat().st_size for path in directory.glob("output*"))


def test_what_fits_is_kept_whole(tmp_path: Path) -> None:
    """Each chunk is a frame with its offset and its time."""
    writer = written(tmp_path, [b"one", b"two", b"three"], 4096)
    assert list(output.read(str(tmp_path))) == [(0, 0, b"one"), (3, 1, b"two"), (6, 2, b"three")]
    assert (writer.total_bytes, writer.kept_bytes) == (11, 11)


@pytest.mark.parametrize("keep_bytes", [4096, 4097, 4098, 4099, 100_000])
def test_an_output_as_long_as_the_bound_loses_nothing(tmp_path: Path, keep_bytes: int) -> None:
    """The bound is the first byte that may be lost, not the last one that is kept."""
    data = os.urandom(keep_bytes)
    writer = written(tmp_path, [data[start : start + 1000] for start in range(0, keep_bytes, 1000)], keep_bytes)
    assert b"".join(part for _, part in kept(tmp_path)) == data
    assert writer.kept_bytes == keep_bytes


def test_of_a_longer_one_head_and_tail_are_kept_and_the_middle_is_counted(tmp_path: Path) -> None:
    """Half of the bound is the beginning; at least a quarter is the end; the gap is in the offsets."""
    data = os.urandom(50_000)
    writer = written(tmp_path, [data[start : start + 100] for start in range(0, 50_000, 100)], 8192)
    frames = kept(tmp_path)
    assert all(data[start : start + len(part)] == part for start, part in frames)
    assert b"".join(part for start, part in frames if start < 4096) == data[:4096]
    tail = b"".join(part for start, part in frames if start >= 4096)
    assert data.endswith(tail)
    assert 2048 <= len(tail) <= 4096
    assert (writer.total_bytes, writer.kept_bytes) == (50_000, 4096 + len(tail))


def test_single_bytes_cannot_fill_the_disk_with_headers(tmp_path: Path) -> None:
    """A frame of one byte costs as much of the bound as its header does."""
    writer = written(tmp_path, [b"x"] * 20_000, 4096)
    assert writer.total_bytes == 20_000
    assert on_disk(tmp_path) <= 2 * 4096 + HEADER.size


@pytest.mark.parametrize("keep_bytes", [0, 1, 3])
def test_a_bound_of_next_to_nothing_is_kept(tmp_path: Path, keep_bytes: int) -> None:
    """It counts, and comes to an end."""
    writer = written(tmp_path, [b"hello", b"world"], keep_bytes)
    assert (writer.total_bytes, writer.kept_bytes) == (10, keep_bytes)
    assert b"".join(part for _, part in kept(tmp_path)) == b"hello"[:keep_bytes]


def test_it_is_followed_by_offset(tmp_path: Path) -> None:
    """Who asks from where the last answer ended gets every byte once, half frames included."""
    writer = Writer(str(tmp_path), 1 << 20)
    heard = b""
    for index in range(200):
        writer.write(b"%d;" % index, index)
        for start, part in kept(tmp_path, len(heard)):
            assert start == len(heard)
            heard += part
    assert heard == b"".join(b"%d;" % index for index in range(200))
    assert kept(tmp_path, 1)[0] == (1, b";")


def test_a_half_written_frame_is_not_shown(tmp_path: Path) -> None:
    """Whichever of its bytes a killed writer came to, those before it are all there."""
    written(tmp_path, [b"first", b"second"], 4096)
    whole = (tmp_path / "output").read_bytes()
    for length in range(HEADER.size + 5, len(whole)):
        (tmp_path / "output").write_bytes(whole[:length])
        assert kept(tmp_path) == [(0, b"first")]


def test_what_is_no_frame_ends_the_reading(tmp_path: Path) -> None:
    """Bytes that cannot be a header ask for no gigabyte of memory."""
    written(tmp_path, [b"first"], 4096)
    with (tmp_path / "output").open("ab") as target:
        target.write(HEADER.pack(5, 0, 2**32 - 1, 0) + b"x" * 100)
    tracemalloc.start()
    assert kept(tmp_path) == [(0, b"first")]
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_directory_without_output_is_empty(tmp_path: Path) -> None:
    """Nothing was written yet: no error."""
    assert kept(tmp_path) == []


def test_a_reader_beside_a_writer_sees_only_what_was_written(tmp_path: Path) -> None:
    """While the files are emptied under it, thousands of times: right bytes at right offsets, or none."""
    size = 3_000_000
    program = (
        "import sys; from jetwatch.process.output import Writer\n"
        "writer = Writer(sys.argv[1], 16384)\n"
        f"for start in range(0, {size}, 500):\n"
        "    writer.write(b''.join(b'%08x' % n for n in range(start, start + 504, 8))[:500], start)\n"
    )
    child = subprocess.Popen([os.sys.executable, "-c", program, str(tmp_path)])
    seen = 0
    while child.poll() is None:
        position = 0
        for start, boot_us, data in output.read(str(tmp_path)):
            assert start >= position
            position = start + len(data)
            whole = b"".join(b"%08x" % n for n in range(boot_us, boot_us + 504, 8))[:500]
            assert data == whole[start - boot_us : start - boot_us + len(data)]
            seen += 1
    assert child.returncode == 0
    assert seen > 100


def test_a_full_disk_costs_bytes_and_nothing_else(tmp_path: Path) -> None:
    """What finds no room is counted; what comes when there is room again is kept, at its offset."""
    with tmpfs(tmp_path, "size=64k"):
        writer = Writer(str(tmp_path), 1 << 20)
        writer.write(b"a" * 10_000, 1)
        fill(tmp_path)
        writer.write(b"b" * 30_000, 2)
        (tmp_path / "filler").unlink()
        writer.write(b"c" * 10_000, 3)
        assert [(start, part[:1], len(part)) for start, part in kept(tmp_path)] == [
            (0, b"a", 10_000),
            (40_000, b"c", 10_000),
        ]
        assert (writer.total_bytes, writer.kept_bytes) == (50_000, 20_000)
        writer.close()


def test_no_room_for_another_file_costs_bytes_and_nothing_else(tmp_path: Path) -> None:
    """The head stays, the rest is counted, until there can be a second file."""
    with tmpfs(tmp_path, "nr_inodes=2"):
        writer = Writer(str(tmp_path), 4096)
        writer.write(b"a" * 10_000, 1)
        assert (writer.total_bytes, writer.kept_bytes) == (10_000, 2048)
        subprocess.run(["mount", "-o", "remount,nr_inodes=100", tmp_path], check=True)
        writer.write(b"b" * 100, 2)
        assert (writer.total_bytes, writer.kept_bytes) == (10_100, 2148)
        assert kept(tmp_path)[-1] == (10_000, b"b" * 100)
        writer.close()


def test_the_files_are_private(tmp_path: Path) -> None:
    """Output may hold anything."""
    written(tmp_path, [b"x" * 10_000], 4096)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == dict.fromkeys(NAMES, 0o600)


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=60),
    st.integers(0, 3000),
    st.integers(0, 5000),
)
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes], keep_bytes: int, offset: int
) -> None:
    """Whatever the chunks and the bound: right bytes at right offsets, everything counted, the disk bounded."""
    directory = tmp_path_factory.mktemp("output")
    writer = written(directory, chunks, keep_bytes)
    writer.close()
    stream = b"".join(chunks)
    frames = kept(directory)
    assert all(stream[start : start + len(part)] == part for start, part in frames)
    assert all(left[0] + len(left[1]) <= right[0] for left, right in pairwise(frames))
    assert writer.total_bytes == len(stream)
    assert writer.kept_bytes == sum(len(part) for _, part in frames) <= keep_bytes
    assert on_disk(directory) <= 2 * keep_bytes + 3 * HEADER.size
    from_there = b"".join(part for _, part in kept(directory, offset))
    assert from_there == b"".join(part[max(0, offset - start) :] for start, part in frames)


@pytest.mark.parametrize("name", NAMES)
def test_a_fifo_in_the_place_of_output_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """It is as if there were none: whoever opened it would wait until somebody writes."""
    os.mkfifo(tmp_path / name)
    assert list(output.read(str(tmp_path))) == []
