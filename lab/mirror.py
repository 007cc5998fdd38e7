"""Where Debian packages come from: the mirrors that this machine's own apt configuration names.

Reads both forms of apt sources, picks the entries of the running release, and re-words them for another
release. No mirror is named in this project; a machine behind a company mirror builds its lab from that mirror.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lab.commands import run
from lab.report import LabError

_APT = Path("/etc/apt")
_CODENAME_IN_SUITE = re.compile(r"^(?P<codename>[a-z]+)(?P<rest>[-/].*)?$")
# Settings that tell apt how to treat a mirror: what holds for this machine's mirror holds for the hosts'.
_SETTINGS_TO_KEEP = ("Acquire::Check-Valid-Until", "Acquire::Check-Date")


@dataclass(frozen=True)
class Source:
    """One archive: a base URI, one suite, and how its signature is checked."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


def one_line_sources(text: str) -> Iterator[Source]:
    """Entries of a sources.list in the one-line form."""
    for line in text.splitlines():
        found = re.match(r"^\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>[^#]*)", line)
        if found:
            options = dict(option.partition("=")[::2] for option in (found["options"] or "").split())
            yield Source(
                found["uri"].rstrip("/"),
                found["suite"],
                tuple(found["components"].split()),
                options.get("signed-by", ""),
                options.get("trusted") == "yes",
            )


def deb822_sources(text: str) -> Iterator[Source]:
    """Entries of a .sources file; one Source for every URI and suite of a stanza."""
    for stanza in re.split(r"\n\s*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(
                    uri.rstrip("/"),
                    suite,
                    tuple(fields.get("components", "").split()),
                    fields.get("signed-by", ""),
                    fields.get("trusted", "").lower() == "yes",
                )


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    key = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[key] = f"{fields.get(key, '')} {line.strip()}".strip()
        elif ":" in line:
            key, _, value = line.partition(":")
            key = key.strip().lower()
            fields[key] = value.strip()
    return fields


def for_release(sources: list[Source], codename: str, release: str) -> list[Source]:
    """The base, update and security archives of `release`, taken from the entries for `codename`.

    Raises LabError when the machine names no base archive of its own release.
    """
    chosen: dict[str, Source] = {}
    for source in sources:
        found = _CODENAME_IN_SUITE.match(source.suite)
        if not found or "main" not in source.components or not re.match(r"https?://", source.uri):
            continue
        rest = found["rest"] or ""
        if found["codename"] in (codename, "stable") and rest in ("", "-updates", "-security"):
            chosen.setdefault(rest, replace(source, suite=f"{release}{rest}", components=("main",)))
    if "" not in chosen:
        raise LabError(
            f"this machine's apt configuration names no archive with the suite {codename!r} and the component 'main'; "
            f"found: {', '.join(sorted({source.suite for source in sources})) or 'none'}. Add it to {_APT}/sources.list"
        )
    return [chosen[rest] for rest in ("", "-updates", "-security") if rest in chosen]


def of_this_machine(release: str) -> list[Source]:
    """The archives for `release` as this machine's apt would reach them."""
    sources: list[Source] = []
    for file in [_APT / "sources.list", *sorted((_APT / "sources.list.d").glob("*"))]:
        if file.suffix == ".list" and file.is_file():
            sources += one_line_sources(file.read_text())
        elif file.suffix == ".sources" and file.is_file():
            sources += deb822_sources(file.read_text())
    codename = _os_release().get("VERSION_CODENAME", "")
    return for_release(sources, codename, release)


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def through_cache(source: Source) -> Source:
    """The same archive as asked of the package cache, which speaks plain HTTP and fetches https for us."""
    if source.uri.startswith("https://"):
        return replace(source, uri="http://HTTPS///" + source.uri.removeprefix("https://"))
    return source


def as_one_line(source: Source) -> str:
    """The entry in the one-line form."""
    options = [f"signed-by={source.signed_by}"] if source.signed_by.startswith("/") else []
    options += ["trusted=yes"] if source.trusted else []
    shown = f"[{' '.join(options)}] " if options else ""
    return f"deb {shown}{source.uri} {source.suite} {' '.join(source.components)}"


def as_deb822(source: Source) -> str:
    """The entry as a stanza of a .sources file."""
    lines = [
        "Types: deb",
        f"URIs: {source.uri}",
        f"Suites: {source.suite}",
        f"Components: {' '.join(source.components)}",
    ]
    lines += [f"Signed-By: {source.signed_by}"] if source.signed_by.startswith("/") else []
    lines += ["Trusted: yes"] if source.trusted else []
    return "\n".join(lines) + "\n"


def settings() -> list[str]:
    """This machine's apt settings about mirrors that hosts need as well, as lines of an apt.conf."""
    return [line for line in run(["apt-config", "dump"]).splitlines() if line.split(" ", 1)[0] in _SETTINGS_TO_KEEP]


def outer_proxy() -> str:
    """The HTTP proxy through which this machine's apt reaches its mirrors, or nothing."""
    found = re.search(r'^Acquire::http::Proxy "(http://[^"]+)";', run(["apt-config", "dump"]), re.MULTILINE)
    return found[1].rstrip("/") if found else ""
