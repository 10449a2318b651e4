"""Files of this program that are no modules, from wherever it was installed: a directory, or one archive.

`importlib.resources` would do it, too, but loads zipfile, tempfile and shutil: as much as everything else that an agent
does between reading its configuration and its first check.
"""

from __future__ import annotations

import pkgutil


def read(package: str, name: str) -> bytes:
    """The file `name` (with slashes) below a package. Raises OSError."""
    data = pkgutil.get_data(package, name)
    if data is None:
        raise FileNotFoundError(f"{package} was loaded by something that gives no files: {name} cannot be read")
    return data
