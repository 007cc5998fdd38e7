"""The host's own probes against faked measurements: where each limit turns, and what is said."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = ROOT / "roles/health/files"
CONF = """
HEALTH_CPU_WARN_PERCENT=80
HEALTH_CPU_DOWN_PERCENT=95
HEALTH_MEMORY_WARN_PERCENT=80
HEALTH_MEMORY_HIGH_PERCENT=85
HEALTH_MEMORY_DOWN_PERCENT=95
HEALTH_DISK_WARN_PERCENT=85
HEALTH_DISK_DOWN_PERCENT=95
HEALTH_CLOCK_WARN_MICROSECONDS=50000
HEALTH_CLOCK_DOWN_MICROSECONDS=1000000
HEALTH_CERTIFICATE_WARN_DAYS=21
HEALTH_CERTIFICATE_DOWN_DAYS=3
"""

Run = Callable[..., list[tuple[str, str, str]]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a probe: `commands` are faked programs (shell bodies), `replaced` puts files in the place of others."""

    def call(name: str, commands: dict[str, str], replaced: dict[str, str] | None = None) -> list[tuple[str, str, str]]:
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        for program, body in commands.items():
            (programs / program).write_text(f"#!/bin/bash\n{body}\n")
            (programs / program).chmod(0o755)
        library = (ROOT / "platform/bin/probe.sh").read_text().replace("export PATH=", f"export PATH={programs}:")
        (tmp_path / "probe.sh").write_text(library)
        (tmp_path / "health.conf").write_text(
            CONF + f"HEALTH_CERTIFICATE_AUTHORITY={tmp_path}/ca.pem\nHEALTH_CERTIFICATE={tmp_path}/host.pem\n"
        )
        text = (FILES / name).read_text()
        for old, new in {
            "/usr/local/lib/trading-platform/probe.sh": str(tmp_path / "probe.sh"),
            "/etc/trading-platform/health.conf": str(tmp_path / "health.conf"),
            **(replaced or {}),
        }.items():
            assert old in text or old not in (replaced or {})
            text = text.replace(old, new)
        (tmp_path / name).write_text(text)
        done = subprocess.run(["bash", tmp_path / name], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr
        return [tuple(line.split("\t")[:3]) for line in done.stdout.splitlines()]  # type: ignore[misc]

    return call


MACHINE = {"systemd-detect-virt": "exit 1"}
CONTAINER = {"systemd-detect-virt": "exit 0"}


@pytest.mark.parametrize(
    ("available", "status", "words"),
    [(21, "ok", "79 % used"), (20, "warn", "80 % used"), (15, "warn", "high"), (5, "down", "critical")],
)
def test_memory(run: Run, tmp_path: Path, available: int, status: str, words: str) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 100000 kB\nMemFree: 1 kB\nMemAvailable: {available * 1000} kB\n")
    (found,) = run("10-memory", MACHINE, {"/proc/meminfo": str(meminfo)})
    assert found[:2] == (status, "memory")
    assert words in found[2]


def df(*lines: str) -> dict[str, str]:
    return {"df": "echo 'Filesystem Type Use% IUse% Avail Mounted on'\n" + "\n".join(f"echo '{line}'" for line in lines)}


@pytest.mark.parametrize(
    ("space", "inodes", "status"),
    [("84%", "1%", "ok"), ("85%", "1%", "warn"), ("1%", "85%", "warn"), ("94%", "95%", "down"), ("95%", "-", "down"), ("1%", "-", "ok")],
)
def test_a_disk_is_as_bad_as_the_worse_of_space_and_inodes(run: Run, space: str, inodes: str, status: str) -> None:
    found = run("10-disks", df(f"/dev/sda1 ext4 {space} {inodes} 1000 /var"))
    assert [report[:2] for report in found] == [(status, "disk /var")]


def test_every_disk_is_reported_and_one_mounted_twice_only_once(run: Run) -> None:
    found = run("10-disks", df("/dev/sda1 ext4 10% 1% 9 /", "/dev/sdb1 xfs 99% 1% 9 /data", "/dev/sdb1 xfs 99% 1% 9 /bind"))
    assert [report[:2] for report in found] == [("ok", "disk /"), ("down", "disk /data")]


def test_a_disk_that_the_kernel_made_read_only_is_down(run: Run, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda1 / ext4 ro,relatime,errors=remount-ro 0 0\n")
    found = run("10-disks", df("/dev/sda1 ext4 10% 1% 9 /"), {"/proc/self/mounts": str(mounts)})
    assert found[0][0] == "down"
    assert "read-only" in found[0][2]


def test_no_disk_at_all_is_unknown(run: Run) -> None:
    assert run("10-disks", df())[0][0] == "unknown"


def chronyc(offset: str, *, stratum: str = "3", leap: str = "Normal") -> dict[str, str]:
    line = f"0A000001,10.0.0.1,{stratum},1795219101.5,{offset},0.0,0.0,1.0,0.0,0.1,0.01,0.001,64.0,{leap}"
    return {**MACHINE, "systemctl": "echo loaded; echo active", "chronyc": f"echo '{line}'"}


@pytest.mark.parametrize(
    ("commands", "status", "words"),
    [
        (chronyc("0.000012"), "ok", "12 µs off 10.0.0.1"),
        (chronyc("-0.060000"), "warn", "60000 µs"),
        (chronyc("1.5"), "down", "1500000 µs"),
        (chronyc("0.0", stratum="0", leap="Not synchronised"), "down", "not synchronised"),
        ({**MACHINE, "systemctl": "echo loaded; echo active", "chronyc": "echo '506 Cannot talk to daemon'; exit 1"}, "down", "506 Cannot"),
        ({**MACHINE, "systemctl": "echo loaded; echo inactive", "chronyc": ""}, "down", "chrony does not run"),
        ({**CONTAINER, "systemctl": "echo loaded; echo failed", "chronyc": ""}, "down", "chrony does not run"),
        ({**CONTAINER, "systemctl": "echo loaded; echo active", "chronyc": ""}, "ok", "outer machine"),
    ],
)
def test_clock(run: Run, commands: dict[str, str], status: str, words: str) -> None:
    (found,) = run("10-clock", commands)
    assert found[:2] == (status, "clock")
    assert words in found[2]


def test_failed_units_are_named(run: Run) -> None:
    listing = "echo 'a.service loaded failed failed A'; echo 'b.mount loaded failed failed B'"
    assert run("10-units", {"systemctl": listing}) == [("warn", "units", "2 failed: a.service b.mount")]
    assert run("10-units", {"systemctl": ""}) == [("ok", "units", "none has failed")]
    assert run("10-units", {"systemctl": "exit 1"})[0][0] == "unknown"


def certificate(directory: Path, days: int, name: str = "host", authority: str = "ca") -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, check=True)

    if not (directory / f"{authority}.pem").exists():
        openssl("req", "-x509", "-newkey", "ed25519", "-nodes", "-keyout", f"{authority}.key", "-out", f"{authority}.pem",
                "-subj", f"/CN={authority}", "-days", "1000")  # fmt: skip
    openssl("req", "-newkey", "ed25519", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
    openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
            "-out", f"{name}.pem", "-days", str(days))  # fmt: skip


@pytest.mark.parametrize(("days", "status"), [(30, "ok"), (20, "warn"), (2, "down"), (0, "down")])
def test_the_hosts_certificate_by_the_days_it_lasts(run: Run, tmp_path: Path, days: int, status: str) -> None:
    certificate(tmp_path, days)
    assert [report[:2] for report in run("10-certificates", {})] == [("ok", "internal authority"), (status, "host certificate")]


def test_a_certificate_of_another_authority_is_down(run: Run, tmp_path: Path) -> None:
    certificate(tmp_path, 30, authority="other")
    certificate(tmp_path, 30, name="unused")
    found = run("10-certificates", {})[1]
    assert found[:2] == ("down", "host certificate")
    assert "not issued by the internal authority" in found[2]


def test_missing_certificates_are_down_and_named(run: Run, tmp_path: Path) -> None:
    found = run("10-certificates", {})
    assert [report[0] for report in found] == ["down", "down"]
    assert f"{tmp_path}/host.pem is missing" in found[1][2]


def test_processors_are_sampled_and_a_burst_is_watched_longer(run: Run, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    # Busy in the first second, idle in the five after it.
    sleep = f"""
        if [[ -e {tmp_path}/slept ]]; then echo 'cpu 200 0 0 600 0 0 0 0 0 0'; else echo 'cpu 200 0 0 100 0 0 0 0 0 0'; fi >{stat}
        touch {tmp_path}/slept"""
    stat.write_text("cpu 100 0 0 100 0 0 0 0 0 0\n")
    (found,) = run("00-cpu", {**MACHINE, "sleep": sleep, "nproc": "echo 2"}, {"/proc/stat": str(stat)})
    assert found[:2] == ("ok", "cpu")
    assert "over 6 s" in found[2]


def test_busy_processors_are_down(run: Run, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu 100 0 0 100 0 0 0 0 0 0\n")
    sleep = f'read -r _ busy _ _ idle _ <{stat}; echo "cpu $((busy + 99)) 0 0 $((idle + 1)) 0 0 0 0 0 0" >{stat}'
    (found,) = run("00-cpu", {**MACHINE, "sleep": sleep, "nproc": "echo 2"}, {"/proc/stat": str(stat)})
    assert found[:2] == ("down", "cpu")
    assert found[2].startswith("99 % of 2 cores")
