"""The machine and the versions that figures were measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it ships no types

from benchmarks.contenders import installed
from tests.support.databases import binaries

_LIBRARIES = (
    *("sqlalchemy", "asyncpg", "aiosqlite", "fastapi", "uvicorn", "uvloop", "httpx"),
    "pydantic",
)


def described() -> dict[str, str]:
    """Each by its name."""
    import sqlite3

    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{psutil.virtual_memory().total / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "PostgreSQL": f"{binaries.from_wheel().major}, fsync on",
        "SQLite": f"{sqlite3.sqlite_version}, synchronous=FULL",
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        **{f"{name} (contender)": it for name, it in installed.versions().items()},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
