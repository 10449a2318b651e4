"""The names of Linux capabilities, as capabilities(7) has them, and the set of bits that the kernel takes."""

from __future__ import annotations

from collections.abc import Iterable

# In the kernel's order: the first is bit 0.
# fmt: off
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
    "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
    "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)
# fmt: on

SETPCAP = 1 << NAMES.index("CAP_SETPCAP")
"""What it takes to limit what another process can ever have."""


def as_bits(names: Iterable[str]) -> int:
    """The set of these capabilities."""
    bits = 0
    for name in names:
        bits |= 1 << NAMES.index(name)
    return bits


def as_names(bits: int) -> tuple[str, ...]:
    """The capabilities of this set, as far as they have a name here."""
    return tuple(name for number, name in enumerate(NAMES) if bits >> number & 1)
