"""The command line: what each verb does, from its parts."""

import argparse
import json
import signal
import sys
from dataclasses import replace
from typing import NoReturn

from lab import cgroup, converge, faults, image, inventory, login, machine, network, package_cache, preflight, services, state, teardown
from lab.commands import become
from lab.report import LabError, say
from lab.state import Lab


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return the exit code: 0 done, 1 failed or refused, or what the command in the host returned."""
    before, command = split(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(before)
    options.command = command
    # Being told to stop is being interrupted: what was started on our behalf ends with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        preflight.check_machine()
        return int(options.verb(options) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("lab: interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """What is meant for us, and after the first `--` the command for the host, in which every option is its own."""
    if "--" not in arguments:
        return arguments, []
    place = arguments.index("--")
    return arguments[:place], arguments[place + 1 :]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bin/lab", description="Real systemd hosts on this machine, and the platform on them.", allow_abbrev=False
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", default=state.DEFAULT, help="which lab, when several run side by side (default: %(default)s)")

    up = verbs.add_parser("up", parents=[named], help="boot the hosts and converge them; what runs already is kept")
    up.add_argument("--topology", choices=tuple(state.TOPOLOGIES), help="one host or three (default: single, or what the lab has)")
    up.add_argument("--release", choices=state.RELEASES, help="Debian release of the hosts (default: bookworm, or what the lab has)")
    up.add_argument("--hosts-only", action="store_true", help="stop when the bare hosts can be logged in to")
    up.add_argument("--fresh", action="store_true", help="throw the lab's hosts away first")
    up.set_defaults(verb=_up)

    down = verbs.add_parser("down", parents=[named], help="remove the lab and everything of it")
    down.add_argument("--all", action="store_true", help="every lab of this machine")
    down.add_argument("--purge", action="store_true", help="the host images and the cached packages as well")
    down.set_defaults(verb=_down)

    status = verbs.add_parser("status", help="what runs, on every lab")
    status.add_argument("--json", action="store_true", help="for programs")
    status.add_argument("--name", help="only this lab")
    status.set_defaults(verb=_status)

    for verb, function, text in (
        ("ssh", _ssh, "log in to a host as its operator (sudo needs no password)"),
        ("exec", _exec, "run a command in a host as root, without the network"),
        ("kill", _kill, "power cut: every process of the host is gone at once"),
        ("start", _start, "switch a host on and wait until it can be logged in to"),
        ("reboot", _reboot, "restart a host in order and wait until it can be logged in to"),
    ):
        one = verbs.add_parser(verb, parents=[named], help=text)
        if verb in ("ssh", "exec"):
            one.usage = f"bin/lab {verb} [-h] [--name NAME] HOST {'[-- CMD]' if verb == 'ssh' else '-- CMD'}"
        one.add_argument("host", metavar="HOST")
        one.set_defaults(verb=function)

    token = verbs.add_parser("token", parents=[named], help="log in to the platform and print an access token")
    token.set_defaults(verb=_token)

    cut = verbs.add_parser("partition", parents=[named], help="cut one host off from all others, or the named hosts from each other")
    cut.add_argument("hosts", nargs="+", metavar="HOST")
    cut.add_argument("--one-way", action="store_true", help="lose only what the first host sends")
    cut.set_defaults(verb=_partition)
    heal = verbs.add_parser("heal", parents=[named], help="undo every partition")
    heal.set_defaults(verb=_heal)
    return parser


def _up(options: argparse.Namespace) -> int:
    if not options.hosts_only:
        topology = options.topology or getattr(state.find(options.name), "topology", "single")
        inventory.check(topology)
    with state.locked(f"lab-{state.check_name(options.name)}"):
        lab = _decide(options)
        if options.fresh:
            lab = _anew(lab, options)
        preflight.check_room(lab)
        lab = _with_image(lab)
        _boot(lab)
    if options.hosts_only:
        say(f"lab {lab.name}: {len(lab.hosts)} bare host(s) ready; inventory: {lab.directory / 'inventory'}")
        return 0
    return converge.run(lab)


def _decide(options: argparse.Namespace) -> Lab:
    """The lab as it was made, or a new one with its own number; raises LabError when asked for something else."""
    with state.locked("numbers"):
        lab = state.find(options.name)
        if lab is None:
            return _new(options)
        asked = {what: getattr(options, what) for what in ("topology", "release") if getattr(options, what)}
        for what, wanted in asked.items():
            has = getattr(lab, what)
            if wanted != has and not options.fresh:
                raise LabError(
                    f"lab {lab.name} has {what} {has}, not {wanted}; "
                    f"`bin/lab up --name {lab.name} --fresh --{what} {wanted}` makes it anew "
                    "and throws its hosts away"
                )
        return lab


def _new(options: argparse.Namespace) -> Lab:
    teardown.forget(options.name)
    teardown.clear_orphans()
    number = network.free_number(options.name, {other.number for other in state.every()})
    lab = Lab(options.name, number, options.topology or "single", options.release or "bookworm", "")
    preflight.check_room(lab)
    state.save(lab)
    return lab


def _anew(lab: Lab, options: argparse.Namespace) -> Lab:
    """The same lab without hosts, of the topology and release that were asked for."""
    teardown.remove(lab)
    options.topology = options.topology or lab.topology
    options.release = options.release or lab.release
    with state.locked("numbers"):
        return _new(options)


def _with_image(lab: Lab) -> Lab:
    """The lab with an image below its hosts, which keep the one they were made from."""
    package_cache.ensure()
    if lab.image and image.path(lab.image).is_dir():
        return lab
    if any(host.directory.exists() for host in lab.hosts):
        raise LabError(
            f"the hosts of lab {lab.name} are layers above the image {lab.image}, which is gone; "
            f"`bin/lab up --name {lab.name} --fresh` makes them anew"
        )
    lab = replace(lab, image=image.ensure(lab.release))
    state.save(lab)
    return lab


def _boot(lab: Lab) -> None:
    """Network, services, then all hosts at once."""
    _serve(lab)
    say(f"lab {lab.name}: network {lab.network}, names, packages and ACME at {lab.gateway}")
    inventory.write(lab)
    for host in lab.hosts:
        machine.boot(lab, host)
    for host in lab.hosts:
        machine.wait_until_up(lab, host)
        machine.announce(host)


def _serve(lab: Lab) -> None:
    """What hosts find when they boot; what is there already stays."""
    package_cache.ensure()
    network.up(lab)
    services.up(lab)


def _token(options: argparse.Namespace) -> int:
    lab = state.find(state.check_name(options.name))
    if lab is None:
        raise LabError(f"there is no lab {options.name}; `bin/lab up --name {options.name}` makes one")
    print(login.token(lab))
    return 0


def _down(options: argparse.Namespace) -> int:
    for name in state.names() if options.all else [options.name]:
        with state.locked(f"lab-{state.check_name(name)}"):
            _remove(name)
    with state.locked("numbers"):
        teardown.clear_orphans()
        if not state.names():
            package_cache.stop()
            cgroup.remove_top()
        if options.purge:
            _purge()
    return 0


def _purge() -> None:
    """Remove what labs share, as far as no lab needs it."""
    if state.names():
        for removed in image.remove_unused():
            say(f"image {removed}: removed")
        say(f"cached packages: kept, still used by {', '.join(state.names())}")
        return
    image.purge()
    package_cache.purge()
    state.remove_empty()
    say("images and cached packages: removed")


def _remove(name: str) -> None:
    try:
        lab = state.find(name)
    except LabError:
        lab = None
    if lab is not None:
        teardown.remove(lab)
        say(f"lab {name}: removed, nothing left")
    elif name in state.names():
        teardown.forget(name)
        say(f"lab {name}: removed, though it could not be read")
    else:
        say(f"lab {name}: not there")


def _status(options: argparse.Namespace) -> int:
    labs = [state.get(options.name)] if options.name else state.every()
    if options.json:
        print(json.dumps([_facts(lab) for lab in labs], indent=2))
    elif labs:
        print("\n".join(line for lab in labs for line in _lines(lab)))
    else:
        print("no lab on this machine; type: bin/lab up")
    return 0


def _lines(lab: Lab) -> list[str]:
    lines = [f"{lab.name}: {lab.topology}, {lab.release}, {lab.network}, inventory {lab.directory / 'inventory'}"]
    lines += [f"  {host.name}  {host.address}  {'running' if machine.running(lab, host) else 'off'}" for host in lab.hosts]
    return lines + [f"  cut: {cut}" for cut in faults.current(lab)]


def _facts(lab: Lab) -> dict[str, object]:
    return {
        "name": lab.name,
        "number": lab.number,
        "topology": lab.topology,
        "release": lab.release,
        "network": lab.network,
        "directory": str(lab.directory),
        "inventory": str(lab.directory / "inventory"),
        "hosts": [{"name": host.name, "address": host.address, "running": machine.running(lab, host)} for host in lab.hosts],
        "cuts": faults.current(lab),
    }


def _ssh(options: argparse.Namespace) -> NoReturn:
    lab = state.get(options.name)
    host = lab.host(options.host)
    become([*machine.ssh_command(lab, host), *options.command])


def _exec(options: argparse.Namespace) -> NoReturn:
    lab = state.get(options.name)
    host = lab.host(options.host)
    if not options.command:
        raise LabError(f"nothing to run; type: bin/lab exec {host.name} -- COMMAND, or bin/lab ssh {host.name}")
    become([*machine.enter_command(lab, host), *options.command])


def _kill(options: argparse.Namespace) -> int:
    lab = state.get(options.name)
    host = lab.host(options.host)
    machine.power_cut(lab, host)
    say(f"{host.name}: off")
    return 0


def _start(options: argparse.Namespace) -> int:
    with state.locked(f"lab-{state.check_name(options.name)}"):
        lab = state.get(options.name)
        host = lab.host(options.host)
        _serve(lab)
        machine.boot(lab, host)
        machine.wait_until_up(lab, host)
        machine.announce(host)
    return 0


def _reboot(options: argparse.Namespace) -> int:
    lab = state.get(options.name)
    host = lab.host(options.host)
    machine.reboot(lab, host)
    machine.announce(host)
    return 0


def _partition(options: argparse.Namespace) -> int:
    lab = state.get(options.name)
    for sender, receiver in faults.partition(lab, options.hosts, one_way=options.one_way):
        say(f"cut: {sender.name} -> {receiver.name}")
    return 0


def _heal(options: argparse.Namespace) -> int:
    lab = state.get(options.name)
    faults.heal(lab)
    say(f"lab {lab.name}: no cuts")
    return 0
