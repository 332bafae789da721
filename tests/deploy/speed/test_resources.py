"""Cores, memory, energy: what the system tells, and nothing where it does not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch

from effvit.deploy.speed import resources
from effvit.deploy.speed.resources import energy_meter, peak_memory, pinned

CPU = torch.device("cpu")
needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins nothing")


@needs_affinity
def test_every_thread_is_held_and_let_go() -> None:
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError, match="inside"), pinned(1) as cores:
        assert cores is not None and len(cores) == 1
        for thread in Path("/proc/self/task").iterdir():
            assert os.sched_getaffinity(int(thread.name)) == set(cores)
        raise ZeroDivisionError("inside")
    assert os.sched_getaffinity(0) == before


@needs_affinity
def test_a_thread_born_inside_is_let_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    last: dict[int, set[int]] = {}  # what each thread was last told: on one core, its cores never change
    set_cores = os.sched_setaffinity

    def noted(thread: int, cores: set[int]) -> None:
        set_cores(thread, cores)
        last[thread] = set(cores)

    monkeypatch.setattr(os, "sched_setaffinity", noted)
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    try:
        with pinned(1):
            thread.start()
            assert thread.native_id is not None and thread.native_id not in last
        assert last[thread.native_id] == before == os.sched_getaffinity(thread.native_id)
    finally:
        done.set()
        thread.join()


@needs_affinity
def test_more_threads_than_cores_take_all_cores() -> None:
    before = os.sched_getaffinity(0)
    with pinned(10_000) as cores:
        assert set(cores or ()) == before


def test_nothing_is_pinned_where_it_is_not_wanted_or_not_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    with pinned(1, enabled=False) as cores:
        assert cores is None
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with pinned(1) as cores:
        assert cores is None


def test_the_peak_is_that_of_the_call() -> None:
    def call(mebibytes: int) -> None:
        torch.ones(mebibytes * 2**18)

    small, large = (peak_memory(lambda size=size: call(size), CPU) for size in (1, 100))
    if small is None or large is None:
        pytest.skip("this system does not tell")
    assert 80 < large < 140 and small < 40
    again = peak_memory(lambda: call(100), CPU)
    assert again is not None and again > 80  # memory that was freed before is not taken for none


def test_a_system_that_does_not_tell_its_memory_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "_SELF", tmp_path / "nothing")
    called: list[int] = []
    assert peak_memory(lambda: called.append(1), CPU) is None
    assert called == [1]


def write_counters(folder: Path, **packages: int) -> None:
    for name, value in packages.items():
        path = folder / name.replace("_", ":")
        path.mkdir(exist_ok=True)
        (path / "energy_uj").write_text(str(value))
        (path / "max_energy_range_uj").write_text("999999")


def test_joules_are_summed_over_packages_and_survive_a_restart_of_the_counter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(resources, "_POWERCAP", tmp_path)
    (tmp_path / "intel-rapl:0:0").mkdir()  # part of package 0: must not be counted twice
    for name, value in (("intel-rapl:0", 100), ("intel-rapl:1", 999_000)):
        write_counters(tmp_path, **{name: value})
    meter = energy_meter(CPU)
    assert meter is not None and meter() == 0
    write_counters(tmp_path, **{"intel-rapl:0": 500_100})
    assert meter() == pytest.approx(0.5)
    write_counters(tmp_path, **{"intel-rapl:1": 99_000})
    assert meter() == pytest.approx(0.6)


def test_a_machine_that_does_not_tell_its_energy_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(resources, "_POWERCAP", tmp_path)
    assert energy_meter(CPU) is None
    (tmp_path / "intel-rapl:0").mkdir()  # there, and not readable
    assert energy_meter(CPU) is None
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    assert energy_meter(torch.device("cuda")) is None
