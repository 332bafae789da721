"""Where a number comes from: machine, versions and commit, for records that others can judge.

No host name, user name or path: records are committed.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("effvit", "torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "numpy")
_MEASURED = ("src", "benchmarks", "pyproject.toml")
"""What must be committed for a commit to name the code that was measured."""


def environment() -> dict[str, Any]:
    """Describe the machine and the software.

    Returns:
        Plain values for JSON. `cores_usable` can be below `cores` in a container; `commit` is None
        outside a checkout and `commit_is_exact` tells whether the measured code is that commit's.
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "os": f"{platform.system()} {_leading_number(platform.release())}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "commit": commit,
        "commit_is_exact": commit is not None and _git("status", "--porcelain", "--", *_MEASURED) == "",
    }


def machine(environment: Mapping[str, Any]) -> str:
    """Processor, system, torch and commit, in one line."""
    commit = environment["commit"]
    if commit is not None:
        commit = commit[:10] + ("" if environment["commit_is_exact"] else " with changes")
    return (
        f"{environment['cpu']} ({environment['cores_usable']} cores), {environment['os']},"
        f" torch {environment['versions']['torch']}, commit {commit or 'unknown'}"
    )


def _leading_number(release: str) -> str:
    """The numeric part of a kernel release: the rest is the vendor's and may carry names of machines."""
    match = re.match(r"\d+(\.\d+)*", release)
    return match.group() if match else ""


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """The processor's name; `platform.processor()` is empty on most Linux systems."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        match = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if match:
            return match.group(1).strip()
    if platform.system() == "Darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    """Ask git about the checkout this package runs from; None when it is installed elsewhere."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None  # a site-packages folder inside somebody else's checkout is not ours
    return _output(["git", "-C", str(root), *arguments])


def _output(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
