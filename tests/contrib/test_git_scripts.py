"""check-git and download-git against real repositories, by file:// and by http."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from script_runner import Ended, Scripts, files_below
from servers import git_over_http, program

TREE = {"pb.yml": "- hosts: all\n", "roles/web/tasks/main.yml": "- debug:\n", "größe": "é"}


@dataclass
class Repository:
    """A bare repository that serves, and a clone of it in which a publisher works."""

    root: Path
    url: str

    @property
    def bare(self) -> Path:
        """What is served."""
        return self.root / "served" / "site.git"

    def git(self, *words: str | Path) -> str:
        """Run git in the publisher's clone."""
        return git("-C", str(self.root / "clone"), *words)

    def publish(self, tree: dict[str, str]) -> str:
        """Commit files on the present branch and push all; returns the commit."""
        for name, text in tree.items():
            path = self.root / "clone" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "publish")
        self.push()
        return self.git("rev-parse", "HEAD")

    def push(self) -> None:
        """Push every branch and tag, by force."""
        self.git("push", "--quiet", "--force", "--all")
        self.git("push", "--quiet", "--force", "--tags")


def git(*words: str | Path) -> str:
    """Run git with a configuration of its own."""
    env = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{f"GIT_{who}_{what}": "test@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    }
    done = subprocess.run([program("git"), *words], env=env, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def repository_in(root: Path) -> Repository:
    """Make a repository with one commit on main."""
    repository = Repository(root, f"file://{root}/served/site.git")
    git("init", "--quiet", "--bare", "--initial-branch=main", str(repository.bare))
    git("clone", "--quiet", str(repository.bare), str(root / "clone"))
    repository.git("checkout", "--quiet", "-B", "main")
    repository.publish(TREE)
    return repository


@pytest.fixture
def file_repository(tmp_path: Path) -> Repository:
    """A repository by file://."""
    return repository_in(tmp_path)


@pytest.fixture(params=["file", "http"])
def repository(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Repository]:
    """A repository by file:// and by http in turn."""
    made = repository_in(tmp_path)
    if request.param == "file":
        yield made
        return
    with git_over_http(made.root / "served") as base:
        made.url = f"{base}/site.git"
        yield made


def check(scripts: Scripts, repository: Repository, *arguments: str, applied: str = "") -> Ended:
    """Run check-git."""
    return scripts.run("check-git", repository.url, *arguments, JETWATCH_APPLIED_REVISION=applied)


def test_a_commit_that_was_never_applied_is_due(repository: Repository, scripts: Scripts) -> None:
    """A fresh machine is due, and the revision is the commit."""
    ended = check(scripts, repository)
    assert (ended.exit_code, ended.outputs) == (0, {"revision": repository.git("rev-parse", "main")})


def test_the_applied_commit_is_not_due_until_the_next(repository: Repository, scripts: Scripts) -> None:
    """Not due at the applied commit, due again after the next push."""
    applied = check(scripts, repository).outputs["revision"]
    assert check(scripts, repository, applied=applied).exit_code == 1
    newer = repository.publish({"pb.yml": "newer"})
    ended = check(scripts, repository, applied=applied)
    assert (ended.exit_code, ended.outputs) == (0, {"revision": newer})


def test_only_the_ref_asked_for_counts(file_repository: Repository, scripts: Scripts) -> None:
    """A branch whose name only ends like the one asked for is another branch."""
    applied = check(scripts, file_repository).outputs["revision"]
    file_repository.git("checkout", "--quiet", "-b", "feature/main")
    other = file_repository.publish({"pb.yml": "other"})
    assert check(scripts, file_repository, applied=applied).exit_code == 1
    assert check(scripts, file_repository, "--ref", "feature/main").outputs["revision"] == other


def test_an_annotated_tag_stands_for_its_commit(file_repository: Repository, scripts: Scripts) -> None:
    """Tags, HEAD, full names and commit ids are refs too."""
    file_repository.git("tag", "--annotate", "--message", "one", "v1")
    file_repository.push()
    commit = file_repository.git("rev-parse", "v1^{commit}")
    for ref in ("v1", "refs/tags/v1", "refs/heads/main", "HEAD", commit):
        assert check(scripts, file_repository, "--ref", ref).outputs["revision"] == commit


def test_a_name_that_is_branch_and_tag_must_be_given_in_full(file_repository: Repository, scripts: Scripts) -> None:
    """The scripts do not guess which of the two is meant."""
    file_repository.git("tag", "main")
    file_repository.git("push", "--quiet", "origin", "refs/tags/main")
    ended = check(scripts, file_repository)
    assert ended.exit_code == 3
    assert "--ref refs/heads/main or --ref refs/tags/main" in ended.stderr
    assert check(scripts, file_repository, "--ref", "refs/heads/main").exit_code == 0


def test_a_missing_ref_is_an_error(repository: Repository, scripts: Scripts) -> None:
    """The sentence names it."""
    ended = check(scripts, repository, "--ref", "nope")
    assert ended.exit_code == 3
    assert ended.stderr == f"check-git: {repository.url} has no branch or tag 'nope'\n"


def test_a_missing_repository_is_an_error_in_one_line(repository: Repository, scripts: Scripts) -> None:
    """Nothing asks for a password, and the reason of git is shown."""
    ended = scripts.run("check-git", repository.url.replace("site.git", "nope.git"))
    assert ended.exit_code == 3
    assert "nope.git" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_transport_that_runs_commands_is_refused(scripts: Scripts, tmp_path: Path) -> None:
    """`ext::` would run a command of whoever writes the URL."""
    for name in ("check-git", "download-git"):
        arguments = [tmp_path / "site"] if name == "download-git" else []
        ended = scripts.run(name, f"ext::touch {tmp_path}/run", *arguments, GIT_ALLOW_PROTOCOL="ext")
        assert ended.exit_code == 3
        assert "transport 'ext' not allowed" in ended.stderr
        assert not (tmp_path / "run").exists()


def test_a_url_that_looks_like_an_option_is_no_option(scripts: Scripts, tmp_path: Path) -> None:
    """A URL cannot become `--upload-pack=COMMAND`."""
    ended = scripts.run("check-git", "--", f"--upload-pack=touch {tmp_path}/run")
    assert ended.exit_code == 3
    assert not (tmp_path / "run").exists()


def test_a_password_in_the_url_is_not_told(scripts: Scripts) -> None:
    """User info is masked in what the scripts print."""
    ended = scripts.run("check-git", "http://user:secret@127.0.0.1:1/site.git")
    assert ended.exit_code == 3
    assert "secret" not in ended.stdout + ended.stderr


def test_a_server_that_says_nothing_is_given_up(scripts: Scripts) -> None:
    """A check has an end although the server accepts and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"git://127.0.0.1:{silent.getsockname()[1]}/site.git"
        ended = scripts.run("check-git", url, "--timeout", "0.3")
    assert ended.exit_code == 3
    assert "no answer after 0.3 s" in ended.stderr


def test_git_that_is_not_installed_is_said(scripts: Scripts, tmp_path: Path) -> None:
    """The sentence says what to install."""
    bare = tmp_path / "bin"
    bare.mkdir()
    (bare / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (bare / "python3").chmod(0o755)
    ended = scripts.run("check-git", "file:///nope", PATH=str(bare))
    assert (ended.exit_code, ended.stderr) == (3, "check-git: git is not on PATH: install it\n")


def test_a_download_is_the_commits_tree_and_nothing_else(
    repository: Repository, scripts: Scripts, tmp_path: Path
) -> None:
    """Files as in the commit, no .git, into a directory that is there and empty."""
    commit = check(scripts, repository).outputs["revision"]
    directory = tmp_path / "site"
    directory.mkdir()
    ended = scripts.run("download-git", repository.url, directory, JETWATCH_REVISION=commit)
    assert (ended.exit_code, ended.stderr, ended.outputs) == (0, "", {"revision": commit})
    assert files_below(directory) == TREE
    assert not (directory / ".git").exists()


def test_without_a_revision_the_ref_is_downloaded(repository: Repository, scripts: Scripts, tmp_path: Path) -> None:
    """By hand, the ref is what decides."""
    repository.git("checkout", "--quiet", "-b", "other")
    commit = repository.publish({"pb.yml": "other"})
    ended = scripts.run("download-git", repository.url, tmp_path / "site", "--ref", "other")
    assert (ended.exit_code, ended.outputs) == (0, {"revision": commit})
    assert files_below(tmp_path / "site") == TREE | {"pb.yml": "other"}


def test_the_runs_commit_is_fetched_although_the_branch_moved_on(
    repository: Repository, scripts: Scripts, tmp_path: Path
) -> None:
    """What was checked is what is applied."""
    commit = check(scripts, repository).outputs["revision"]
    repository.publish({"pb.yml": "newer"})
    ended = scripts.run("download-git", repository.url, tmp_path / "site", JETWATCH_REVISION=commit)
    assert (ended.exit_code, ended.outputs) == (0, {"revision": commit})
    assert files_below(tmp_path / "site") == TREE


def test_a_commit_that_is_gone_is_left_to_the_next_check(
    repository: Repository, scripts: Scripts, tmp_path: Path
) -> None:
    """After a forced push the old commit is not replaced by what is there now."""
    ended = scripts.run("download-git", repository.url, tmp_path / "site", JETWATCH_REVISION="1" * 40)
    assert ended.exit_code == 75
    assert f"this run is for {'1' * 40}" in ended.stderr
    assert list((tmp_path / "site").iterdir()) == []


def test_a_revision_that_is_no_commit_is_refused(file_repository: Repository, scripts: Scripts, tmp_path: Path) -> None:
    """A revision of another kind of source, or an option, never reaches git."""
    for revision in ("--upload-pack=x", "main", "abc"):
        ended = scripts.run("download-git", file_repository.url, tmp_path / "site", JETWATCH_REVISION=revision)
        assert ended.exit_code == 3
        assert "expected a full commit id" in ended.stderr


def test_a_subdirectory_becomes_the_top(repository: Repository, scripts: Scripts, tmp_path: Path) -> None:
    """--subdir takes one directory of the repository; one that is missing is named."""
    ended = scripts.run("download-git", repository.url, tmp_path / "site", "--subdir", "roles/web/")
    assert ended.exit_code == 0
    assert files_below(tmp_path / "site") == {"tasks/main.yml": "- debug:\n"}
    missing = scripts.run("download-git", repository.url, tmp_path / "other", "--subdir", "nope")
    assert missing.exit_code == 3
    assert "has no directory 'nope'" in missing.stderr
    assert list((tmp_path / "other").iterdir()) == []


def test_a_directory_that_is_not_empty_is_refused(
    file_repository: Repository, scripts: Scripts, tmp_path: Path
) -> None:
    """Content never mixes with what is there, and what is there stays."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "mine").write_text("mine")
    ended = scripts.run("download-git", file_repository.url, tmp_path / "site")
    assert ended.exit_code == 3
    assert files_below(tmp_path / "site") == {"mine": "mine"}


def test_no_hook_and_no_configuration_of_the_user_runs(
    file_repository: Repository, scripts: Scripts, tmp_path: Path
) -> None:
    """Hooks from templates, filters and a URL rewrite in ~/.gitconfig have no effect."""
    template = tmp_path / "template"
    (template / "hooks").mkdir(parents=True)
    hook = template / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hook-ran\n")
    hook.chmod(0o755)
    (scripts.work / ".gitconfig").write_text(
        f'[init]\n\ttemplateDir = {template}\n[filter "x"]\n\tsmudge = touch {tmp_path}/filter-ran\n'
        '[url "file:///nowhere/"]\n\tinsteadOf = file:///\n'
    )
    file_repository.publish({".gitattributes": "* filter=x\n"})
    ended = scripts.run("download-git", file_repository.url, tmp_path / "site", GIT_TEMPLATE_DIR=str(template))
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert not (tmp_path / "hook-ran").exists()
    assert not (tmp_path / "filter-ran").exists()


def test_a_git_directory_in_the_environment_is_ignored(
    file_repository: Repository, scripts: Scripts, tmp_path: Path
) -> None:
    """GIT_DIR of whoever started the agent does not lead the fetch into another repository."""
    elsewhere = str(file_repository.root / "clone" / ".git")
    before = file_repository.git("status", "--porcelain")
    ended = scripts.run(
        "download-git", file_repository.url, tmp_path / "site", GIT_DIR=elsewhere, GIT_WORK_TREE=str(tmp_path)
    )
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert files_below(tmp_path / "site") == TREE
    assert file_repository.git("status", "--porcelain") == before


def test_submodules_are_not_fetched(file_repository: Repository, scripts: Scripts, tmp_path: Path) -> None:
    """A submodule stays an empty directory: its URL is not followed."""
    commit = file_repository.git("rev-parse", "HEAD")
    file_repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},module")
    file_repository.git("commit", "--quiet", "--message", "module")
    file_repository.push()
    ended = scripts.run("download-git", file_repository.url, tmp_path / "site")
    assert (ended.exit_code, ended.stderr) == (0, "")
    assert list((tmp_path / "site" / "module").iterdir()) == []
