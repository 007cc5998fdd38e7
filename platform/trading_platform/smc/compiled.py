"""How the loops over candles are compiled, and where the machine code is kept.

numba keeps one cache entry for each function and looks only at the file the function is in, although it compiles in what the
function calls from other files. Here the entries of one state of this package lie in a directory named after all its sources.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

try:
    import numba
    import numba.core.config
except OSError as error:
    raise ImportError(
        f"numba cannot make machine code in this process ({error}); a unit that computes indicators needs MemoryDenyWriteExecute=no"
    ) from error

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

# Types know neither numba's configuration, which is made when it is imported, nor all options of its compiler.
config: Any = numba.core.config
njit: Any = numba.njit


def _sources() -> str:
    """A name that changes with any source of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_directory() -> Path | None:
    """Where compiled code is kept: NUMBA_CACHE_DIR, else systemd's CacheDirectory=, else the user's cache; None when none can be written.

    A release's own directory is read-only for the services, so numba's default (beside the source) is not tried. What is loaded from
    here is run, so a directory that somebody else owns or can write is not used.
    """
    given = os.environ.get("NUMBA_CACHE_DIR") or os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    directory = base / "trading-smc" / _sources()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        for each in (directory, directory.parent):
            status = each.stat()
            if status.st_uid != os.geteuid() or status.st_mode & 0o022:
                raise PermissionError(f"{each} belongs to user {status.st_uid} and has mode {status.st_mode & 0o777:o}")
    except OSError as error:
        log.warning("compiled indicators cannot be kept in %s (%s): every start compiles them again; set NUMBA_CACHE_DIR", directory, error)
        return None
    return directory


CACHE = cache_directory()


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile for the types it is called with, at the first call, strictly as IEEE says: the same bits in both forms and on every host.

    Always inlined and without numba's reference counting: memory is handed on as eleven arrays, and counting them at every call costs
    ten times the work. Kernels only look at arrays their caller holds; one that would make an array is refused by the compiler.
    """
    before = config.CACHE_DIR
    config.CACHE_DIR = str(CACHE or "")
    try:
        compiled = njit(cache=CACHE is not None, error_model="numpy", forceinline=True, _nrt=False)(function)
        return cast(Callable[P, R], compiled)
    finally:
        config.CACHE_DIR = before
