"""Ansible's plugin loader, told once a process where our collection is; whoever imports it first decides for all."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ansible.plugins.loader import init_plugin_loader

COLLECTIONS = Path(__file__).parents[2] / "ansible/collections"


@cache
def prepared() -> None:
    init_plugin_loader([str(COLLECTIONS)])
