"""What a command holds beside its uid: keys of the kernel, capabilities, and whether it can get more of them."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workbench import NOBODY, Ended, Workbench, as_nobody, need, need_root

from jetwatch import capabilities
from jetwatch.errors import CommandNotStarted
from jetwatch.process import privileges
from jetwatch.process.prepare import Start, Surroundings, prepare
from jetwatch.records import Command, Ending

Run = Callable[..., Ended]

AS_NOBODY: dict[str, Any] = {"uid": NOBODY, "gid": NOBODY, "groups": (NOBODY,)}
BIND = capabilities.as_bits(["CAP_NET_BIND_SERVICE"])
SECRET = "jetwatch-test-secret"
_ADD_KEY = {"x86_64": 248, "aarch64": 217, "riscv64": 217}.get(os.uname().machine)
_SESSION_KEYRING = -3
_PR_SET_SECUREBITS = 28
_NO_SETUID_FIXUP = 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


def sets_of(ended: Ended) -> dict[str, int]:
    """The capabilities of a command that printed its status, by the letters of their sets."""
    lines = dict(line.split(":\t", 1) for line in ended.output.decode().splitlines())
    return {name: int(lines[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}


STATUS = ("cat", "/proc/self/status")


def bounded() -> int:
    """What this process, the agent of these tests, can have at most."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("CapBnd:\t", 1)[1].split()[0], 16)


@pytest.fixture
def generous_agent() -> Iterator[None]:
    """An agent that was started with everything for its children to inherit, as by AmbientCapabilities= of a unit."""
    need_root()
    everything = privileges.permitted()
    privileges.have(everything, inherited=True)
    yield
    privileges.have(everything, inherited=False)


@pytest.fixture
def secret() -> Iterator[str]:
    """The name of a key in the session keyring of the agent, as a unit's commands find one there."""
    need_root()
    need(Path("/proc/keys").exists() and _ADD_KEY is not None, "needs a kernel with keys")
    privileges.leave_session_keyring()
    need(add_key(SECRET) > 0, "keys are refused here, as in many containers")
    yield SECRET
    privileges.leave_session_keyring()


def add_key(name: str) -> int:
    """Its number; the negative error where there is none."""
    result = _libc.syscall(_ADD_KEY, b"user", name.encode(), b"hunter2", 7, _SESSION_KEYRING)
    return int(result) if result >= 0 else -ctypes.get_errno()


# -- keys


def test_another_account_finds_no_key_of_the_agents(run: Run, secret: str) -> None:
    """What root's plays leave in the keyring of the service is not for everybody who is started by it."""
    assert run(("grep", secret, "/proc/keys"), **AS_NOBODY).result.exit_code == 1


def test_the_agents_own_account_keeps_its_keyring(run: Run, secret: str) -> None:
    """Keys that were put there for the agent's commands are found."""
    assert run(("grep", secret, "/proc/keys")).result.exit_code == 0
    assert run(("grep", secret, "/proc/keys"), uid=os.getuid()).result.exit_code == 0


def test_another_account_owns_its_keyring(run: Run, secret: str) -> None:
    """It is empty, and its commands may do with it what they like."""
    rings = [line.split() for line in run(("cat", "/proc/keys"), **AS_NOBODY).output.decode().splitlines()]
    assert str(NOBODY) in [fields[5] for fields in rings if fields[8].startswith("_ses")]
    assert secret not in str(rings)


@pytest.fixture
def nobody_has_room_for_keys() -> Iterator[None]:
    """A process of nobody's holds as many keys as the account may have."""
    need_root()
    ready_r, ready_w = os.pipe()
    over_r, over_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(over_w)
            privileges.leave_session_keyring()
            os.setresuid(NOBODY, NOBODY, NOBODY)
            number = 0
            while (error := add_key(f"filler-{number}")) > 0:
                number += 1
            os.write(ready_w, b"%d" % -error)
            os.read(over_r, 1)
        finally:
            os._exit(0)
    os.close(over_r)
    assert int(os.read(ready_r, 16)) == errno.EDQUOT
    yield
    for fd in (over_w, ready_r, ready_w):
        os.close(fd)
    os.waitpid(pid, 0)


@pytest.mark.usefixtures("nobody_has_room_for_keys")
def test_an_account_that_may_have_no_more_keys_finds_none_of_the_agents(run: Run, secret: str) -> None:
    """It filled its own share so that it would be left with the keyring that it inherits."""
    ended = run(("grep", secret, "/proc/keys"), **AS_NOBODY)
    assert (ended.result.ending, ended.result.exit_code) == (Ending.EXITED, 1)


def test_a_kernel_without_keys_is_no_obstacle(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is one that the kernel does not know."""
    need_root()
    monkeypatch.setattr(privileges, "_KEYCTL", 1_000_000)
    assert bench.as_check("id -u", **AS_NOBODY).output == b"%d\n" % NOBODY


# -- capabilities


@pytest.mark.usefixtures("generous_agent")
def test_another_account_inherits_no_capability(run: Run) -> None:
    """Neither to use nor to hand on; what a setuid program gives stays possible."""
    found = sets_of(run(STATUS, **AS_NOBODY))
    assert found == {"Inh": 0, "Prm": 0, "Eff": 0, "Amb": 0, "Bnd": bounded()}


@pytest.mark.usefixtures("generous_agent")
def test_an_agent_that_is_secured_otherwise_hands_on_nothing(run: Run) -> None:
    """With this bit the kernel takes nothing away when the user changes (SecureBits= of a unit)."""
    assert _libc.prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP, 0, 0, 0) == 0
    try:
        found = sets_of(run(STATUS, **AS_NOBODY))
    finally:
        assert _libc.prctl(_PR_SET_SECUREBITS, 0, 0, 0, 0) == 0
    assert found == {"Inh": 0, "Prm": 0, "Eff": 0, "Amb": 0, "Bnd": bounded()}


@pytest.mark.usefixtures("generous_agent")
@pytest.mark.parametrize("bits", [BIND, 0], ids=["one", "none"])
def test_another_account_has_the_capabilities_of_its_list_and_no_other(run: Run, bits: int) -> None:
    """From its first instruction on, and no program that it starts can get another."""
    found = sets_of(run(STATUS, **AS_NOBODY, capabilities=bits))
    assert found == dict.fromkeys(("Inh", "Prm", "Eff", "Bnd", "Amb"), bits)


@pytest.mark.usefixtures("generous_agent")
@pytest.mark.parametrize("bits", [BIND, 0], ids=["one", "none"])
def test_root_has_the_capabilities_of_its_list_and_no_other(run: Run, bits: int) -> None:
    """And nothing for another account that it becomes to inherit."""
    found = sets_of(run(STATUS, capabilities=bits))
    assert found == {"Inh": 0, "Prm": bits, "Eff": bits, "Bnd": bits, "Amb": 0}


@pytest.mark.parametrize("asked", [{}, AS_NOBODY], ids=["own account", "another"])
def test_no_new_privileges_reach_the_kernel(run: Run, asked: dict[str, Any]) -> None:
    """It needs no right of the agent's."""
    if asked:
        need_root()
    assert b"NoNewPrivs:\t1\n" in run(STATUS, no_new_privileges=True, **asked).output
    assert b"NoNewPrivs:\t0\n" in run(STATUS, **asked).output


def prepared(*names: str) -> int | str | None:
    """The capabilities of a command that asks for these; else why it cannot be started."""
    command = Command(words=("true",), capabilities=names)
    start = Start(step_id="x", variables={}, extra_env={}, secrets={}, outputs_path=None)
    try:
        return prepare(command, start, Surroundings(environ={}, umask=0o022)).capabilities
    except CommandNotStarted as error:
        return f"{error.code}: {error}"


def test_an_agent_asks_only_for_what_it_can_hand_on() -> None:
    """Root has it; an agent without says what is missing, and starts nothing with less than was asked for."""
    need_root()
    assert prepared("CAP_NET_BIND_SERVICE", "CAP_KILL") == BIND | capabilities.as_bits(["CAP_KILL"])
    said = as_nobody(lambda: prepared("CAP_NET_BIND_SERVICE"))
    assert said.startswith("bad_capabilities: ")
    assert f"runs as uid {NOBODY}, has no CAP_SETPCAP, CAP_NET_BIND_SERVICE itself" in said


def test_names_and_bits_are_the_kernels() -> None:
    """The last one that this kernel knows has its number; each name stands once."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert last >= capabilities.NAMES.index("CAP_CHECKPOINT_RESTORE") == 40
    assert len(set(capabilities.NAMES)) == len(capabilities.NAMES)
    assert capabilities.as_names(capabilities.as_bits(capabilities.NAMES)) == capabilities.NAMES
