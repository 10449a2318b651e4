"""`python tests/torture [R1 R4 …]`: every program with its full dose, or those that are named, one after the other.

Goes on after one that failed; leaves with 1 if any did.
"""

from __future__ import annotations

import sys
import traceback

import paths  # noqa: F401
from row import NotHere, new_seed
from rows import rows


def main() -> int:
    """Run them; print all figures at the end."""
    wanted = {name.upper() for name in sys.argv[1:]}
    figures, failed = [], False
    for row in rows():
        if wanted and row.name not in wanted:
            continue
        seed = new_seed()
        try:
            figures.append(row.run(row.count, seed))
        except NotHere as error:
            figures.append(f"{row.name}: not tried here: {error}")
        except Exception:  # noqa: BLE001 - the others are to be heard all the same
            traceback.print_exc()
            figures.append(f"{row.name}: BROKEN with --seed {seed}; see above")
            failed = True
    print("\n" + "\n".join(figures))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
