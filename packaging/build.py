"""Builds what is handed out: `make package` → dist/ with a wheel, a deb, an rpm and jetp.pyz.

All but the wheel hold the agent with its libraries as one tree that serves every Python of PYTHONS: the Python parts
are the same for all, and C parts carry their version in their file's name. Around the tree stands a virtual environment
made by hand, whose interpreter is the machine's own, so `python -m jetwatch` means the same program everywhere.
"""

from __future__ import annotations

import filecmp
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import zipapp
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
DIST = ROOT / "dist"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
EXTRAS = "s3,http,metrics"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
HOME = Path("usr/lib/jetwatch")
COMPLETIONS = {
    "bash": "bash-completion/completions/jetp",
    "zsh": "zsh/vendor-completions/_jetp",
    "fish": "fish/vendor_completions.d/jetp.fish",
}
"""Where each shell looks for it, under /usr/share."""


def main() -> None:
    """Everything, from nothing."""
    for folder in (BUILD, DIST):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    os.environ.setdefault("SOURCE_DATE_EPOCH", _run("git", "log", "-1", "--format=%ct").strip())
    wheel = build_wheel()
    site = BUILD / "site"
    gather(wheel, site)
    build_zipapp(site)
    lay_out(site, BUILD / "tree")
    for kind in ("deb", "rpm"):
        _run("nfpm", "package", "-p", kind, "-f", "packaging/nfpm/nfpm.yaml", "-t", "dist/", VERSION=_version(wheel))
    for made in sorted(DIST.iterdir()):
        print(f"{made.stat().st_size / 1e6:7.1f} MB  {made.relative_to(ROOT)}")


def build_wheel() -> Path:
    """The wheel in dist/."""
    _run(sys.executable, "-m", "build", "--wheel", "--outdir", str(DIST), ".")
    return next(DIST.glob("*.whl"))


def gather(wheel: Path, site: Path) -> None:
    """The wheel and its libraries, as pip installs them for each Python, laid over each other in `site`."""
    for version in PYTHONS:
        target = BUILD / f"site-{version}"
        _run(
            sys.executable, "-m", "pip", "install", *_for_python(version), "--target", str(target), f"{wheel}[{EXTRAS}]"
        )
        shutil.rmtree(target / "bin", ignore_errors=True)
        _lay_over(target, site)
    for library in site.rglob("*.so*"):
        _run("strip", "--strip-unneeded", str(library))


def _for_python(version: str) -> list[str]:
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in (17, 28)] + [f"manylinux2014_{machine}"]
    chosen = ["--only-binary=:all:", "--implementation", "cp", "--python-version", version]
    for tag in tags:
        chosen += ["--platform", tag]
    lock = ROOT / "packaging" / "constraints.txt"
    return [*chosen, "--quiet", "--disable-pip-version-check", "--no-compile", "--constraint", str(lock)]


def _lay_over(source: Path, site: Path) -> None:
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        relative = file.relative_to(source)
        there = site / relative
        about_itself = relative.parts[0].endswith(".dist-info")
        if there.exists() and not about_itself and not filecmp.cmp(file, there, shallow=False):
            raise SystemExit(
                f"{relative} is not the same for every Python of {PYTHONS}: one tree cannot serve them all"
            )
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, there)


def build_zipapp(site: Path) -> None:
    """dist/jetp.pyz: the tree, and a first file that unpacks it."""
    folder = BUILD / "zipapp"
    shutil.copytree(site, folder / "site")
    shutil.copy2(ROOT / "packaging" / "zipapp" / "__main__.py", folder)
    digest = hashlib.sha256()
    for file in sorted(path for path in site.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(site)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    (folder / "BUILD").write_text(digest.hexdigest()[:16] + "\n")
    zipapp.create_archive(folder, DIST / "jetp.pyz", interpreter="/usr/bin/env python3", compressed=True)


def lay_out(site: Path, tree: Path) -> None:
    """What the packages put on a machine, but for the files of /etc, which nfpm marks as configuration."""
    home = tree / HOME
    shutil.copytree(site, home / "site")
    for version in PYTHONS:
        library = home / "lib" / f"python{version}"
        library.mkdir(parents=True)
        (library / "site-packages").symlink_to("../../site")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to("/usr/bin/python3")
    program = home / "bin" / "jetp"
    program.write_text(f"#!/{HOME}/bin/python -I\nfrom jetwatch.cli.main import main\n\nmain()\n")
    program.chmod(0o755)
    (tree / "usr/bin").mkdir(parents=True)
    for name in ("jetp", "jetwatch"):
        (tree / "usr/bin" / name).symlink_to("../lib/jetwatch/bin/jetp")
    shutil.copytree(ROOT / "packaging" / "systemd", tree / "usr/lib/systemd/system")
    documents = tree / "usr/share/doc/jetwatch"
    documents.mkdir(parents=True)
    for name in ("README.md", "SECURITY.md"):
        shutil.copy2(ROOT / name, documents)
    shutil.copy2(ROOT / "packaging" / "nfpm" / "copyright", documents)
    (documents / "changelog.gz").write_bytes(gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    lay_out_help(tree)
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path == program else 0o644)


def lay_out_help(tree: Path) -> None:
    """Man pages and completions, made by the program itself, where man and the shells look for them."""
    pages = tree / "usr/share/man/man1"
    _run(sys.executable, "packaging/man_pages.py", str(pages))
    for page in sorted(pages.iterdir()):
        page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        page.unlink()
    for shell, place in COMPLETIONS.items():
        file = tree / "usr/share" / place
        file.parent.mkdir(parents=True)
        file.write_text(_run(sys.executable, "-m", "jetwatch", "completion", shell))


def _version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def _run(*words: str, **environment: str) -> str:
    env = {**os.environ, "ARCH": ARCHITECTURES.get(platform.machine(), platform.machine()), **environment}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(words, cwd=ROOT, env=env, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{words[0]} ended with {done.returncode}: {' '.join(words)}")
    return done.stdout


if __name__ == "__main__":
    main()
