"""A directory of modules that somebody else would like to see imported: each writes down that it was, and as whom."""

from __future__ import annotations

import sys
from pathlib import Path

_OF_LIBRARIES = {"click", "cronsim", "dotenv", "jinja2", "msgspec", "rich", "structlog", "yaml", "zstandard"}
_AT_START = {"sitecustomize", "usercustomize"}
_TEXT = """\
import os
os.write(os.open({register!r}, os.O_WRONLY | os.O_APPEND), b"%d {name}\\n" % os.getuid())
raise ImportError("{name} of somebody else")
"""


class HostileModules:
    """One module for each name of the standard library and of the libraries that jetwatch imports."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self._register = directory / "imported"
        self._register.touch()
        for path in (directory, self._register):
            path.chmod(0o777)
        self._program = directory / "venv" / "bin" / "python"
        site = directory / "venv" / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
        site.parent.mkdir(parents=True)
        site.symlink_to(directory)
        (directory / "venv" / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
        for name in sys.stdlib_module_names | _OF_LIBRARIES | _AT_START:
            text = _TEXT.format(register=str(self._register), name=name)
            (directory / f"{name}.py").write_text(text)

    @property
    def environ(self) -> dict[str, str]:
        """What would have Python look there first."""
        start = str(self.directory / "sitecustomize.py")
        return {
            "PYTHONPATH": str(self.directory),
            "PYTHONHOME": str(self.directory),
            "PYTHONSTARTUP": start,
            "PYTHONEXECUTABLE": str(self._program),
            "__PYVENV_LAUNCHER__": str(self._program),
        }

    @property
    def imported(self) -> list[str]:
        """The uid and the name of each import."""
        return self._register.read_text().splitlines()
