"""What a measurement takes besides time: cores it is held on, memory at its peak, energy."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_SELF = Path("/proc/self")
_POWERCAP = Path("/sys/class/powercap")


@contextmanager
def pinned(num_threads: int, *, enabled: bool = True) -> Iterator[tuple[int, ...] | None]:
    """Hold every thread of this process on as many cores as there are threads, and let go after the block.

    A thread that wanders between cores finds cold caches; on a machine with more cores than threads, that is
    noise. The cores with the highest numbers are taken: interrupts mostly go to the first.

    Args:
        num_threads: How many cores.
        enabled: False leaves everything as it is.

    Yields:
        Numbers of the cores; None where nothing was pinned: switched off, or not possible on this system.
    """
    if not enabled or not hasattr(os, "sched_setaffinity"):
        yield None
        return
    before = {thread: os.sched_getaffinity(thread) for thread in _threads()}
    cores = sorted(os.sched_getaffinity(0))[-num_threads:]
    try:
        for thread in before:
            _set_cores(thread, set(cores))
        yield tuple(cores)
    finally:
        # Threads that were born inside have inherited the pinning of whoever made them.
        for thread in _threads():
            _set_cores(thread, before.get(thread, before[os.getpid()]))


def _threads() -> list[int]:
    """Numbers of this process's threads; each has cores of its own, the process as a whole has none."""
    return [int(entry.name) for entry in (_SELF / "task").iterdir()] if (_SELF / "task").is_dir() else [os.getpid()]


def _set_cores(thread: int, cores: set[int]) -> None:
    with suppress(ProcessLookupError):  # it may have ended since it was listed
        os.sched_setaffinity(thread, cores)


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """How much memory one call takes above what is held before it, in MiB.

    On CUDA, what torch's allocator handed out at most. On the CPU under Linux, by how much the resident memory of
    the process rose at most: freed memory is given back before and the kernel's high-water mark is set down.
    Weights are held before and do not count. What a runtime keeps from an earlier call does not either: of one that
    does so, measure the first call.

    Returns:
        MiB, or None where the system does not tell.
    """
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    _give_back_freed_memory()
    try:
        (_SELF / "clear_refs").write_text("5")  # 5: set VmHWM down to VmRSS
        before = _status_kib("VmRSS")
    except (OSError, ValueError):
        call()
        return None
    call()
    return max(0.0, (_status_kib("VmHWM") - before) / 2**10)


def _give_back_freed_memory() -> None:
    """Return what the C allocator keeps of freed memory: a call that finds its memory there would seem to need none."""
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


def _status_kib(key: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    raise ValueError(f"no {key} in {_SELF / 'status'}")


def energy_meter(device: torch.device) -> Callable[[], float] | None:
    """The function that tells the joules a device has used since some fixed moment; None where it does not tell.

    On CUDA by NVML, which needs the package `pynvml`; on the CPU by RAPL, which most systems let only root read and
    virtual machines seldom have. Both count the whole device, whoever uses it.
    """
    return _nvml_meter(device) if device.type == "cuda" else _rapl_meter(_POWERCAP)


def _nvml_meter(device: torch.device) -> Callable[[], float] | None:
    try:
        import pynvml  # type: ignore[import-not-found, import-untyped, unused-ignore]

        pynvml.nvmlInit()
        # By its own number: the driver's order is not torch's where CUDA_VISIBLE_DEVICES is set.
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, no driver, or a card too old: its errors share no base class without it
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def _rapl_meter(folder: Path) -> Callable[[], float] | None:
    """Sum over the processor packages; the counters start anew now and then, which is made good."""
    packages = [package for package in sorted(folder.glob("intel-rapl:*")) if package.name.count(":") == 1]
    try:
        ranges = [_number(package / "max_energy_range_uj") for package in packages]
        last = [_number(package / "energy_uj") for package in packages]
    except (OSError, ValueError):
        return None
    if not packages:
        return None
    total = 0.0

    def joules() -> float:
        nonlocal total
        for index, package in enumerate(packages):
            now = _number(package / "energy_uj")
            total += (now - last[index]) % (ranges[index] + 1) / 1e6
            last[index] = now
        return total

    return joules


def _number(path: Path) -> int:
    return int(path.read_text())
