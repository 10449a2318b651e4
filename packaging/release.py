"""Makes a release: `make release KEY=…` → dist/ with every artefact, sbom.json, SHA256SUMS and its signature.

The commit is built twice, in two clones at different paths, and must give the same bytes; each artefact is tried where
nothing else is. What is not committed, has no tag that names the version, or is not signed, is not released.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
NAMESPACE = "jetwatch-release"
"""What a signature of ours is for: one made for anything else is not taken."""

CLONES = ("first", "another-place/second")
TRIALS = ("tests/system/test_artefacts.py", "tests/system/test_one_file.py")


def main() -> None:
    """Look, build, compare, describe, try, sign."""
    options = argparse.ArgumentParser(description="Makes a release.", allow_abbrev=False)
    options.add_argument("--untagged", action="store_true", help="rehearse without a tag; a signature may be missing")
    options.add_argument("--key", type=Path, metavar="PATH", help="the ssh key that signs, or its public half")
    told = options.parse_args()
    version = _run(sys.executable, "-c", "import jetwatch; print(jetwatch.__version__)", PYTHONPATH=str(ROOT)).strip()
    tags = _run("git", "tag", "--points-at", "HEAD").split()
    changes = _run("git", "status", "--porcelain").splitlines()
    if refusal := why_not(version, tags, changes, untagged=told.untagged):
        raise SystemExit(refusal)
    if refusal := why_not_signed(told.key, untagged=told.untagged):
        raise SystemExit(refusal)
    commit = _run("git", "rev-parse", "HEAD").strip()
    print(f"jetwatch {version}, commit {commit}", flush=True)
    with tempfile.TemporaryDirectory(prefix="jetwatch-release-") as folder:
        built = [build(commit, version, Path(folder, name)) for name in CLONES]
        one, other = (digests(dist) for dist in built)
        print(comparison(one, other), flush=True)
        if one != other:
            raise SystemExit("two builds of one commit differ: nothing is released")
        shutil.rmtree(DIST, ignore_errors=True)
        shutil.move(built[0], DIST)
    (DIST / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in one.items()))
    print("Installing each where nothing else is", flush=True)
    tried = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rs", *TRIALS], cwd=ROOT, check=False)
    if tried.returncode:
        raise SystemExit("what was built does not work: do not hand it out")
    if told.key is not None:
        sign(DIST / "SHA256SUMS", told.key)
    print("\n".join(["Released into dist/:", *sorted(each.name for each in DIST.iterdir())]))


def why_not(version: str, tags: Sequence[str], changes: Sequence[str], *, untagged: bool) -> str:
    """Why this checkout is no release, and what to do; empty: it is one.

    `changes` are lines of `git status --porcelain`; `untagged` rehearses: a commit without a tag will do.
    """
    if changes:
        shown = ", ".join(line[3:] for line in changes[:3]) + (", …" if len(changes) > 3 else "")
        return f"{len(changes)} files are changed or not in git ({shown}): commit or remove them first"
    wanted = f"v{version}"
    if wanted in tags:
        return ""
    versions = [tag for tag in tags if tag[:1] == "v" and tag[1:2].isdigit()]
    if versions:
        return (
            f"the tag here says {', '.join(versions)}, and jetwatch/__init__.py says {version}: "
            f"make them agree (git tag {wanted}, or change __version__ and commit)"
        )
    if untagged:
        return ""
    return f"this commit has no tag {wanted}: git tag {wanted}, or rehearse with `make release UNTAGGED=1`"


def why_not_signed(key: Path | None, *, untagged: bool) -> str:
    """Why nothing could be signed in the end, and what to do; empty: it can, or need not be."""
    if key is None:
        return "" if untagged else "a release is signed: make release KEY=/path/to/the/ssh/key"
    return "" if key.is_file() else f"{key}: there is no such key to sign with"


def sign(sums: Path, key: Path) -> Path:
    """The signature beside the file, made and looked at; with it every digest in the file is signed."""
    made = sums.with_name(f"{sums.name}.sig")
    made.unlink(missing_ok=True)
    _run("ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(sums))
    with sums.open("rb") as text:
        words = ["ssh-keygen", "-Y", "check-novalidate", "-n", NAMESPACE, "-s", str(made)]
        subprocess.run(words, stdin=text, stdout=subprocess.DEVNULL, check=True)
    return made


def build(commit: str, version: str, clone: Path) -> Path:
    """All artefacts of the commit, from a clone of its own; the directory that holds them."""
    clone.parent.mkdir(parents=True, exist_ok=True)
    _run("git", "clone", "--quiet", "--no-checkout", str(ROOT), str(clone))
    _run("git", "-C", str(clone), "checkout", "--quiet", "--detach", commit)
    _run(sys.executable, "packaging/build.py", cwd=clone)
    describe(clone, version)
    return clone / "dist"


def describe(clone: Path, version: str) -> None:
    """sbom.json: what is in deb, rpm and jetp.pyz, with digests, as CycloneDX."""
    made = clone / "dist" / "sbom.json"
    _run(
        *(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "--output-reproducible"),
        *("--of", "JSON", "--mc-type", "application", "--pyproject", "pyproject.toml"),
        *("--output-file", str(made), "requirements/release.txt"),
        cwd=clone,
        SOURCE_DATE_EPOCH=_run("git", "log", "-1", "--format=%ct", cwd=clone).strip(),
    )
    document = json.loads(made.read_text())
    document["metadata"]["component"]["version"] = version  # it stands in the code, where the program does not look
    made.write_text(json.dumps(document, indent=2) + "\n")


def digests(dist: Path) -> dict[str, str]:
    """SHA-256 by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(dist.iterdir())}


def comparison(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """A line for each artefact: the digest of both builds, or both digests."""
    lines = []
    for name in sorted({*one, *other}):
        first, second = one.get(name, "missing"), other.get(name, "missing")
        lines.append(f"same twice  {first}  {name}" if first == second else f"DIFFERS     {first} {second}  {name}")
    return "\n".join(lines)


def _run(*words: str, cwd: Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **environment}, check=False, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{words[0]} ended with {done.returncode}: {' '.join(words)}")
    return done.stdout


if __name__ == "__main__":
    main()
