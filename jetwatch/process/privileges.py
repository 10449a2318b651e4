"""What a process may do beside its uid: the kernel's keys that it holds, its capabilities, and whether it can get more.

The calls are made between fork and exec (`become.py`) on values that were made before. Each raises OSError. They keep
the interpreter's lock, which the child of a forker could not take back. Imports next to nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_AMBIENT_RAISE = 2
_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_MOST_CAPABILITIES = 64
_JOIN_SESSION_KEYRING = 1

_KEYCTL_64 = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280}
_KEYCTL_32 = {"x86_64": 288, "i686": 288, "armv7l": 311, "aarch64": 311, "armv8l": 311}
_KEYCTL = (_KEYCTL_64 if sys.maxsize > 2**32 else _KEYCTL_32).get(os.uname().machine)
"""The number of keyctl(2), for which the C library has no function; None: not known on this machine."""

_NO_KEYRINGS = (errno.ENOSYS, errno.EPERM)
"""A kernel without keys, or a container that has keyctl(2) filtered out: nobody in it can read a key by it either."""

_libc = ctypes.PyDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_libc.syscall.restype = ctypes.c_long
_libc.syscall.argtypes = (ctypes.c_long,) * 6


def _done(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, first: int = 0, second: int = 0) -> int:
    return _done(_libc.prctl(option, first, second, 0, 0))


def leave_session_keyring() -> None:
    """Have a new, empty session keyring in place of the one that was inherited."""
    if _KEYCTL is None:
        return
    try:
        _done(_libc.syscall(_KEYCTL, _JOIN_SESSION_KEYRING, 0, 0, 0, 0))
    except OSError as error:
        if error.errno not in _NO_KEYRINGS:
            raise


def own_session_keyring() -> None:
    """The same as the present user, so that it is this user's own. One whose keys are too many goes without."""
    try:
        leave_session_keyring()
    except OSError:
        return  # it has an empty one that root made


def bound(capabilities: int) -> None:
    """Let neither this process nor what it starts ever get another capability than these."""
    for number in range(_MOST_CAPABILITIES):
        try:
            is_there = _prctl(_PR_CAPBSET_READ, number)
        except OSError:
            return  # the kernel knows no more
        if is_there and not capabilities >> number & 1:
            _prctl(_PR_CAPBSET_DROP, number)


def keep_over_change_of_user() -> None:
    """A process that gives up uid 0 keeps what it is permitted."""
    _prctl(_PR_SET_KEEPCAPS, 1)


def have(capabilities: int, *, inherited: bool) -> None:
    """Have these capabilities and no other. `inherited`: keep them over the exec of an ordinary program, too."""
    low, high = capabilities & 0xFFFFFFFF, capabilities >> 32
    kept_low, kept_high = (low, high) if inherited else (0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    _done(_libc.capset(header, (ctypes.c_uint32 * 6)(low, low, kept_low, high, high, kept_high)))
    _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    for number in range(_MOST_CAPABILITIES if inherited else 0):
        if capabilities >> number & 1:
            _prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number)


def get_no_more() -> None:
    """No exec gives this process or what it starts any right that it has not: no setuid bit, no file's capability."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def permitted() -> int:
    """The capabilities that this process may use, and hand on."""
    header, sets = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _done(_libc.capget(header, sets))
    bits = sets[1] | sets[4] << 32
    for number in range(_MOST_CAPABILITIES):
        if bits >> number & 1 and not _prctl(_PR_CAPBSET_READ, number):
            bits &= ~(1 << number)
    return bits
