"""Running the playbook against a lab, and telling what came of it."""

import contextlib
import os
import subprocess

from lab import login, machine, state
from lab.report import LabError, say
from lab.state import Lab

_INTERRUPT_DEADLINE = 15


def run(lab: Lab) -> int:
    """Run ansible/site.yml on the lab's hosts, then print health, address and how to log in; the playbook's exit code."""
    inventory = lab.directory / "inventory"
    command = [str(state.REPO / ".venv/bin/ansible-playbook"), "--inventory", str(inventory), "ansible/site.yml"]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(state.REPO / "ansible.cfg"),
        "ANSIBLE_VAULT_PASSWORD_FILE": str(lab.directory / "vault-password"),
        "PATH": f"{state.REPO / '.venv/bin'}:{os.environ.get('PATH', '')}",
    }
    say(f"lab {lab.name}: ansible-playbook -i {inventory} ansible/site.yml")
    code = _to_the_end(subprocess.Popen(command, cwd=state.REPO, env=environment, stdin=subprocess.DEVNULL))
    if code != 0:
        raise LabError(f"ansible/site.yml failed with exit code {code}; the same command goes on where it stopped")
    say(f"lab {lab.name}: converged")
    return _report(lab)


def _to_the_end(playbook: subprocess.Popen[bytes]) -> int:
    """Wait for the playbook; whoever interrupts us interrupts it, so that none goes on unseen."""
    try:
        return playbook.wait()
    except BaseException:
        playbook.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            playbook.wait(_INTERRUPT_DEADLINE)
        raise


def _report(lab: Lab) -> int:
    """What the operator wants to see next; the exit code of the health check."""
    first = lab.hosts[0]
    health = subprocess.run([*machine.enter_command(lab, first), "health_check.sh"], stdin=subprocess.DEVNULL, timeout=120, check=False)
    print(f"\n{login.access_file(lab).read_text().rstrip()}")
    # The certificate is the lab's own and its name is known here only: curl has to be told both.
    print("\nfrom this machine, with a token that is good for a while (`bin/lab token` prints another):")
    print(login.command(lab, login.token(lab)))
    print(f"\nshell:  bin/lab ssh {first.name}" + ("" if lab.name == state.DEFAULT else f" --name {lab.name}"), flush=True)
    return health.returncode
