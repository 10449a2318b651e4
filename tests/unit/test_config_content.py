"""`content` in watch.yml: both forms, options by kind, the fetch that comes of it, secrets apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jetwatch.config.content import LIMITS
from jetwatch.config.effective import as_text
from jetwatch.config.load import load
from jetwatch.config.model import Retry, WatchSettings
from jetwatch.content_records import ContentKind, Limits
from jetwatch.errors import ConfigError


def watch_of(tmp_path: Path, text: str) -> WatchSettings:
    """The one watch of this text."""
    (tmp_path / "web.yml").write_text(text)
    settings, _ = load(tmp_path / "web.yml")
    return settings.watches["web"]


def problems_of(tmp_path: Path, text: str) -> str:
    """What is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        watch_of(tmp_path, text)
    return str(caught.value)


def test_a_url_alone_is_a_source(tmp_path: Path) -> None:
    """No check, no download command; a failed run is tried again."""
    watch = watch_of(tmp_path, "content: s3://bucket/site/\njet_command: 'true'\n")
    assert watch.content is not None
    assert (watch.content.kind, watch.content.url) == (ContentKind.BUCKET, "s3://bucket/site/")
    assert watch.check is None
    assert watch.retry == Retry()
    assert watch.download is not None
    assert watch.download.words is not None
    assert watch.download.words[3:6] == ("fetch", "s3://bucket/site/", "{{ download_path }}")


def test_retry_off_stays_off(tmp_path: Path) -> None:
    """Who says so has the seed's way: the next check decides."""
    assert watch_of(tmp_path, "content: file:///srv\njet_command: 'true'\nretry: off\n").retry is None


def test_options_reach_the_fetch_and_credentials_only_its_environment(tmp_path: Path) -> None:
    """What is secret stands in no command, no repr, and no effective configuration."""
    text = (
        "content:\n  url: git+https://me:canary@host/repo@main#web\n  ca_file: ca.pem\n"
        "  limits: {bytes: 1 MiB, entries: 10}\njet_command: 'true'\nuser: nobody\n"
    )
    watch = watch_of(tmp_path, text)
    assert watch.content is not None
    assert watch.download is not None
    assert watch.content.limits == Limits(total_bytes=1024**2, entries=10)
    options = json.loads(watch.download.env["JETWATCH_CONTENT_OPTIONS"])
    assert options["ca_file"] == str(tmp_path / "ca.pem")
    assert json.loads(watch.secrets["download"]["JETWATCH_CONTENT_SECRETS"]) == {"username": "me", "password": "canary"}
    assert watch.download.user == "nobody"
    settings, _ = load(tmp_path / "web.yml")
    assert "canary" not in repr(settings) + as_text(settings)


def test_the_effective_configuration_loads_again(tmp_path: Path) -> None:
    """What check-config prints says the same."""
    content = "content: {url: file:///srv, checksum: true, settle: 1}"
    timeouts = "timeouts: {check: 5, download: 7}"
    watch = watch_of(tmp_path, f"{content}\n{timeouts}\njet_command: 'true'\n")
    assert (watch.timeouts.check_s, watch.download and watch.download.timeout_s) == (5, 7)
    (tmp_path / "again.yml").write_text(as_text(load(tmp_path / "web.yml")[0]))
    again = load(tmp_path / "again.yml")[0].watches["web"]
    assert again.content == watch.content
    assert again.download == watch.download
    assert again.timeouts == watch.timeouts


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:8080"])
def test_plain_http_is_taken_from_this_very_machine(tmp_path: Path, host: str) -> None:
    """Nobody is in between."""
    assert watch_of(tmp_path, f"content: 'http://{host}/x.tar'\njet_command: 'true'").content is not None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("content: ftp://host/x", "expected s3://"),
        ("content: {marker: x}", "`url` is missing"),
        ("content: {url: 'https://host/x.tar', marker: x}", "no use for `marker`"),
        ("content: {url: file:///x, endpoint: y}", "no use for `endpoint`"),
        ("content: {url: s3://b/, markr: x}", "markr"),
        ("content: {url: 'http://host/x.tar'}", "not protected"),
        ("content: {url: 'http://127.0.0.1.example.org/x.tar'}", "not protected"),
        ("content: [s3://b/]", "a URL, or a mapping"),
        ("content: s3://b/\ndownload_command: 'true'", "leave out"),
        ("content: {url: s3://b/, access_key_id: a}", "`access_key_id` cannot work without `secret_access_key`"),
        ("content: {url: s3://b/, secret_access_key: a}", "`secret_access_key` cannot work without `access_key_id`"),
        ("content: {url: s3://b/, session_token: a}", "`session_token` cannot work without `access_key_id`"),
        (
            "content: {url: s3://b/, anonymous: true, access_key_id: a, secret_access_key: b}",
            "`anonymous` and `access_key_id` exclude each other",
        ),
        ("content: {url: s3://b/, anonymous: true, profile: p}", "`anonymous` and `profile` exclude"),
        (
            "content: {url: s3://b/, profile: p, access_key_id: a, secret_access_key: b}",
            "`profile` and `access_key_id` exclude",
        ),
        ("content: {url: 'https://u:p@h/x.tar', bearer_token: t}", "`bearer_token` and `password` exclude"),
        ("content: git+http://u:p@h/x", "in the open: write git+https://"),
        ("content: {url: git+https://h/x, ssh_key: k}", "`ssh_key` has no use over git+https://"),
        ("content: {url: git+ssh://h/x, password: p}", "`password` has no use over git+ssh://"),
        ("content: {url: git+file:///x, ca_file: p}", "`ca_file` has no use over git+file://"),
        ("content: {url: file:///x, limits: {ratio: 0.5}}", "a number, 1 to"),
    ],
)
def test_what_does_not_fit_is_a_problem_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    """Each with file, line and path."""
    said = problems_of(tmp_path, f"{text}\njet_command: 'true'\n")
    assert sentence in said
    assert "web.yml:" in said


def test_a_user_without_a_password_is_a_warning(tmp_path: Path) -> None:
    """It is not sent, and a public repository needs none."""
    (tmp_path / "web.yml").write_text("content: git+https://token@host/repo\njet_command: 'true'\n")
    (warning,) = load(tmp_path / "web.yml")[1]
    assert "a token goes in `password`" in warning.message


def test_every_limit_is_a_key(tmp_path: Path) -> None:
    """Each field of the record can be set, and the fetch is told."""
    limits = "{bytes: 1 MiB, entries: 10, depth: 3, ratio: 1.5, min_speed: 2KiB}"
    watch = watch_of(tmp_path, f"content: {{url: file:///x, limits: {limits}}}\njet_command: 'true'\n")
    assert watch.content is not None
    assert watch.content.limits == Limits(1024**2, 10, 3, 1.5, 2048)
    assert {key.field for key in LIMITS.keys} == set(Limits.__struct_fields__)
    assert watch.download is not None
    assert json.loads(watch.download.env["JETWATCH_CONTENT_OPTIONS"])["limits"]["ratio"] == 1.5


def test_a_fetch_inherits_credentials_but_not_for_another_account(tmp_path: Path) -> None:
    """What the agent was started with is not handed to whoever the watch names."""
    text = "content: s3://bucket/\njet_command: 'true'\n"
    own, others = watch_of(tmp_path, text).download, watch_of(tmp_path, f"{text}user: nobody\n").download
    assert own is not None
    assert others is not None
    assert "AWS_*" in own.inherits
    assert others.inherits == ()


def test_what_a_commit_has_to_prove_is_a_mapping(tmp_path: Path) -> None:
    """Relative to the file, shown as it was written, and handed to the fetch."""
    content = "content: {url: 'git+https://host/x.git', verify: {allowed_signers: keys}}"
    watch = watch_of(tmp_path, f"{content}\njet_command: 'true'\n")
    assert watch.content is not None
    assert watch.content.allowed_signers == str(tmp_path / "keys")
    assert watch.download is not None
    assert json.loads(watch.download.env["JETWATCH_CONTENT_OPTIONS"])["allowed_signers"] == str(tmp_path / "keys")
    (tmp_path / "again.yml").write_text(as_text(load(tmp_path / "web.yml")[0]))
    assert load(tmp_path / "again.yml")[0].watches["web"].content == watch.content


def test_what_a_signature_binds_is_said(tmp_path: Path) -> None:
    """All of it is shown as it was written and handed to the fetch; without a first commit there is a warning."""
    start = "a" * 40
    verify = f"{{allowed_signers: keys, descends_from: {start}, signed_tag: true}}"
    content = f"content: {{url: 'git+https://host/x.git@v1', verify: {verify}}}"
    watch = watch_of(tmp_path, f"{content}\njet_command: 'true'\n")
    assert watch.content is not None
    assert watch.download is not None
    options = json.loads(watch.download.env["JETWATCH_CONTENT_OPTIONS"])
    assert (options["descends_from"], options["signed_tag"]) == (start, True)
    assert load(tmp_path / "web.yml")[1] == ()
    (tmp_path / "again.yml").write_text(as_text(load(tmp_path / "web.yml")[0]))
    assert load(tmp_path / "again.yml")[0].watches["web"].content == watch.content
    (tmp_path / "web.yml").write_text((tmp_path / "web.yml").read_text().replace(f"descends_from: {start}, ", ""))
    (warning,) = load(tmp_path / "web.yml")[1]
    assert "`descends_from` names a commit that it must come after" in warning.message


@pytest.mark.parametrize("ref", ["", "@HEAD", "@refs/heads/main", f"@{'b' * 40}"])
def test_a_signed_tag_needs_the_name_of_a_tag(tmp_path: Path, ref: str) -> None:
    """A branch or a commit has no name that could be signed."""
    content = f"content: {{url: 'git+https://host/x.git{ref}', verify: {{allowed_signers: keys, signed_tag: true}}}}"
    assert "needs the name of a tag" in problems_of(tmp_path, f"{content}\njet_command: 'true'\n")


@pytest.mark.parametrize(
    ("verify", "sentence"),
    [
        ("{}", "`allowed_signers`"),
        ("keys", "`allowed_signers`"),
        ("{allowed_signer: keys}", "allowed_signers"),
        ("{allowed_signers: ~}", "`allowed_signers`"),
    ],
)
def test_a_proof_that_is_none_is_a_problem(tmp_path: Path, verify: str, sentence: str) -> None:
    """It must not mean that nothing is verified."""
    content = f"content: {{url: 'git+https://host/x.git', verify: {verify}}}"
    assert sentence in problems_of(tmp_path, f"{content}\njet_command: 'true'\n")


@pytest.mark.parametrize(
    "content",
    [
        "http://host/x.tar",
        "git+http://host/r.git@main",
        "{url: 's3://b/p/', endpoint: 'http://host:9000'}",
        "{url: 's3://b/p/', endpoint: 'HTTP://host'}",
        "{url: 's3://b/k.tar', endpoint: 'http://127.0.0.1.example.com'}",
        "{url: 's3://b/k.tar', endpoint: 'http://[::'}",
    ],
)
def test_plain_http_from_another_machine_is_refused(tmp_path: Path, content: str) -> None:
    """Who is on the way decides what comes; the sentence says what to write instead, and what takes it all the same."""
    said = problems_of(tmp_path, f"content: {content}\njet_command: 'true'\n")
    assert "is not protected on its way: use " in said
    assert "`insecure: true`" in said


@pytest.mark.parametrize(
    "content",
    [
        "{url: 'http://host/x.tar', insecure: true}",
        "{url: 'git+http://host/r.git', insecure: true}",
        "{url: 's3://b/p/', endpoint: 'http://host:9000', insecure: true}",
    ],
)
def test_somebody_who_says_insecure_is_warned_at_each_reading(tmp_path: Path, content: str) -> None:
    """At the key that says it."""
    (tmp_path / "web.yml").write_text(f"content: {content}\njet_command: 'true'\n")
    (warning,) = load(tmp_path / "web.yml")[1]
    assert warning.path == "content.insecure"
    assert "whoever is on it decides what comes" in warning.message


@pytest.mark.parametrize(
    "content",
    [
        "http://127.0.0.1:8000/x.tar",
        "git+http://localhost/r.git",
        "{url: 's3://b/p/', endpoint: 'http://[::1]:9000'}",
    ],
)
def test_plain_http_from_this_machine_is_taken_with_a_warning(tmp_path: Path, content: str) -> None:
    """A port belongs to whoever takes it."""
    (tmp_path / "web.yml").write_text(f"content: {content}\njet_command: 'true'\n")
    (warning,) = load(tmp_path / "web.yml")[1]
    assert "any account of this machine may answer at that port" in warning.message


@pytest.mark.parametrize(
    "content",
    [
        f"{{url: 'http://host/x.tar', sha256: {'0' * 64}}}",
        "{url: 'git+http://host/r.git', verify: {allowed_signers: signers}}",
        f"{{url: 's3://b/k.tar', endpoint: 'http://host', sha256: {'0' * 64}}}",
        "https://host/x.tar",
        "{url: 's3://b/p/', endpoint: 'https://host'}",
    ],
)
def test_what_is_proven_may_come_on_any_way(tmp_path: Path, content: str) -> None:
    """By a digest, a signature, or the way itself."""
    (tmp_path / "signers").write_text("")
    (tmp_path / "web.yml").write_text(f"content: {content}\njet_command: 'true'\n")
    said = [warning.message for warning in load(tmp_path / "web.yml")[1]]
    assert not any("http" in message for message in said)


def test_credentials_do_not_travel_in_the_open(tmp_path: Path) -> None:
    """Not even where a digest proves what comes back, and whatever is said."""
    content = f"{{url: 'http://host/x.tar', sha256: {'0' * 64}, insecure: true, bearer_token: abc}}"
    assert "travel in the open" in problems_of(tmp_path, f"content: {content}\njet_command: 'true'\n")


def test_insecure_means_nothing_on_a_way_that_is_secure(tmp_path: Path) -> None:
    """It is a slip, and not a wish."""
    content = "{url: 'https://host/x.tar', insecure: true}"
    assert "`insecure` has no use over https://" in problems_of(tmp_path, f"content: {content}\njet_command: 'true'\n")
