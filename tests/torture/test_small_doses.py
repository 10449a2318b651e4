"""Every program of this directory, in a small dose."""

from __future__ import annotations

import os

import pytest
from row import NotHere, Row, new_seed
from rows import rows


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", rows(), ids=lambda row: row.name)
def test_the_promise_holds(row: Row) -> None:
    """The same code as `make torture`; JETWATCH_TEST_SEED repeats what failed."""
    try:
        row.run(row.small, int(os.environ.get("JETWATCH_TEST_SEED", new_seed())))
    except NotHere as error:
        pytest.skip(str(error))
