"""How much memory a process that looks or fetches may have.

No library for content bounds an answer. So what a server makes of one ends the process that asked, and nothing else.
"""

from __future__ import annotations

import resource

from jetwatch.content_records import Limits

MEMORY_BYTES = 1024**3
"""What a library needs when a server answers without end, and no more."""
ENTRY_BYTES = 1024
"""And what each entry needs that is within its limit."""


def most_bytes(limits: Limits) -> int:
    """The most that a look or a fetch within these limits may have."""
    return MEMORY_BYTES + ENTRY_BYTES * limits.entries


def bound_memory(limits: Limits) -> None:
    """Bound this process, and all that it starts. What is less already stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = most_bytes(limits) if hard == resource.RLIM_INFINITY else min(most_bytes(limits), hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
