"""One run of one contestant: its seconds and its peak memory beyond inputs and gradients, in a process of its own.

Notable decisions:

- On a CPU memory is what the operating system counts (Linux only). A process that has computed nothing is forked,
  makes the inputs, runs a tiny case so that code, threads and their buffers are there, and resets the kernel's
  high-water mark of resident memory. What one run adds to it, less the size of the gradients, is the answer.
- The fork comes from a server that has only imported, so that memory which earlier runs freed and the allocator kept
  cannot hide what this one needs, and nobody waits for imports.
- The limit is the process's own limit on address space: an allocation beyond it fails, which stops the contestant.
- On CUDA the allocator's own peak counts, in this process.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.loss_cases import Case, Inputs
from benchmarks.loss_peers import CONTESTANTS, Run

LIMIT = 8 * 2**30
"""Bytes beyond inputs and gradients at which a contestant is stopped."""

OVER = f"over {LIMIT / 2**30:.0f} GiB"

_processes = multiprocessing.get_context("forkserver" if Path("/proc/self/clear_refs").exists() else "spawn")


def probe(case: Case, name: str, *, device: str, threads: int, timeout: float) -> dict[str, Any]:
    """Return {"seconds", "memory_mib"} of one run, or {"stopped": why}."""
    if device == "cuda":
        return _probe_cuda(case, name)
    _processes.set_forkserver_preload(["benchmarks.loss_peers"])
    receiver, sender = _processes.Pipe(duplex=False)
    process = _processes.Process(target=_child, args=(sender, case, name, threads), daemon=True)
    process.start()
    sender.close()
    try:
        answer: dict[str, Any] = (
            receiver.recv() if receiver.poll(timeout) else {"stopped": f"over {timeout:.0f} s for one run"}
        )
    except EOFError:  # some libraries end the process when an allocation fails
        process.join()
        answer = {"stopped": f"{OVER} (the process ended with code {process.exitcode})"}
    if "s for one run" in answer.get("stopped", ""):
        process.kill()
    process.join()
    return answer


def seconds_of(run: Run, device: str) -> float:
    """Return the wall time of one run."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _child(sender: Connection, case: Case, name: str, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        sender.send(_run_once(case, name))
    except Exception as error:
        sender.send(_stopped(error))


def _stopped(error: Exception) -> dict[str, Any]:
    """Say why a run did not end."""
    message = str(error).partition("\n")[0]
    out_of_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in message
    return {"stopped": OVER if out_of_memory else f"failed: {type(error).__name__}: {message[:200]}"}


def _run_once(case: Case, name: str) -> dict[str, Any]:
    inputs = Inputs(case, "cpu")
    run = CONTESTANTS[name].make(inputs)
    tiny = CONTESTANTS[name].make(Inputs(replace(case, queries=64), "cpu"))
    for _ in range(2):
        tiny()
    before = _reset_peak()
    if before is not None:
        allowed = _status("VmSize") + LIMIT + case.gradient_bytes
        resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
    seconds = seconds_of(run, "cpu")
    beyond = None if before is None else (_status("VmHWM") - before - case.gradient_bytes) / 2**20
    return {"seconds": seconds, "memory_mib": None if beyond is None else max(beyond, 0.0)}


def _reset_peak() -> int | None:
    """Set the high-water mark of resident memory back and return the memory in use, where the system can."""
    path = Path("/proc/self/clear_refs")
    if not path.exists():
        return None
    path.write_text("5", encoding="utf-8")
    return _status("VmRSS")


def _status(field: str) -> int:
    """Return a size in bytes from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def _probe_cuda(case: Case, name: str) -> dict[str, Any]:
    inputs = Inputs(case, "cuda")
    run = CONTESTANTS[name].make(inputs)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = before + LIMIT + case.gradient_bytes
    torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))
    try:
        CONTESTANTS[name].make(Inputs(replace(case, queries=256), "cuda"))()
        torch.cuda.reset_peak_memory_stats()
        seconds = seconds_of(run, "cuda")
    except Exception as error:
        return _stopped(error)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    beyond = torch.cuda.max_memory_allocated() - before - case.gradient_bytes
    return {"seconds": seconds, "memory_mib": max(beyond, 0) / 2**20}
