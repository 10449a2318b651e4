"""Content from git: the suite of all sources over file, https and ssh, and what only git has to fear."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from git_places import PASSWORD, Repository, content_of, git, over
from source_suite import DEADLINE_S, FILES, Fetching, SourceSuite, revision, silent, tiny_disk, tree
from ssh_server import new_key
from tcp_proxy import TcpProxy
from web_server import Page, serving

from jetwatch.content import git_command
from jetwatch.content.fetch import fetch
from jetwatch.content.git import GitSource
from jetwatch.content.git_command import git_for
from jetwatch.content.git_growth import Growth
from jetwatch.content.source import (
    Content,
    ContentError,
    ContentKind,
    ContentMoved,
    ContentRetry,
    ContentStalled,
)


@pytest.fixture
def repository() -> Iterator[Repository]:
    """A repository by file, with the usual files."""
    with over("file") as made:
        made.put(FILES)
        yield made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """An empty directory."""
    made = tmp_path / "target"
    made.mkdir()
    return made


def fetched(source: GitSource, target: Path, wanted: str = "") -> dict[str, bytes]:
    """Fetch without a cache; what is there then."""
    source.fetch(wanted or revision(source), target, None, silent)
    return tree(target)


@pytest.mark.parametrize("scheme", ["file", "https", "ssh"])
class TestGit(SourceSuite):
    """The suite of all sources."""

    @pytest.fixture
    def place(self, scheme: str) -> Iterator[Repository]:
        """A repository by one scheme."""
        with over(scheme) as made:
            yield made

    def test_a_full_disk_of_the_cache_is_no_hindrance(self, place: Repository, fetching: Fetching) -> None:
        """git needs a place for its pack: here it is said, and nothing is delivered."""
        place.put({"large": os.urandom(1_000_000)})
        source = place.source()
        asked = revision(source)
        target = fetching.directory()
        with tiny_disk(fetching.root / "tiny", 512 * 1024) as disk:
            (disk / "cache").mkdir(mode=0o700)
            with pytest.raises(ContentError, match=r"(?i)space"):
                source.fetch(asked, target, disk / "cache", silent)
        assert tree(target) == {}


@pytest.mark.parametrize("scheme", ["file", "http", "https", "ssh"])
def test_what_the_cache_has_does_not_travel_again(scheme: str, tmp_path: Path) -> None:
    """A large file that did not change is not in the next pack, and the bytes are counted."""
    with over(scheme) as place:
        place.put({"large": os.urandom(3_000_000), "pb.yml": b"one"})
        fetching = Fetching(place, tmp_path)
        fetching.now()
        before = _size(fetching.cache)
        place.put({"pb.yml": b"two"})
        assert tree(fetching.now())["pb.yml"] == b"two"
        assert fetching.fetched is not None
        assert fetching.fetched.reused_bytes == 3_000_000
        assert _size(fetching.cache) - before < 50_000


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def test_a_cache_stays_small(repository: Repository, tmp_path: Path) -> None:
    """What no commit in use needs is dropped after a while."""
    fetching = Fetching(repository, tmp_path)
    for number in range(24):
        repository.put({"large": os.urandom(200_000), "number": str(number).encode()})
        fetching.now()
    assert _size(fetching.cache) < 24 * 200_000 / 2


def test_what_a_killed_git_left_is_no_obstacle(repository: Repository, tmp_path: Path) -> None:
    """Locks and half a pack in the cache are swept."""
    fetching = Fetching(repository, tmp_path)
    fetching.now()
    for name in ("shallow.lock", "config.lock", "refs/jetwatch/current.lock", "objects/pack/tmp_pack_x"):
        (fetching.cache / "git" / name).write_bytes(b"left")
    repository.put({"pb.yml": b"newer"})
    assert tree(fetching.now())["pb.yml"] == b"newer"
    assert not list(fetching.cache.rglob("tmp_pack_x"))


def test_a_look_is_one_ls_remote_and_a_commit_id_is_none(repository: Repository) -> None:
    """Branch, tag, annotated tag, HEAD and full names; a full id asks nobody, so it needs no server."""
    commit = repository.git("rev-parse", "HEAD")
    repository.git("tag", "--annotate", "--message", "one", "v1")
    repository.push()
    for ref in ("main", "v1", "refs/tags/v1", "refs/heads/main", "HEAD", None):
        look = repository.source(ref=ref).look(None, DEADLINE_S)
        assert (look.revision, look.requests) == (commit, 1)
    nowhere = GitSource(content_of("https://nowhere.invalid/x.git", ref=commit))
    assert nowhere.look(None, DEADLINE_S).requests == 0


def test_a_branch_whose_name_ends_like_the_ref_is_another(repository: Repository) -> None:
    """ls-remote lists both; only one was asked for."""
    wanted = revision(repository.source())
    repository.git("checkout", "--quiet", "-b", "feature/main")
    other = repository.commit()
    assert (revision(repository.source()), revision(repository.source(ref="feature/main"))) == (wanted, other)


def test_a_name_that_is_branch_and_tag_must_be_given_in_full(repository: Repository) -> None:
    """Nobody guesses which of the two is meant."""
    repository.git("tag", "main")
    repository.git("push", "--quiet", "origin", "refs/tags/main")
    with pytest.raises(ContentStalled, match="write refs/heads/main or refs/tags/main"):
        revision(repository.source())


@pytest.mark.parametrize("ref", ["-", "--upload-pack=touch x", "a b", "a..b", "*", "main^{}", "x.lock", "a\nb", "@{u}"])
def test_a_ref_that_is_no_name_never_reaches_git(repository: Repository, ref: str) -> None:
    """Options, patterns and expressions are refused."""
    with pytest.raises(ContentStalled, match="cannot be the name"):
        revision(repository.source(ref=ref))


@pytest.mark.parametrize("wanted", ["main", "abc", "--upload-pack=x", "A" * 40, ""])
def test_a_revision_that_is_no_commit_id_is_refused(repository: Repository, target: Path, wanted: str) -> None:
    """A revision of another kind of source never reaches git."""
    with pytest.raises(ContentStalled, match="full commit id"):
        repository.source().fetch(wanted, target, None, silent)


@pytest.mark.parametrize("url", ["ext::sh -c x", "git://host/x", "https://a b/", "file:///x\ny", "http:///"])
def test_other_transports_and_broken_urls_are_refused(url: str) -> None:
    """Nothing but https, http, ssh and file is given to git."""
    with pytest.raises((ContentStalled, ContentRetry)):
        revision(GitSource(content_of(url, ref="main")))


def test_a_missing_ref_or_repository_is_named(repository: Repository) -> None:
    """Both need a person, and the sentence says which ref was asked for."""
    with pytest.raises(ContentStalled, match="no branch or tag 'nope'"):
        revision(repository.source(ref="nope"))
    with pytest.raises(ContentStalled, match=r"ref 'main'.*nope\.git"):
        revision(GitSource(content_of(f"file://{repository.root}/nope.git", ref="main")))


@pytest.mark.parametrize("scheme", ["http", "https", "ssh"])
def test_a_missing_repository_on_a_server_needs_a_person(scheme: str) -> None:
    """Not an endless retry."""
    with over(scheme) as place:
        place.url = place.url.replace("site.git", "nope.git")
        with pytest.raises(ContentStalled, match="ref 'main'"):
            revision(place.source())


@pytest.mark.parametrize("url", ["https://nowhere.invalid/x.git", "ssh://git@nowhere.invalid/x.git"])
def test_an_unknown_host_may_be_known_later(url: str) -> None:
    """A resolver that does not answer is asked again."""
    with pytest.raises(ContentRetry):
        revision(GitSource(content_of(url, ref="main")))


@pytest.mark.parametrize("scheme", ["http", "ssh"])
def test_a_server_that_says_nothing_is_given_up(scheme: str) -> None:
    """The look ends at its deadline, with everything that it started."""
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        source = GitSource(content_of(f"{scheme}://127.0.0.1:{silent_server.getsockname()[1]}/x.git", ref="main"))
        began = time.monotonic()
        with pytest.raises(ContentRetry, match=r"no answer within 0\.5 s"):
            source.look(None, 0.5)
        assert time.monotonic() - began < 5
        port = silent_server.getsockname()[1]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f":{port}/" not in listed
    assert f"-p {port}" not in listed


def test_a_fetch_from_a_server_that_says_nothing_has_an_end(tmp_path: Path) -> None:
    """Progress is told while git waits too, so that whoever has a deadline ends it."""
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        url = f"git+http://127.0.0.1:{silent_server.getsockname()[1]}/x.git"
        with pytest.raises(ContentRetry, match=r"not done within 1\.5 s"):
            fetch(
                Content(url, ContentKind.GIT, ref="main"),
                tmp_path / "target",
                revision="a" * 40,
                cache=None,
                progress=silent,
                deadline_s=1.5,
            )
        port = silent_server.getsockname()[1]
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f":{port}/" not in listed
    assert list(tmp_path.iterdir()) == []


def test_a_host_key_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """Nobody is asked whether to go on."""
    with over("ssh") as place:
        (tmp_path / "known_hosts").touch()
        with pytest.raises(ContentStalled, match="Host key verification failed"):
            revision(place.source(known_hosts=str(tmp_path / "known_hosts")))


def test_a_path_that_ssh_would_read_otherwise_is_refused() -> None:
    """No path becomes an option, a variable or another path."""
    for path in ('/a"b', "/a$HOME", "/a\nb", "~/key"):
        with pytest.raises(ContentStalled, match="rename it"):
            git_for(content_of("ssh://git@host/x.git", ssh_key=path))


def test_a_certificate_that_nobody_vouches_for_is_refused() -> None:
    """Without ca_file the server is not believed, and is not told the password."""
    with over("https") as place:
        with pytest.raises(ContentStalled, match="certificate"):
            revision(place.source(ca_file=None))
        assert place.seen == []  # type: ignore[attr-defined]


def test_a_password_goes_to_one_host_only_and_is_never_shown() -> None:
    """Not in argv, not in an error, and not along with a redirect."""
    with over("https") as place:
        hidden = git_for(place.source()._content)
        assert PASSWORD not in repr(hidden)
        assert PASSWORD not in repr(place.source()._content)
        moved = place.url.replace("/site.git", "/moved/site.git")
        with pytest.raises(ContentStalled, match="302") as refusal:
            revision(GitSource(content_of(moved, ref="main", **place.options)))
        assert len(place.seen) == 1  # type: ignore[attr-defined]
        assert PASSWORD not in str(refusal.value)
    with pytest.raises(ContentStalled, match="in the open"):
        revision(GitSource(content_of("http://127.0.0.1/x.git", secrets={"password": PASSWORD})))


def test_what_may_only_come_from_this_machine_follows_no_redirect() -> None:
    """It could lead to another machine, whose plain http proves nothing; where that is allowed it is followed."""
    with over("http") as place, serving() as server:
        place.put(FILES)
        asked = "/info/refs?service=git-upload-pack"
        server.pages[f"/r.git{asked}"] = Page(status=302, headers={"Location": f"{place.url}{asked}"})
        moved = f"{server.url}/r.git"
        with pytest.raises(ContentStalled, match="302"):
            revision(GitSource(content_of(moved, ref="main")))
        assert revision(GitSource(content_of(moved, ref="main", insecure=True))) == revision(place.source())


def test_what_git_is_started_with_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A git in front of the real one writes down its argv: all of it, in a look and a fetch."""
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {tmp_path}/argv\nexec {real} "$@"\n')
    wrapper.chmod(0o755)
    with over("https") as place:
        place.put(FILES)
        monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
        (tmp_path / "out").mkdir()
        fetched(place.source(), tmp_path / "out")
    argv = (tmp_path / "argv").read_text()
    assert "ls-remote" in argv
    assert "secret" not in argv
    assert "Authorization" not in argv


def test_a_git_that_is_missing_or_too_old_is_said(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says which version is needed."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ContentStalled, match="install it"):
        revision(repository.source())
    (tmp_path / "git").write_text("#!/bin/sh\necho git version 2.30.2\n")
    (tmp_path / "git").chmod(0o755)
    with pytest.raises(ContentStalled, match=r"expected git 2\.34 or newer, found 'git version 2\.30\.2'"):
        revision(repository.source())


def test_a_subdirectory_becomes_the_top(repository: Repository, tmp_path: Path, target: Path) -> None:
    """One that is missing is named."""
    assert fetched(repository.source(subdir="roles/web"), target) == {
        "tasks/main.yml": b"[]\n",
        "files/page.html": FILES["roles/web/files/page.html"],
    }
    for subdir in ("nope", "pb.yml", "../x", "roles/.."):
        with pytest.raises(ContentStalled, match="no directory"):
            fetched(repository.source(subdir=subdir), tmp_path)


def test_modes_and_links_are_kept(repository: Repository, target: Path) -> None:
    """Executable files, and links that stay inside."""
    (repository.clone / "run").write_text("#!/bin/sh\n")
    (repository.clone / "run").chmod(0o755)
    (repository.clone / "roles" / "play").symlink_to("../pb.yml")
    commit = repository.commit()
    repository.source().fetch(commit, target, None, silent)
    assert (target / "run").stat().st_mode & 0o777 == 0o755
    assert (target / "pb.yml").stat().st_mode & 0o777 == 0o644
    assert (target / "roles" / "play").readlink() == Path("../pb.yml")
    assert not (target / ".git").exists()


@pytest.mark.parametrize("link", ["/etc/passwd", "../x", "a/../../x", "roles/../../x"])
def test_a_link_that_leads_out_is_refused_by_name(repository: Repository, target: Path, link: str) -> None:
    """Absolute or relative, at once or by a detour."""
    (repository.clone / "evil").symlink_to(link)
    commit = repository.commit()
    with pytest.raises(ContentStalled, match="'evil'"):
        repository.source().fetch(commit, target, None, silent)


def test_no_hook_no_filter_and_no_configuration_runs(
    repository: Repository, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks, templates, attributes, the user's configuration and the environment have no effect."""
    home = tmp_path / "home"
    hooks = home / "template" / "hooks"
    hooks.mkdir(parents=True)
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (hooks / name).chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[init]\n\ttemplateDir = {hooks.parent}\n[core]\n\thooksPath = {hooks}\n[filter "x"]\n'
        f'\tsmudge = touch {tmp_path}/ran\n\trequired\n[url "file:///nowhere/"]\n\tinsteadOf = file:///\n'
    )
    repository.put({".gitattributes": b"* filter=x ident eol=crlf export-ignore\n", "id": b"$Id$\n"})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(repository.clone / ".git"))
    monkeypatch.setenv("GIT_SSH_COMMAND", f"touch {tmp_path}/ran")
    monkeypatch.setenv("GIT_TRACE", f"{tmp_path}/ran")
    commit = revision(repository.source())
    repository.source().fetch(commit, target, tmp_path / "cache", silent)
    assert tree(target)["id"] == b"$Id$\n"
    assert tree(target)["pb.yml"] == FILES["pb.yml"]
    assert not (tmp_path / "ran").exists()


def _poisoned_by_configuration(store: Path, program: Path, url: str) -> None:
    (store / "config").write_text(
        f'[protocol "ext"]\n\tallow = always\n[url "ext::{program} %S x"]\n\tinsteadOf = {url}\n'
        f"[core]\n\trepositoryformatversion = 0\n\tbare = true\n\tsshCommand = {program}\n\tfsmonitor = {program}\n"
        f"\talternateRefsCommand = {program}\n[uploadpack]\n\tpackObjectsHook = {program}\n"
    )


def _poisoned_by_an_included_file(store: Path, program: Path, url: str) -> None:
    (store / "more").write_text(f'[protocol]\n\tallow = always\n[url "ext::{program} x"]\n\tinsteadOf = {url}\n')
    with (store / "config").open("a") as configuration:
        configuration.write("[include]\n\tpath = more\n[extensions]\n\tworktreeConfig = true\n")
    shutil.copy(store / "more", store / "config.worktree")


def _poisoned_by_alternates(store: Path, program: Path, url: str) -> None:
    del program, url
    (store / "objects/info/alternates").write_text("/nowhere/objects\n")


def _poisoned_by_another_common_directory(store: Path, program: Path, url: str) -> None:
    elsewhere = store.parent / "elsewhere"
    shutil.copytree(store, elsewhere)
    _poisoned_by_configuration(elsewhere, program, url)
    (store / "commondir").write_text(f"{elsewhere}\n")


def _poisoned_by_a_link(store: Path, program: Path, url: str) -> None:
    elsewhere = store.parent / "elsewhere"
    store.rename(elsewhere)
    _poisoned_by_configuration(elsewhere, program, url)
    store.symlink_to(elsewhere)


@pytest.mark.parametrize(
    "poison",
    [
        _poisoned_by_configuration,
        _poisoned_by_an_included_file,
        _poisoned_by_alternates,
        _poisoned_by_another_common_directory,
        _poisoned_by_a_link,
    ],
)
def test_nothing_that_lies_in_the_cache_can_make_git_run_a_program(
    repository: Repository, tmp_path: Path, poison: Callable[[Path, Path, str], None]
) -> None:
    """Its configuration is written anew, and what no fetch makes is thrown away; the content comes all the same."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    source = repository.source()
    source.fetch(revision(source), tmp_path / "first", tmp_path / "cache", silent)
    poison(tmp_path / "cache/git", program, repository.url)
    repository.put({"new": b"new"})
    source.fetch(revision(source), tmp_path / "second", tmp_path / "cache", silent)
    assert (tmp_path / "second/new").read_bytes() == b"new"
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "cache/git").is_symlink()
    assert not (tmp_path / "cache/git/commondir").exists()
    assert "program" not in (tmp_path / "cache/git/config").read_text()


def test_a_submodule_is_refused_by_name_unless_asked_for(repository: Repository, target: Path) -> None:
    """Its URL is not followed."""
    commit = _with_submodule(repository, "https://nowhere.invalid/x.git", "1" * 40)
    with pytest.raises(ContentStalled, match=r"submodule 'modules/one': refused.*submodules: true"):
        repository.source().fetch(commit, target, None, silent)


def _with_submodule(repository: Repository, url: str, commit: str) -> str:
    (repository.clone / ".gitmodules").write_text(f'[submodule "one"]\n\tpath = modules/one\n\turl = {url}\n')
    repository.git("add", ".gitmodules")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},modules/one")
    repository.git("commit", "--quiet", "--message", "submodule")
    repository.push()
    return repository.git("rev-parse", "HEAD")


@pytest.mark.parametrize("scheme", ["file", "https"])
def test_a_submodule_of_the_same_server_is_fetched_when_asked_for(scheme: str, target: Path, tmp_path: Path) -> None:
    """At the commit that the tree names, by a relative URL, and again from the cache."""
    with over(scheme) as place:
        place.put(FILES)
        module = Repository(place.root, name="module.git")
        module.put({"inside": b"module"})
        wanted = module.git("rev-parse", "HEAD")
        module.put({"inside": b"later"})
        commit = _with_submodule(place, "../module.git", wanted)
        place.source(submodules=True).fetch(commit, target, tmp_path / "cache", silent)
        found = tree(target)
        assert found["modules/one/inside"] == b"module"
        assert not (target / "modules" / "one" / ".git").exists()
        again = tmp_path / "again"
        again.mkdir()
        done = place.source(submodules=True).fetch(commit, again, tmp_path / "cache", silent)
        assert tree(again) == found
        assert (done.requests, done.reused_bytes) == (0, done.total_bytes)


@pytest.mark.parametrize("url", ["https://elsewhere.invalid/x.git", "ext::sh -c x", "git@host:x.git", "-x", ""])
def test_a_submodule_elsewhere_is_refused_by_name(repository: Repository, target: Path, url: str) -> None:
    """Another host, another scheme, a command or nothing: no stranger says whom this machine talks to."""
    commit = _with_submodule(repository, url, "1" * 40)
    with pytest.raises(ContentStalled, match=r"modules/one|disallowed submodule url"):
        repository.source(submodules=True).fetch(commit, target, None, silent)


def test_a_tree_that_is_not_what_its_name_says_is_refused(repository: Repository, target: Path) -> None:
    """Entries that are there twice, a name that is a file and a folder, and modes that are none."""
    blob = bytes.fromhex(repository.raw("blob", b"x"))
    folder = bytes.fromhex(repository.raw("tree", b"100644 b\0" + blob))
    twice = b"100644 a\0" + blob + b"100644 a\0" + blob
    both = b"100644 a\0" + blob + b"40000 a\0" + folder
    for tree_content in (twice, both, b"60000 dev\0" + blob):
        commit = repository.publish_tree(tree_content)
        with pytest.raises(ContentStalled):
            repository.source().fetch(commit, target, None, silent)
        for left in target.iterdir():
            left.unlink()


@pytest.mark.parametrize("name", ["..", ".git", ".GiT", ".", "a/b"])
def test_a_name_that_fsck_would_let_through_is_refused_again(
    repository: Repository, target: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a git of another version checks, a name cannot leave its directory or make a repository."""
    monkeypatch.setitem(git_command.HARDENING, "transfer.fsckObjects", "false")
    blob = bytes.fromhex(repository.raw("blob", b"x"))
    commit = repository.publish_tree(b"100644 " + name.encode() + b"\0" + blob)
    with pytest.raises(ContentStalled, match="the name"):
        repository.source().fetch(commit, target, None, silent)
    assert list(target.iterdir()) == []


def test_limits_are_kept_by_name(repository: Repository, tmp_path: Path) -> None:
    """Bytes, entries and depth."""
    from jetwatch.content.source import Limits

    for number, (limits, said) in enumerate(
        ((Limits(total_bytes=1000), "1000 bytes"), (Limits(entries=3), "3 entries"), (Limits(depth=2), "2 directories"))
    ):
        directory = tmp_path / str(number)
        directory.mkdir()
        with pytest.raises(ContentStalled, match=f"'.*{said}"):
            fetched(repository.source(limits=limits), directory)


def test_a_pack_beyond_the_limit_is_cut_off_while_it_comes(repository: Repository, tmp_path: Path) -> None:
    """Not only when its files are written; and the cache is no place for it."""
    from jetwatch.content.source import Limits

    source = repository.source(limits=Limits(total_bytes=1 << 20))
    (tmp_path / "first").mkdir()
    source.fetch(revision(source), tmp_path / "first", tmp_path / "cache", silent)
    repository.put({"large": os.urandom(2 * git_command.BESIDE_CONTENT_BYTES)})
    (tmp_path / "second").mkdir()
    with pytest.raises(ContentStalled, match=r"more than the limit.*`limits\.bytes`"):
        source.fetch(revision(source), tmp_path / "second", tmp_path / "cache", silent)
    assert not (tmp_path / "cache/git").exists()


def test_packs_that_are_too_many_together_are_refused(tmp_path: Path) -> None:
    """What was there before does not count, what came since does."""
    from jetwatch.content.source import Limits

    pack = tmp_path / "objects/pack"
    pack.mkdir(parents=True)
    (pack / "before").write_bytes(bytes(1000))
    growth = Growth(tmp_path, "git+file:///x", Limits(total_bytes=0))
    os.truncate(pack / "before", 1000 + git_command.BESIDE_CONTENT_BYTES)
    growth.check()
    (pack / "more").write_bytes(b"x")
    with pytest.raises(ContentStalled, match="the limit of 0 bytes"):
        growth.check()


def test_trees_that_are_more_directories_than_anybody_could_walk_are_refused(
    repository: Repository, tmp_path: Path
) -> None:
    """Forty objects that stand for 10**39 directories without a file; and they do not stay in the cache."""
    from jetwatch.content.source import Limits

    folder = repository.raw("tree", b"100644 f\0" + bytes.fromhex(repository.raw("blob", b"")))
    for _ in range(39):
        entries = (b"40000 %d\0" % number + bytes.fromhex(folder) for number in range(10))
        folder = repository.raw("tree", b"".join(entries))
    commit = repository.publish_tree(b"40000 top\0" + bytes.fromhex(folder))
    (tmp_path / "into").mkdir()
    with pytest.raises(ContentStalled, match=r"'top/.*more than 10000 entries"):
        repository.source(limits=Limits(entries=10_000)).fetch(commit, tmp_path / "into", tmp_path / "cache", silent)
    assert not (tmp_path / "cache/git").exists()


def test_a_name_that_no_file_system_takes_is_refused_before_it_is_kept_in_memory(
    repository: Repository, target: Path
) -> None:
    """A tree may hold one of megabytes."""
    blob = bytes.fromhex(repository.raw("blob", b""))
    commit = repository.publish_tree(b"100644 " + b"n" * 300 + b"\0" + blob)
    with pytest.raises(ContentStalled, match="longer than 255 bytes"):
        repository.source().fetch(commit, target, None, silent)


@pytest.mark.parametrize(
    ("exit_code", "complaint", "said"),
    [
        (-25, "", r"limits\.bytes"),
        (128, "error: index-pack died of signal 25\nfatal: fetch-pack: invalid index-pack output", r"limits\.bytes"),
        (-24, "", "compute for more than 900 s"),
        (128, "error: index-pack died of signal 24\nfatal: fetch-pack: invalid index-pack output", "compute for more"),
    ],
)
def test_a_git_that_met_a_bound_needs_a_person(exit_code: int, complaint: str, said: str) -> None:
    """Asking again would cost the same again."""
    error = git_command.explained("git+https://host/x", git_command.Ended(exit_code, b"", complaint))
    assert isinstance(error, ContentStalled)
    assert re.search(said, str(error))


def test_every_git_runs_within_its_bounds(repository: Repository, tmp_path: Path) -> None:
    """The largest file, the time to compute, memory and no dump of it; also where less was allowed already."""
    from jetwatch.content import memory
    from jetwatch.content.source import Limits

    (tmp_path / "git").write_text("#!/bin/sh\ncat /proc/self/limits\n")
    (tmp_path / "git").chmod(0o755)
    content = content_of(repository.url, ref="main", limits=Limits(total_bytes=1 << 20))
    printed = git_for(content, {"PATH": f"{tmp_path}:{os.environ['PATH']}"}).run("version").decode()
    soft = {line[:26].strip(): line[26:].split()[0] for line in printed.splitlines()}
    assert soft["Max file size"] == str((1 << 20) + git_command.BESIDE_CONTENT_BYTES + 512)
    assert soft["Max cpu time"] == str(git_command.CPU_S)
    assert soft["Max data size"] == str(memory.MEMORY_BYTES + memory.ENTRY_BYTES * content.limits.entries)
    assert soft["Max core file size"] == "0"


def test_a_forced_push_during_the_fetch_is_no_other_revision(repository: Repository, target: Path) -> None:
    """The commit of the run is gone: not what is there now, but ContentMoved."""
    asked = repository.git("rev-parse", "HEAD")
    repository.put({"pb.yml": b"rewritten"})
    repository.git("commit", "--quiet", "--amend", "--message", "rewritten")
    repository.git("push", "--quiet", "--force", "--all")
    repository.git("checkout", "--quiet", "--orphan", "new")
    repository.git("commit", "--quiet", "--message", "orphan")
    repository.git("push", "--quiet", "--force", "origin", "new:main")
    git("-C", repository.bare, "reflog", "expire", "--expire=now", "--all")
    git("-C", repository.bare, "gc", "--quiet", "--prune=now")
    with pytest.raises(ContentMoved, match=f"this run is for {asked}"):
        repository.source().fetch(asked, target, None, silent)
    with pytest.raises(ContentStalled, match="name a branch or tag"):
        repository.source(ref=asked).fetch(asked, target, None, silent)


def test_a_server_that_gives_no_ids_is_asked_for_the_ref(
    repository: Repository, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old servers give only what a ref names; then that must be the commit."""
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout.strip()
    wrapper = tmp_path / "bin" / "git"
    wrapper.parent.mkdir()
    refusal = "echo 'fatal: remote error: upload-pack: not our ref' >&2; exit 128"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *" fetch "*[0-9a-f]{"[0-9a-f]" * 39}) {refusal};; esac\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    asked = repository.git("rev-parse", "HEAD")
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    assert fetched(repository.source(), target, asked) == FILES


class Signing:
    """A publisher with two keys, one of which is allowed."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self.repository = repository
        self.allowed, self.foreign = (new_key(directory / name) for name in ("allowed", "foreign"))
        self.signers = directory / "allowed_signers"
        kind, key, _ = self.allowed.with_suffix(".pub").read_text().split()
        self.signers.write_text(f'ops@example.com namespaces="git" {kind} {key}\n')

    def commit(self, key: Path, text: bytes) -> str:
        """Publish a commit with this signature."""
        self.repository.git("config", "gpg.format", "ssh")
        self.repository.git("config", "user.signingKey", str(key))
        (self.repository.clone / "pb.yml").write_bytes(text)
        return self.repository.commit("--gpg-sign")

    def source(self, applied: str = "", **options: Any) -> GitSource:
        """A source that asks for signatures."""
        return self.repository.source(applied, allowed_signers=str(self.signers), **options)


@pytest.fixture
def signing(repository: Repository, tmp_path: Path) -> Signing:
    """The publisher with keys."""
    return Signing(repository, tmp_path)


def test_a_commit_signed_by_an_allowed_key_is_taken(signing: Signing, target: Path) -> None:
    """With a signature that ssh-keygen made."""
    commit = signing.commit(signing.allowed, b"signed")
    assert fetched(signing.source(), target, commit)["pb.yml"] == b"signed"


def test_a_commit_that_is_unsigned_foreign_or_forged_is_refused(signing: Signing, target: Path) -> None:
    """And nothing of it is written."""
    signed = signing.commit(signing.allowed, b"signed")
    raw = git("-C", signing.repository.bare, "cat-file", "commit", signed)
    forged = signing.repository.raw("commit", raw.replace("publish", "forged").encode() + b"\n")
    git("-C", signing.repository.bare, "update-ref", "refs/heads/forged", forged)
    commits = {"": signing.repository.commit(), "foreign": signing.commit(signing.foreign, b"x"), "forged": forged}
    for commit in commits.values():
        with pytest.raises(ContentStalled, match=f"{commit} is not signed by one of"):
            signing.source().fetch(commit, target, None, silent)
        assert list(target.iterdir()) == []
    signing.signers.unlink()
    with pytest.raises(ContentStalled, match="file of allowed signers"):
        signing.source().fetch(signed, target, None, silent)


@pytest.mark.parametrize("cached", [False, True])
def test_an_older_commit_does_not_come_back(signing: Signing, tmp_path: Path, cached: bool) -> None:
    """However well it is signed; a later one may come, however many are in between."""
    commits = [signing.commit(signing.allowed, str(number).encode()) for number in range(3)]
    later = ""
    for number in range(70):
        signing.repository.git("commit", "--quiet", "--allow-empty", "--message", str(number))
    later = signing.commit(signing.allowed, b"later")
    cache = tmp_path / "cache" if cached else None

    def fetch(applied: str, wanted: str) -> bytes:
        directory = tmp_path / f"{applied[:8]}-{wanted[:8]}"
        directory.mkdir()
        signing.source(applied).fetch(wanted, directory, cache, silent)
        return tree(directory)["pb.yml"]

    assert fetch("", commits[1]) == b"1"
    assert fetch(commits[1], commits[2]) == b"2"
    assert fetch(commits[0], later) == b"later"
    assert fetch(commits[1], commits[1]) == b"1"
    with pytest.raises(ContentStalled, match=f"{commits[0]} does not come after {commits[1]}"):
        fetch(commits[1], commits[0])
    assert fetch("an etag of former days", commits[0]) == b"0"


def test_a_first_fetch_believes_no_other_repository_and_nothing_older(signing: Signing, tmp_path: Path) -> None:
    """`descends_from` says from where on: itself, and what comes after it."""
    old = signing.commit(signing.allowed, b"old")
    start = signing.commit(signing.allowed, b"start")
    new = signing.commit(signing.allowed, b"new")
    signing.repository.git("checkout", "--quiet", "--orphan", "another")
    other = signing.commit(signing.allowed, b"another repository")
    source = signing.source(descends_from=start)
    for number, commit in enumerate((start, new)):
        (tmp_path / str(number)).mkdir()
        source.fetch(commit, tmp_path / str(number), tmp_path / "cache", silent)
    for number, commit in enumerate((old, other), 2):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ContentStalled, match=r"does not come after .* which `descends_from` names"):
            source.fetch(commit, tmp_path / str(number), tmp_path / "cache", silent)


def test_a_tag_is_believed_by_the_name_that_it_was_signed_as(signing: Signing, tmp_path: Path) -> None:
    """Whoever writes to the server can give a tag's object another name, and is found out."""
    repository = signing.repository
    commit = signing.commit(signing.allowed, b"released")
    repository.git("tag", "--sign", "--message", "x", "released")
    wip = signing.commit(signing.allowed, b"wip, signed as well")
    repository.git("tag", "--sign", "--message", "x", "wip")
    repository.git("tag", "light")
    repository.git("tag", "--annotate", "--message", "x", "unsigned")
    repository.git("config", "user.signingKey", str(signing.foreign))
    repository.git("tag", "--sign", "--message", "x", "foreign")
    repository.push()

    def fetch_tag(name: str, wanted: str) -> dict[str, bytes]:
        directory = tmp_path / f"into-{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        signing.source(ref=name, signed_tag=True).fetch(wanted, directory, tmp_path / "cache", silent)
        return tree(directory)

    assert fetch_tag("released", commit)["pb.yml"] == b"released"
    assert fetch_tag("refs/tags/released", commit)["pb.yml"] == b"released"
    for name, said in (
        ("light", "is no signed tag"),
        ("unsigned", "is not signed by"),
        ("foreign", "is not signed by"),
    ):
        with pytest.raises(ContentStalled, match=said):
            fetch_tag(name, wip)
    moved = git("-C", repository.bare, "rev-parse", "refs/tags/wip")
    git("-C", repository.bare, "update-ref", "refs/tags/released", moved)
    with pytest.raises(ContentStalled, match="holds the tag 'wip': it was signed as that"):
        fetch_tag("released", wip)
    with pytest.raises(ContentMoved, match=f"this run is for {commit}"):
        fetch_tag("wip", commit)


def test_rewritten_history_is_refused(signing: Signing, target: Path) -> None:
    """A signed commit that knows nothing of the applied one could be anything."""
    applied = signing.commit(signing.allowed, b"applied")
    signing.repository.git("checkout", "--quiet", "--orphan", "new")
    signing.repository.git("branch", "--delete", "--force", "main")
    signing.repository.git("branch", "--move", "main")
    other = signing.commit(signing.allowed, b"other history")
    with pytest.raises(ContentStalled, match="history was rewritten"):
        signing.source(applied).fetch(other, target, None, silent)


def test_repositories_of_sha256_work_too(tmp_path: Path, target: Path) -> None:
    """Their commit ids are longer."""
    bare, clone = tmp_path / "bare", tmp_path / "clone"
    git("init", "--quiet", "--bare", "--object-format=sha256", "--initial-branch=main", bare)
    git("init", "--quiet", "--object-format=sha256", "--initial-branch=main", clone)
    (clone / "pb.yml").write_text("x")
    git("-C", clone, "add", "--all")
    git("-C", clone, "commit", "--quiet", "--message", "one")
    git("-C", clone, "push", "--quiet", bare, "main")
    source = GitSource(content_of(bare.as_uri(), ref="main"))
    assert len(revision(source)) == 64
    assert fetched(source, target) == {"pb.yml": b"x"}


def test_a_fetch_that_ends_in_the_middle_is_asked_for_again(repository: Repository, tmp_path: Path) -> None:
    """An error of the reader leaves the cache whole, and no process behind."""
    fetching = Fetching(repository, tmp_path)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    source = repository.source()
    with pytest.raises(KeyboardInterrupt):
        source.fetch(revision(source), fetching.directory(), fetching.cache, interrupted)
    assert tree(fetching.now()) == FILES


@pytest.fixture
def proxied(tmp_path: Path) -> Iterator[tuple[Repository, TcpProxy]]:
    """A repository by http, read through a proxy that can spoil what passes."""
    with over("http") as place, TcpProxy(urlsplit(place.url).port or 0) as proxy:
        place.url = f"{proxy.endpoint}/site.git"
        yield place, proxy


def test_a_pack_cut_anywhere_never_counts(proxied: tuple[Repository, TcpProxy], tmp_path: Path) -> None:
    """At every 1/64 of the answer, headers included: ContentRetry, an empty directory, and a cache still good."""
    place, proxy = proxied
    place.put({"large": os.urandom(100_000)})
    asked = revision(place.source())
    fetching, before = Fetching(place, tmp_path), proxy.answered
    place.source().fetch(asked, fetching.directory(), None, silent)
    whole = proxy.answered - before
    for part in range(64):
        proxy.cut_after = whole * part // 64
        target = fetching.directory()
        with pytest.raises(ContentRetry):
            place.source().fetch(asked, target, fetching.cache, silent)
        assert tree(target) == {}
    proxy.cut_after = None
    target = fetching.directory()
    place.source().fetch(asked, target, fetching.cache, silent)
    assert tree(target).keys() == {"large"}


def test_a_look_at_a_server_that_drips_ends_in_time(proxied: tuple[Repository, TcpProxy]) -> None:
    """No byte is late by itself, and yet it is over at the deadline."""
    place, proxy = proxied
    proxy.drip_s = 0.05
    began = time.monotonic()
    with pytest.raises(ContentRetry, match=r"no answer within 0\.5 s"):
        place.source().look(None, 0.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("429 Too Many Requests", ContentRetry),
        ("503 Service Unavailable", ContentRetry),
        ("500 Internal Server Error", ContentRetry),
        ("401 Unauthorized", ContentStalled),
        ("403 Forbidden", ContentStalled),
        ("404 Not Found", ContentStalled),
    ],
)
def test_every_status_of_a_git_server_has_its_kind(
    proxied: tuple[Repository, TcpProxy], tmp_path: Path, status: str, kind: type[ContentError]
) -> None:
    """Ask again, or tell a person; of a look and of a fetch."""
    place, proxy = proxied
    asked = revision(place.source())
    proxy.canned = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
    with pytest.raises(ContentError) as look:
        revision(place.source())
    with pytest.raises(ContentError) as fetch:
        place.source().fetch(asked, tmp_path, None, silent)
    assert (type(look.value), type(fetch.value)) == (kind, kind)
