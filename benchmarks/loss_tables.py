"""What `benchmarks.losses` found, in words: whether the bars hold, and a table a width and number of negatives."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from benchmarks.loss_peers import CONTESTANTS, OURS, PLAIN, RANKING
from benchmarks.loss_plot import floor

NOTES = """Time: forward and backward, median [quartiles] of interleaved rounds. Memory: peak beyond inputs and
gradients. "ours, dense" is one block, "ours" and "ours, tiled" are several. Contestants of the same function compute
the same loss, and their gradients were compared before anything was timed: "symmetric" averages both directions,
"guided" leaves out what a guide finds too close, "masked" leaves out known positives. The floor of a case is the faster
of the two ways to compute three matrix products; whole, their memory is that of all scores."""


def bars(cases: Mapping[str, Any]) -> list[str]:
    """Return a line for every bar and case: what was wanted, what was found, whether it holds."""
    lines = []
    for case in cases.values():
        time = {name: entry["seconds"]["median"] for name, entry in case["contestants"].items() if "seconds" in entry}
        memory = {name: entry.get("memory_mib") for name, entry in case["contestants"].items()}
        size = f"{case['queries']} x {case['keys']}, D = {case['width']}, {case['precision']}"
        if OURS not in time:
            lines.append(f"MISSED {size}: ours, {case['contestants'][OURS]['stopped']}")
            continue
        ours = time[OURS]
        lines.append(verdict(size, "time of ours / three products", ours / floor(case), at_most=1.25))
        if PLAIN in time and case["queries"] <= 1024:
            lines.append(verdict(size, "time of ours / plain autograd", ours / time[PLAIN], at_most=1.1))
        peers = {name: time[name] for name in time if is_peer(name) and name != PLAIN}
        if case["queries"] >= 4096 and case["width"] == 384 and case["negatives"] == 0:
            if PLAIN in time:
                lines.append(verdict(size, "plain autograd / ours", time[PLAIN] / ours, at_least=1.4))
            if RANKING in time:
                lines.append(verdict(size, f"{RANKING} / ours", time[RANKING] / ours, at_least=1.8))
            if peers:
                fastest = min(peers, key=lambda name: peers[name])
                lines.append(verdict(size, f"fastest peer ({fastest}) / ours", peers[fastest] / ours, at_least=1.4))
        if case["queries"] == 65536 and memory.get(OURS) is not None:
            lines.append(verdict(size, "GiB of ours", memory[OURS] / 1024, at_most=1.0))
    return lines


def is_peer(name: str) -> bool:
    """Say whether a contestant computes what `ours` does and is not ours."""
    return CONTESTANTS[name].function == "one-sided" and not name.startswith("ours")


def verdict(size: str, what: str, found: float, *, at_most: float | None = None, at_least: float | None = None) -> str:
    """Return one line on one bar."""
    holds = found <= at_most if at_most is not None else found >= (at_least or 0.0)
    wanted = f"at most {at_most}" if at_most is not None else f"at least {at_least}"
    return f"{'holds ' if holds else 'MISSED'} {size}: {what} = {found:.2f}, {wanted}"


def markdown(content: Mapping[str, Any]) -> str:
    """Return the whole result as Markdown."""
    cases = content["cases"]
    threads = content["machine"]["threads"]
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items() if number)
    lines = [
        f"# Losses on {content['device']}, {threads} threads, {content['date']}",
        "",
        f"`{content['command']}`; {versions}.",
        "",
        NOTES,
        "",
        "## Bars",
        "",
        *(f"- {line}" for line in bars(cases)),
    ]

    def key(case: Mapping[str, Any]) -> tuple[Any, ...]:
        return case["precision"], case["width"], case["negatives"]

    ordered = sorted(cases.values(), key=lambda case: (*key(case), case["queries"]))
    for (precision, width, negatives), group in groupby(ordered, key=key):
        lines += ["", f"## D = {width}, {negatives} hard negatives a query, {precision}", "", *table(list(group))]
    return "\n".join(lines) + "\n"


def table(cases: list[Mapping[str, Any]]) -> list[str]:
    """Return a Markdown table, a row a contestant and a column a size."""
    names = [name for name in CONTESTANTS if any(name in case["contestants"] for case in cases)]
    sizes = [f"{case['queries']:,} x {case['keys']:,}" for case in cases]
    rows = [["", "function", *sizes], ["---"] * (2 + len(cases))]
    for name in names:
        cells = [cell(case["contestants"].get(name)) for case in cases]
        rows.append([name, CONTESTANTS[name].function, *cells])
    return [f"| {' | '.join(row)} |" for row in rows]


def cell(entry: Mapping[str, Any] | None) -> str:
    """Return time, quartiles and memory, or why there are none."""
    if entry is None:
        return ""
    if "stopped" in entry:
        return str(entry["stopped"])
    seconds, memory = entry["seconds"], entry.get("memory_mib")
    scale, unit = (1e3, "ms") if seconds["median"] < 1 else (1, "s")
    low, median, high = (f"{scale * seconds[name]:.3g}" for name in ("quartile_1", "median", "quartile_3"))
    spread = f" [{low}, {high}]" if seconds["rounds"] > 1 else ", once"
    return f"{median} {unit}{spread}" + ("" if memory is None else f", {size(memory)}")


def size(mebibytes: float) -> str:
    """Return a size in MiB or GiB."""
    return f"{mebibytes / 1024:.2f} GiB" if mebibytes >= 1024 else f"{mebibytes:.0f} MiB"
