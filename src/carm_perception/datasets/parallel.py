# SPDX-License-Identifier: Apache-2.0
"""Where work on shards runs: in this process, on the cores of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from carm_core.errors import CarmError, ConfigurationError

LOCAL, RAY = "local", "ray"
ENGINES = (LOCAL, RAY)
_WATCH_S = 1.0

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Result]


class WorkerError(CarmError):
    """A worker process ended before its work did."""


def available_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(engine: str, work: Work[Task, Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    """Run all tasks; yield results in the order of completion.

    Args:
        engine: One of ``ENGINES``.
        work: A function of a module.
        tasks: Its arguments.
        workers: Processes of ``local``; tasks in flight at once of ``ray``, 0: as many as the cluster has cores.

    Raises:
        ConfigurationError: There is no such engine, or Ray is not installed.
        WorkerError: A worker was killed, for example because memory ran out.
    """
    if engine == RAY:
        return _ray(work, tasks, workers)
    if engine != LOCAL:
        raise ConfigurationError(f"unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    return map(work, tasks) if workers == 1 else _processes(work, tasks, workers or available_cores())


def _processes(work: Work[Task, Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    count, others = min(workers, max(1, len(tasks))), set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_prepare, initargs=(os.getpid(),))
    try:
        for future in as_completed([pool.submit(work, task) for task in tasks]):
            yield future.result()
    except BrokenProcessPool as error:
        raise WorkerError("a worker process was killed, perhaps because memory ran out") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()


def _prepare(parent: int) -> None:
    """Leave Ctrl-C to the parent, use one thread, and end when the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def _ray(work: Work[Task, Result], tasks: Sequence[Task], workers: int) -> Iterator[Result]:
    ray = _started_ray()
    function = ray.remote(work)
    limit = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting = list(reversed(tasks))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                running.append(function.remote(waiting.pop()))
            ready, running = ray.wait(running, num_returns=1)
            yield _result(ray, ready[0])
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _started_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigurationError("the engine ray needs Ray: pip install ray") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, logging_level=logging.WARNING, log_to_driver=False)
    return ray


def _result(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, CarmError):
            raise cause from error
        raise
    except ray.exceptions.RayError as error:
        raise WorkerError(f"Ray lost a worker: {str(error).strip().splitlines()[0]}") from error
