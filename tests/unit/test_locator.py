"""URLs of content, taken apart."""

from __future__ import annotations

import pytest

from jetwatch.content_records import ContentKind as Kind
from jetwatch.locator import Locator, origin, parse


@pytest.mark.parametrize(
    ("url", "kind", "clean", "ref", "subdir"),
    [
        ("s3://bucket/prefix/", Kind.BUCKET, "s3://bucket/prefix/", None, ""),
        ("s3://bucket/prefix", Kind.BUCKET, "s3://bucket/prefix/", None, ""),
        ("s3://bucket", Kind.BUCKET, "s3://bucket/", None, ""),
        ("s3://bucket/a/b.tar.zst", Kind.OBJECT, "s3://bucket/a/b.tar.zst", None, ""),
        ("s3://bucket/a.zip", Kind.OBJECT, "s3://bucket/a.zip", None, ""),
        ("git+https://host/org/repo.git", Kind.GIT, "git+https://host/org/repo.git", None, ""),
        ("git+https://host/repo@v1.2#site/web", Kind.GIT, "git+https://host/repo", "v1.2", "site/web"),
        ("git+ssh://git@host/repo.git@main", Kind.GIT, "git+ssh://git@host/repo.git", "main", ""),
        ("git+file:///srv/repo@feature/x", Kind.GIT, "git+file:///srv/repo", "feature/x", ""),
        ("https://host:8443/x/y.tar.gz?v=1", Kind.HTTP, "https://host:8443/x/y.tar.gz?v=1", None, ""),
        ("file:///srv/site", Kind.DIRECTORY, "file:///srv/site", None, ""),
        ("file:///srv/site.tgz", Kind.FILE, "file:///srv/site.tgz", None, ""),
    ],
)
def test_each_form_has_its_kind(url: str, kind: Kind, clean: str, ref: str | None, subdir: str) -> None:
    """Scheme and suffix say what it is; ref and subdir are git's."""
    assert parse(url) == Locator(kind, clean, ref, subdir)


@pytest.mark.parametrize("url", ["https://me:p%40ss@host/x.tar", "git+https://me:p%40ss@host/repo@main"])
def test_user_info_leaves_the_url(url: str) -> None:
    """It is decoded and kept apart, and nothing that is shown holds it."""
    found = parse(url)
    assert found.secrets == {"username": "me", "password": "p@ss"}
    assert "p" + "@ss" not in repr(found)
    assert "me" not in found.url.removesuffix("repo")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ftp://host/x", "found ftp://"),
        ("/srv/site", "no scheme"),
        ("s3:///key", "needs a bucket"),
        ("s3://key:canary@bucket/x/", "do not stand in its URL"),
        ("https://host/index.html", "expected an archive"),
        ("git+https://host/repo@-x", "no name of a branch"),
        ("git+https://host/repo#../x", "no directory inside"),
        ("git+https://host/@main", "path of a repository"),
        ("git+ssh://git:pw@host/repo", "ssh takes no password"),
        ("file://host/srv", "absolute path"),
        ("https://[x/y.tar", "not a URL"),
        ("s3://bucket/{{ x }}/", "no spaces"),
        ("s3://bucket/{{x}}/", "no template"),
        ("s3://bucket/a\nb/", "no control characters"),
    ],
)
def test_what_is_no_source_is_refused_with_a_reason(url: str, sentence: str) -> None:
    """The sentence says what was expected, and repeats no secret."""
    with pytest.raises(ValueError, match=sentence) as caught:
        parse(url)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "endpoint", "expected"),
    [
        ("https://Host.example/a.tar", None, "https://host.example:443"),
        ("https://host.example:443/b/c.tar", None, "https://host.example:443"),
        ("https://host.example:8443/a.tar", None, "https://host.example:8443"),
        ("http://127.0.0.1/a.tar", None, "http://127.0.0.1:80"),
        ("git+https://host.example/repo@main", None, "https://host.example:443"),
        ("git+ssh://git@host.example/repo", None, "ssh://host.example:22"),
        ("s3://bucket/a/", None, "s3://bucket:0"),
        ("s3://bucket/a/", "https://minio.example:9000", "https://minio.example:9000"),
        ("s3://other/b/", "https://minio.example:9000/", "https://minio.example:9000"),
        ("file:///mnt/nas/one/two", None, "file:///mnt/nas"),
        ("file:///mnt/nas/three.tar", None, "file:///mnt/nas"),
        ("git+file:///srv/repo", None, "file:///srv/repo"),
        ("https://host:99999/a.tar", None, "https://host:443"),
    ],
)
def test_what_may_be_slow_together_has_one_origin(url: str, endpoint: str | None, expected: str) -> None:
    """Scheme, host and port, whatever the path; of a path on disk the place where it may be mounted."""
    assert origin(url, endpoint) == expected
