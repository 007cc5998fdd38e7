"""Which archives the lab takes from a machine's apt configuration."""

import pytest

from lab.mirror import Source, as_deb822, as_one_line, deb822_sources, for_release, one_line_sources, through_cache
from lab.report import LabError

DEB822 = """\
# the archive
Types: deb
# a note between two fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb deb-src
URIs: https://mirror.example/security/
Suites: bookworm-security
Components: main contrib

Types: deb
Enabled: no
URIs: http://mirror.example/off
Suites: bookworm
Components: main
"""

ONE_LINE = """\
# deb http://mirror.example/commented bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/keyrings/company.gpg] http://mirror.example/debian/ bookworm main non-free # ours
deb http://other.example/tool tool-bookworm main
"""


def test_deb822_gives_one_source_for_each_enabled_uri_and_suite() -> None:
    found = list(deb822_sources(DEB822))
    assert [(source.uri, source.suite) for source in found] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("https://mirror.example/security", "bookworm-security"),
    ]
    assert found[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"


def test_deb822_with_a_key_written_into_the_stanza_keeps_it_from_the_other_fields() -> None:
    text = "Types: deb\nURIs: http://m.example/d\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN\n .\n abc\n"
    (found,) = deb822_sources(text)
    assert found.components == ("main",)
    assert "Signed-By" not in as_deb822(found)


def test_one_line_reads_options_and_skips_comments_and_source_packages() -> None:
    found = list(one_line_sources(ONE_LINE))
    assert found[0] == Source("http://mirror.example/debian", "bookworm", ("main", "non-free"), "/etc/apt/keyrings/company.gpg")
    assert [source.uri for source in found] == ["http://mirror.example/debian", "http://other.example/tool"]


def test_other_release_has_the_same_archives_with_its_own_suites() -> None:
    chosen = for_release(list(deb822_sources(DEB822)), "bookworm", "trixie")
    assert [(source.uri, source.suite) for source in chosen] == [
        ("http://mirror.example/debian", "trixie"),
        ("http://mirror.example/debian", "trixie-updates"),
        ("https://mirror.example/security", "trixie-security"),
    ]
    assert all(source.components == ("main",) for source in chosen)


def test_archives_of_other_software_are_not_taken_for_debian() -> None:
    with pytest.raises(LabError, match="tool-bookworm"):
        for_release([Source("http://other.example/tool", "tool-bookworm", ("main",))], "bookworm", "bookworm")


def test_local_archives_are_left_out_because_hosts_cannot_reach_them() -> None:
    with pytest.raises(LabError, match="names no archive"):
        for_release([Source("file:/srv/mirror", "bookworm", ("main",))], "bookworm", "bookworm")


def test_first_named_archive_of_a_suite_wins() -> None:
    twice = [Source(f"http://{name}.example/debian", "bookworm", ("main",)) for name in ("near", "far")]
    assert [source.uri for source in for_release(twice, "bookworm", "bookworm")] == ["http://near.example/debian"]


def test_https_archive_is_asked_of_the_cache_in_its_own_spelling() -> None:
    asked = through_cache(Source("https://mirror.example/debian", "bookworm", ("main",)))
    assert asked.uri == "http://HTTPS///mirror.example/debian"


def test_entry_survives_being_written_and_read_again_in_both_forms() -> None:
    source = Source("http://mirror.example/debian", "bookworm", ("main",), "/etc/apt/keyrings/company.gpg", trusted=True)
    assert list(one_line_sources(as_one_line(source))) == [source]
    assert list(deb822_sources(as_deb822(source))) == [source]
