"""Loads the collection's modules by path: their pure logic is tested without a host."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

MODULES = Path(__file__).parents[3] / "ansible/collections/ansible_collections/trading/platform/plugins/modules"


def load(name: str) -> ModuleType:
    known = f"trading_platform_module_{name}"
    spec = importlib.util.spec_from_file_location(known, MODULES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def unit() -> ModuleType:
    return load("unit")


@pytest.fixture(scope="session")
def firewall_rules() -> ModuleType:
    return load("firewall_rules")


@pytest.fixture(scope="session")
def credentials() -> ModuleType:
    return load("credentials")
