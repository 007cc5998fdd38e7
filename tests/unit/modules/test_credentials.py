"""trading.platform.credentials: only what differs is written, and no content ever shows."""

from __future__ import annotations

import base64
import os
import stat
from types import SimpleNamespace

import pytest


@pytest.fixture
def store(credentials, tmp_path, monkeypatch):
    """A credential directory over a fake systemd-creds that seals by base64 with the name."""

    def fake(arguments, given):
        name = next(argument for argument in arguments if argument.startswith("--name="))[7:]
        if arguments[0] == "encrypt":
            assert "--with-key=host" in arguments
            return SimpleNamespace(returncode=0, stdout=base64.b64encode(name.encode() + b"\0" + given), stderr=b"")
        sealed_name, _, content = base64.b64decode(given, validate=True).partition(b"\0")
        return SimpleNamespace(returncode=int(sealed_name != name.encode()), stdout=content, stderr=b"")

    monkeypatch.setattr(credentials, "run_systemd_creds", fake)
    monkeypatch.setattr(credentials, "is_private", lambda path: stat.S_IMODE(os.stat(path).st_mode) == 0o600)

    def converge(wanted, removed=(), check_mode=False):
        return credentials.converge(str(tmp_path / "store"), wanted, list(removed), check_mode)

    return SimpleNamespace(converge=converge, directory=tmp_path / "store")


def test_first_run_writes_private_files(store):
    result = store.converge({"a": "one", "b": "two"})
    assert result["changed_names"] == ["a", "b"]
    assert stat.S_IMODE((store.directory / "a").stat().st_mode) == 0o600
    assert sorted(path.name for path in store.directory.iterdir()) == ["a", "b"]


def test_second_run_leaves_files_untouched(store):
    store.converge({"a": "one"})
    before = (store.directory / "a").stat().st_ino
    result = store.converge({"a": "one"})
    assert (result["changed"], (store.directory / "a").stat().st_ino) == (False, before)


def test_only_the_differing_credential_is_written(store):
    store.converge({"a": "one", "b": "two"})
    assert store.converge({"a": "one", "b": "three"})["changed_names"] == ["b"]


def test_credential_sealed_under_another_name_is_written_again(store):
    store.converge({"a": "one", "b": "one"})
    (store.directory / "b").write_bytes((store.directory / "a").read_bytes())
    assert store.converge({"a": "one", "b": "one"})["changed_names"] == ["b"]


def test_check_mode_writes_nothing(store):
    assert store.converge({"a": "one"}, check_mode=True)["changed"]
    assert not store.directory.exists()


def test_removed_name_is_removed_once(store):
    store.converge({"a": "one"})
    assert store.converge({}, removed=["a"])["removed_names"] == ["a"]
    assert not store.converge({}, removed=["a"])["changed"]


def test_content_is_nowhere_in_the_result(store):
    assert "hush-hush" not in repr(store.converge({"a": "hush-hush"}))


@pytest.mark.parametrize(
    ("wanted", "removed", "complaint"),
    [
        ({"../a": "x"}, [], "not usable"),
        ({".hidden": "x"}, [], "not usable"),
        ({"a": ""}, [], "is empty"),
        ({"a": 5}, [], "must be text, not int"),
        ({"a": "x"}, ["a"], "both wanted and removed"),
    ],
)
def test_bad_input_is_refused(store, credentials, wanted, removed, complaint):
    with pytest.raises(credentials.CredentialError, match=complaint):
        store.converge(wanted, removed)
