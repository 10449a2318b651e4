"""How the commands that print for people say when something was."""

from __future__ import annotations

import pytest

from jetwatch.cli.people import Times, iso
from jetwatch.records import Stamp

NOW = Stamp(wall_us=1_800_000_000_000_000, boot_us=1_000_000, boot_id="this")


@pytest.mark.parametrize(
    ("wall_us", "shown"),
    [
        (1_800_000_000_000_000, "2027-01-15T08:00:00Z"),
        (2**63 - 1, "9999-12-30T00:00:00Z"),
        (-(2**63), "1970-01-01T00:00:00Z"),
    ],
)
def test_a_time_that_no_calendar_has_is_shown_as_the_nearest(wall_us: int, shown: str) -> None:
    """A journal that was damaged may say any number."""
    assert iso(wall_us) == shown
    assert "ago" in Times(NOW, relative=True).moment(Stamp(wall_us=wall_us, boot_us=0, boot_id="other"))
