"""Which code decided: a hash over the sources a strategy is made of. Reads nothing but this platform's own files."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

from trading_platform.strategies.catalogue import strategy_class
from trading_platform.strategies.parameters import Kind, Parameters

_HERE = Path(__file__).parent
# What every strategy is judged and sized by, and what single ones stand on.
_SHARED = ("model.py", "signals.py")
_STANDS_ON: dict[Kind, tuple[str, ...]] = {
    "donchian": (),
    "ma_trend": ("window.py", "indicators.py"),
    "mean_reversion": ("window.py", "indicators.py"),
    "smc_confluence": tuple(f"../smc/{path.name}" for path in sorted((_HERE.parent / "smc").glob("*.py"))),
}


_LIBRARIES: dict[Kind, tuple[str, ...]] = {
    "donchian": (),
    "ma_trend": ("ta-lib",),
    "mean_reversion": ("ta-lib",),
    "smc_confluence": ("numba", "numpy"),
}


def code_hash(kind: Kind) -> str:
    """SHA-256 over the sources of a strategy and the versions of its libraries; another one: the same candles may be decided otherwise."""
    digest = hashlib.sha256()
    for name in (f"{kind}.py", *_SHARED, *_STANDS_ON[kind]):
        digest.update(name.encode() + b"\0" + (_HERE / name).read_bytes() + b"\0")
    for library in _LIBRARIES[kind]:
        digest.update(f"{library}=={metadata.version(library)}".encode() + b"\0")
    return digest.hexdigest()


def identity(name: str, version: str, kind: Kind, parameters: Parameters) -> dict[str, Any]:
    """A strategy as it is written down: `_id` names exactly these settings and this code."""
    facts = {
        "name": name,
        "version": version,
        "kind": kind,
        "class_version": strategy_class(kind).version,
        "parameters": parameters.model_dump(mode="json"),
        "code_hash": code_hash(kind),
    }
    number = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return {"_id": f"{name}@{version}:{number}", **facts}
