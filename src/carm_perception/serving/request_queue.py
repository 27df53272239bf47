# SPDX-License-Identifier: Apache-2.0
"""A bounded queue before the one thread that owns the model; requests that belong together are answered at once."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from carm_perception.localizers.huggingface.generator import Completion
from carm_perception.serving.backends import Backend
from carm_perception.serving.chat import ApiError, ChatRequest


@dataclass(eq=False)
class _Job:
    request: ChatRequest
    done: asyncio.Future[Completion]


class RequestQueue:
    """Hands requests to a backend in the order of their arrival. Lives on one event loop."""

    def __init__(self, backend: Backend, capacity: int) -> None:
        """Prepare; ``run`` begins.

        Args:
            backend: The model.
            capacity: Most requests that wait.
        """
        self._backend, self._capacity = backend, capacity
        self._waiting: deque[_Job] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    async def answer(self, request: ChatRequest) -> Completion:
        """Wait for the answer to a request; a canceled wait gives the request up.

        Raises:
            ApiError: The queue is full, or the model cannot do what the request asks for.
        """
        if len(self._waiting) >= self._capacity:
            raise ApiError(429, f"{self._capacity} requests wait already", kind="rate_limit_error", code="queue_full")
        job = _Job(request, asyncio.get_running_loop().create_future())
        self._waiting.append(job)
        self._arrived.set()
        try:
            return await job.done
        finally:
            if job in self._waiting:
                self._waiting.remove(job)

    async def run(self) -> None:
        """Work until canceled."""
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            jobs = self._next()
            if not jobs:
                self._arrived.clear()
                continue
            requests = [job.request for job in jobs]
            try:
                answers = await loop.run_in_executor(self._thread, self._backend.complete, requests)
            except asyncio.CancelledError:
                raise
            except Exception as error:  # a model fails in many ways; the client is told, the server goes on
                self._refuse(jobs, error)
                continue
            for job, answer in zip(jobs, answers, strict=True):
                if not job.done.done():
                    job.done.set_result(answer)

    def close(self) -> None:
        """Release the thread and the model; requests that wait are refused."""
        self._refuse(list(self._waiting), ApiError(503, "the server is ending", kind="server_error"))
        self._waiting.clear()
        self._thread.submit(self._backend.close)
        self._thread.shutdown(wait=True)

    def _next(self) -> list[_Job]:
        """Take the oldest request and those that can be answered together with it."""
        if not self._waiting:
            return []
        jobs = [self._waiting.popleft()]
        others, self._waiting = self._waiting, deque()
        for job in others:
            together = len(jobs) < self._backend.batch and self._backend.joins(jobs[0].request, job.request)
            (jobs if together else self._waiting).append(job)
        return jobs

    @staticmethod
    def _refuse(jobs: list[_Job], error: Exception) -> None:
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(error)
