"""Builds what is handed out: `make package` → dist/ with an sdist, a wheel, a deb, an rpm and jetp.pyz.

The same commit gives the same bytes, wherever and whenever it is built: times are the commit's, orders and modes are
fixed, and what is taken from an index is locked by its digest.

All but sdist and wheel hold the agent with its libraries as one tree that serves every Python of PYTHONS: the Python
parts are the same for all, and C parts carry their version in their file's name. Around the tree stands a virtual
environment made by hand, whose interpreter is the machine's own, so a Python that it starts finds the same program
everywhere.
"""

from __future__ import annotations

import email.utils
import filecmp
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
DIST = ROOT / "dist"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
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
    os.umask(0o022)
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
        _run("nfpm", "package", "-p", kind, "-f", "packaging/nfpm/nfpm.yaml", "-t", "dist/", VERSION=version())
    for made in sorted(DIST.iterdir()):
        print(f"{made.stat().st_size / 1e6:7.1f} MB  {made.relative_to(ROOT)}")


def version() -> str:
    """The version of this checkout."""
    return _run(sys.executable, "-c", "import jetwatch; print(jetwatch.__version__)").strip()


def build_wheel() -> Path:
    """Sdist and wheel in dist/, by the locked build backend; the path of the wheel."""
    backend = BUILD / "backend"
    _run(*PIP, "--require-hashes", "--target", str(backend), "-r", "requirements/build.txt")
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(DIST), ".", PYTHONPATH=str(backend))
    return next(DIST.glob("*.whl"))


def gather(wheel: Path, site: Path) -> None:
    """The wheel and its locked libraries, as pip installs them for each Python, laid over each other in `site`."""
    for each in PYTHONS:
        target = BUILD / f"site-{each}"
        for what in (("--require-hashes", "-r", "requirements/release.txt"), (str(wheel),)):
            _run(*PIP, "--no-deps", *_for_python(each), "--target", str(target), *what)
        shutil.rmtree(target / "bin", ignore_errors=True)
        _forget_origin(target)
        _lay_over(target, site)
    for library in site.rglob("*.so*"):
        _run("strip", "--strip-unneeded", str(library))


def _for_python(python: str) -> list[str]:
    machine = platform.machine()
    tags = [f"manylinux_2_{minor}_{machine}" for minor in (17, 28)] + [f"manylinux2014_{machine}"]
    chosen = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for tag in tags:
        chosen += ["--platform", tag]
    return chosen


def _forget_origin(target: Path) -> None:
    """Take out where the wheel lay when it was installed."""
    for origin in target.glob("*.dist-info/direct_url.json"):
        record = origin.with_name("RECORD")
        lines = record.read_text().splitlines(keepends=True)
        record.write_text("".join(line for line in lines if "/direct_url.json," not in line))
        origin.unlink()


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
    """dist/jetp.pyz: the tree, and a first file that unpacks it. zipapp of the library keeps times and disk order."""
    files = {f"site/{file.relative_to(site)}": file.read_bytes() for file in site.rglob("*") if file.is_file()}
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(content).digest())
    files["BUILD"] = f"{digest.hexdigest()[:16]}\n".encode()
    files["__main__.py"] = (ROOT / "packaging" / "zipapp" / "__main__.py").read_bytes()
    made = DIST / "jetp.pyz"
    with made.open("wb") as stream:
        # What is before the archive, Python does not read. An isolated one believes these two variables all the same.
        stream.write(b'#!/bin/sh\nunset PYTHONEXECUTABLE __PYVENV_LAUNCHER__\nexec python3 -I "$0" "$@"\n')
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in sorted(files.items()):
                entry = zipfile.ZipInfo(name, time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"]))[:6])
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, content)
    made.chmod(0o755)


def lay_out(site: Path, tree: Path) -> None:
    """What the packages put on a machine, but for links and the files of /etc, which stand in nfpm.yaml."""
    home = tree / HOME
    shutil.copytree(site, home / "site")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (home / "bin").mkdir()
    program = home / "bin" / "jetp"
    program.write_text(f"#!/{HOME}/bin/python -I\nfrom jetwatch.cli.main import main\n\nmain()\n")
    program.chmod(0o755)
    shutil.copytree(ROOT / "packaging" / "systemd", tree / "usr/lib/systemd/system")
    documents = tree / "usr/share/doc/jetwatch"
    documents.mkdir(parents=True)
    for name in ("README.md", "SECURITY.md"):
        shutil.copy2(ROOT / name, documents)
    shutil.copy2(ROOT / "packaging" / "nfpm" / "copyright", documents)
    _compress(documents / "CHANGELOG.md.gz", (ROOT / "CHANGELOG.md").read_text())
    _compress(documents / "changelog.gz", debian_changelog())
    overrides = tree / "usr/share/lintian/overrides"
    overrides.mkdir(parents=True)
    shutil.copy2(ROOT / "packaging" / "nfpm" / "lintian-overrides", overrides / "jetwatch")
    lay_out_help(tree)
    built_s = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o755 if path.is_dir() or path == program else 0o644)
        os.utime(path, (built_s, built_s))


def debian_changelog() -> str:
    """One entry, as Debian's tools want to read it. The news themselves are in CHANGELOG.md."""
    built = email.utils.formatdate(int(os.environ["SOURCE_DATE_EPOCH"]))
    signed = f" -- {_maintainer()}  {built}\n"
    return f"jetwatch ({version()}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n{signed}"


def _maintainer() -> str:
    text = (ROOT / "packaging" / "nfpm" / "nfpm.yaml").read_text()
    return next(line.removeprefix("maintainer: ") for line in text.splitlines() if line.startswith("maintainer: "))


def _compress(target: Path, text: str) -> None:
    target.write_bytes(gzip.compress(text.encode(), mtime=0))


def lay_out_help(tree: Path) -> None:
    """Man pages and completions, made by the program itself, where man and the shells look for them."""
    pages = tree / "usr/share/man/man1"
    _run(sys.executable, "packaging/man_pages.py", str(pages))
    for page in sorted(pages.iterdir()):
        _compress(page.with_name(f"{page.name}.gz"), page.read_text())
        page.unlink()
    for shell, place in COMPLETIONS.items():
        file = tree / "usr/share" / place
        file.parent.mkdir(parents=True)
        file.write_text(_run(sys.executable, "-m", "jetwatch", "completion", shell))


def _run(*words: str, **environment: str) -> str:
    """What a command prints. Its Python finds this checkout first, whatever is installed beside it."""
    env = {**os.environ, "ARCH": ARCHITECTURES.get(platform.machine(), platform.machine())}
    env |= {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT), **environment}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    done = subprocess.run(words, cwd=ROOT, env=env, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{words[0]} ended with {done.returncode}: {' '.join(words)}")
    return done.stdout


if __name__ == "__main__":
    main()
