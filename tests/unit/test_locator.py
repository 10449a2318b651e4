"""URLs of content, taken apart."""

from __future__ import annotations

import pytest

from jetwatch.content_records import ContentKind as Kind
from jetwatch.locator import Locator, parse


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
