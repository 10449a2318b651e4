"""Configurations broken on purpose: a good one, and what can happen to a file between an editor and a reload."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

GOOD = """\
max_runs: 3
log: {format: json, fold: 1h}
defaults:
  check_interval: 3600
  splay: 10
  env: {LANG: C.UTF-8, "password": 'swordfish "x"'}
  timeouts: {check: 30, play: 2h, grace: 5}
  retry: {initial: 10s, factor: 2, max: 1h, max_attempts: 5}
watches:
  red:   # a comment, ünïcode
    check_command: "false"
    jet_command: jetp local --playbook {{ download_path }}/pb.yml
    on_fail: {run: ["/bin/echo", "{{ outcome }}"], after: 3, when: first}
    windows:
      - {days: mon-fri, from: "22:00", to: "06:00"}
    timezone: Europe/Berlin
  green:
    content: {url: "s3://bucket/prefix/", marker: done, region: eu-central-1}
    jet_command:
      shell: |
        echo one | tr a-z A-Z
        echo two
    retain: {runs: 7}
    reapply: 1d
  blue:
    schedule: "*/5 4-6 * * 1"
    jet_command: ["true", '{{ watch }}']
    on_done: "echo {{ play_uuid }}"
"""

_WORDS = (
    *("{{", "}}", "{%", "{#", "&a ", "*a", "<<: ", "? ", "- ", ": "),
    *("!!python/object/apply:os.system ['x']", "!!binary "),
    *("|", ">", "'", '"', "[", "]", "{", "}", "#", "%YAML 9.9\n", "---\n", "...\n", "@", "`", "\t", "~", "null", "\\"),
    *("1e999", "-1", "9" * 400, "0x", "nan", ".inf", "1_000", "99999999999999999999d", "0.0000000001", "१२", "²", "٣"),
    *("\u2028", "\u202e", "\ufeff", "\0", "\x1b[2J", "\x85", "\ud7ff", "\U0010ffff", "\r", "é" * 50, "A" * 5000),
    *("{{ 9**9**9 }}", "{{ 'a' * 10**10 }}", "{{ ().__class__ }}", "{{ " * 50, "{{ " + "(" * 500, "{{ x.y.z }}"),
    *("0 0 30 2 *", "*/0 * * * *", "24:00", "mon-", "Mars/Phobos", "../../etc/passwd", "s3://", "git+https://", "http://[::1"),
)  # fmt: skip

Mutate = Callable[[random.Random, bytes], bytes]


def cut(dealt: random.Random, good: bytes) -> bytes:
    """The disk was full, the copy not finished."""
    return good[: dealt.randrange(len(good))]


def flip(dealt: random.Random, good: bytes) -> bytes:
    """Some bytes are others."""
    content = bytearray(good)
    for _ in range(dealt.choice((1, 1, 2, 20))):
        content[dealt.randrange(len(content))] = dealt.randrange(256)
    return bytes(content)


def insert(dealt: random.Random, good: bytes) -> bytes:
    """Words that mean something to YAML, to templates or to a terminal, anywhere."""
    place = dealt.randrange(len(good))
    return good[:place] + dealt.choice(_WORDS).encode() + good[place:]


def replace_value(dealt: random.Random, good: bytes) -> bytes:
    """A value that its key does not expect."""
    lines = good.splitlines(keepends=True)
    numbers = [number for number, line in enumerate(lines) if b": " in line]
    number = dealt.choice(numbers)
    key = lines[number].split(b": ")[0]
    lines[number] = key + b": " + dealt.choice(_WORDS).encode() + b"\n"
    return b"".join(lines)


def lines(dealt: random.Random, good: bytes) -> bytes:
    """A line is gone, stands twice, elsewhere, or deeper."""
    every = good.splitlines(keepends=True)
    number = dealt.randrange(len(every))
    match dealt.randrange(4):
        case 0:
            del every[number]
        case 1:
            every.insert(number, every[number])
        case 2:
            every.insert(dealt.randrange(len(every)), every.pop(number))
        case _:
            every[number] = dealt.choice((b" ", b"\t", b"   ")) + every[number]
    return b"".join(every)


def misspell(dealt: random.Random, good: bytes) -> bytes:
    """Two letters of a key have changed places, or one is wrong."""
    every = good.splitlines(keepends=True)
    number = dealt.choice([number for number, line in enumerate(every) if b":" in line])
    end = every[number].index(b":")
    word = bytearray(every[number])
    place = dealt.randrange(max(1, end - 1))
    if dealt.random() < 0.5:
        word[place], word[place + 1] = word[place + 1], word[place]
    else:
        word[place] = dealt.choice(b"abcxyz_-XYZ019")
    every[number] = bytes(word)
    return b"".join(every)


def bomb(dealt: random.Random, _: bytes) -> bytes:
    """Small files that mean much: aliases of aliases, deep nesting, thousands of keys, numbers without end."""
    size = dealt.randrange(40, 20_000)
    levels = dealt.randrange(10, 30)
    aliases = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, levels))
    ring = "\n".join(f"a{n}: &a{n} *a{(n + 1) % levels}" for n in range(levels))
    return dealt.choice(
        (
            "a0: &a0 x\n" + aliases,
            "a: &a [*a, *a]\n",
            ring,
            "a: " + "[" * size,
            "a: " + "{a: " * size,
            "a: " + "[" * size + "]" * size,
            "".join(" " * n + "a:\n" for n in range(min(size, 1000))),
            "- " * size,
            "".join(f"k{n}: v\n" for n in range(size)),
            "watches:\n" + "".join(f"  w{n}: {{}}\n" for n in range(size)),
            "jet_command: " + "9" * size,
            "check_interval: " + "9" * size + "d\n",
            "max_runs: " + "9" * size + "\n",
            "jet_command: '" + "{{ a }} " * size + "'\n",
            "jet_command: '{{ " + "(" * size + "'\n",
            "jet_command: '{{ " + "(" * (size // 20) + "1" + ")" * (size // 20) + " }}'\ncheck_command: 'true'\nx: 1\n",
            "jet_command: '{{ " + "not " * size + "1 }}'\ncheck_command: 'true'\nx: 1\n",
            "schedule: '" + "*," * size + "* * * * *'\njet_command: 'true'\nx: 1\n",
            "&a " * size,
            "!a " * size,
            "# " + "x" * 1024 * 1024 * 2,
            "x" * size,
            "? " * size,
        )
    ).encode()


def rubbish(dealt: random.Random, _: bytes) -> bytes:
    """Not a configuration at all: chance, an empty file, other encodings, a binary."""
    return dealt.choice(
        (
            dealt.randbytes(dealt.randrange(1, 3000)),
            b"",
            b"\n\n\n",
            b"\xef\xbb\xbf",
            b"\0" * 512,
            GOOD.encode("utf-16"),
            GOOD.encode("utf-32"),
            GOOD.encode("latin-1"),
            b"\x7fELF" + dealt.randbytes(200),
            b"\x1f\x8b" + dealt.randbytes(200),
            b"<html><body>502 Bad Gateway</body></html>\n",
            b'{"jet_command": ',
            b"<<<<<<< HEAD\njet_command: a\n=======\njet_command: b\n>>>>>>> other\n",
        )
    )


MUTATIONS: tuple[Mutate, ...] = (cut, flip, insert, replace_value, lines, misspell, bomb, rubbish)


def every_cut(good: bytes) -> list[bytes]:
    """The good file, ended after each of its bytes."""
    return [good[:length] for length in range(len(good))]


def put_no_file(dealt: random.Random, path: Path) -> str:
    """Something that is no file stands there; which."""
    remove(path)
    kind = dealt.choice(("nothing", "directory", "fifo", "device", "dangling link", "link to itself", "socket's name"))
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "dangling link":
            path.symlink_to("/nowhere/at/all")
        case "link to itself":
            path.symlink_to(path)
        case "socket's name":
            path.symlink_to("/proc/self/ns/pid")
    return kind


def remove(path: Path) -> None:
    """Whatever stands there."""
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
