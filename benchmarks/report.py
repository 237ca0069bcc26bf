"""The table of results. It knows nothing about how they came to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

PEERS = ("asyncio", "uvloop", "tonio_ctx")
"""Those that freerun is judged against: contextvars on, used as their documentation says."""


@dataclass(slots=True)
class Result:
    """All runs of one cell, over every round."""

    workload: str
    contestant: str
    style: str
    workers: int
    unit: str
    more_is_better: bool
    rates: list[float] = field(default_factory=list)
    details: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""
    """Why there are no rates."""

    @property
    def label(self) -> str:
        """The name of the contestant with what sets it apart."""
        name = f"{self.contestant} {self.style}".strip()
        return f"{name} x{self.workers}" if self.contestant in THREADED else name

    @property
    def middle(self) -> float:
        """The median of the runs."""
        return median(self.rates)


FULL_CORE = 0.95
"""A share of a core from which on a process has used it up."""

THREADED = ("freerun", "freerun_io_uring", "tonio", "tonio_ctx")


def short(value: float) -> str:
    """Three significant digits with k or M: `126 k`."""
    for factor, suffix in ((1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}" if abs(value) < 1e3 * factor else f"{value:.3g}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def result_line(result: Result) -> str:
    """One result with its spread and what it cost."""
    if not result.rates:
        return f"  {result.label:<22}{'-':>9}  {result.note}"
    spread = f"({short(min(result.rates))} .. {short(max(result.rates))})"
    parts = [f"  {result.label:<22}{short(result.middle):>9}  {spread:<22}"]
    parts += latency(result, "p50") + latency(result, "p99") + cpu_per_request(result)
    if cpu := [detail["cpu_seconds"] for detail in result.details if "cpu_seconds" in detail]:
        parts.append(f"cpu {sum(cpu):.1f} s")
    if memory := [detail["max_rss_mb"] for detail in result.details if detail.get("max_rss_mb")]:
        parts.append(f"rss {max(memory):.0f} MB")
    if each := [detail["bytes_per_connection"] for detail in result.details if detail.get("bytes_per_connection")]:
        parts.append(f"{short(median(each))} bytes a connection")
    if any(detail.get("gil") for detail in result.details):
        parts.append("GIL")
    return "  ".join(parts).rstrip()


def latency(result: Result, name: str) -> list[str]:
    """`p50 11 us`, if latencies were measured."""
    values = [us for detail in result.details for us in detail.get(f"{name}_us", [])]
    return [f"{name} {median(values):.0f} us"] if values else []


def cpu_per_request(result: Result) -> list[str]:
    """`server 4.4 us`, and `client-bound` where the client used up its core and the server, on one, did not."""
    used = {
        name: [each for detail in result.details for each in detail.get(name, [])]
        for name in ("server_us", "server_cpu", "client_cpu")
    }
    if not used["server_us"]:
        return []
    bound = median(used["client_cpu"]) > FULL_CORE > median(used["server_cpu"])
    return [f"server {median(used['server_us']):.2f} us" + (" (client-bound)" if bound else "")]


@dataclass(frozen=True, slots=True)
class Comparison:
    """How freerun stands in one workload; a ratio is None where a side is missing.

    Every ratio says how many times as good: for bytes it is turned round.
    """

    workload: str
    one: float | None
    """freerun on its fewest workers."""
    many: float | None
    """freerun on its most workers."""
    best: str
    """The best peer on one thread."""
    against_best: float | None
    against_tonio: float | None
    """Against TonIO with contextvars, one thread each."""
    many_against_tonio: float | None
    many_against_one: float | None


def compare(workload: str, results: list[Result]) -> Comparison:
    """All the ratios of one workload."""
    measured = [r for r in results if r.workload == workload and r.rates]
    ours = sorted((r for r in measured if r.contestant == "freerun"), key=lambda r: r.workers)
    tonio = sorted((r for r in measured if r.contestant == "tonio_ctx"), key=lambda r: r.workers)
    peers = [r for r in measured if r.contestant in PEERS and r.workers == 1]
    one = ours[0] if ours and ours[0].workers == 1 else None
    many = ours[-1] if ours and ours[-1].workers > 1 else None
    best = None
    if peers:
        pick = max if peers[0].more_is_better else min
        best = pick(peers, key=lambda r: r.middle)
    tonio_many = next((r for r in tonio if many and r.workers == many.workers), None)
    return Comparison(
        workload=workload,
        one=one.middle if one else None,
        many=many.middle if many else None,
        best=f"{best.contestant} {best.style}".strip() if best else "",
        against_best=ratio(one, best),
        against_tonio=ratio(one, tonio[0] if tonio and tonio[0].workers == 1 else None),
        many_against_tonio=ratio(many, tonio_many),
        many_against_one=ratio(many, one),
    )


def ratio(ours: Result | None, theirs: Result | None) -> float | None:
    """How many times as good ours is."""
    if ours is None or theirs is None or not ours.middle or not theirs.middle:
        return None
    if ours.more_is_better:
        return ours.middle / theirs.middle
    return theirs.middle / ours.middle


def times(value: float | None) -> str:
    """`4.1x`, or a dash."""
    return "-" if value is None else f"{value:.2f}x"


def plain(value: float | None) -> str:
    """A number, or a dash."""
    return "-" if value is None else short(value)


def comparison_table(comparisons: list[Comparison]) -> list[str]:
    """The lines of the last table."""
    heading = (
        f"  {'workload':<16}{'1 worker':>10}{'many':>9}   {'best peer, 1 thread':<20}"
        f"{'1w/best':>9}{'1w/tonio':>10}{'many/tonio':>12}{'many/1w':>9}"
    )
    lines = ["How many times as good freerun is (medians; peers with contextvars on)", heading]
    lines += [
        f"  {c.workload:<16}{plain(c.one):>10}{plain(c.many):>9}   {c.best or '-':<20}"
        f"{times(c.against_best):>9}{times(c.against_tonio):>10}"
        f"{times(c.many_against_tonio):>12}{times(c.many_against_one):>9}"
        for c in comparisons
    ]
    return lines
