"""Results for people: a few lines each, and what is to be known before they are believed."""

from collections.abc import Mapping

from benchmarks.load.results import Churned, Held, Latencies, Streamed, figures


def latencies(found: Latencies) -> list[str]:
    """Of requests by a schedule."""
    answered, late = found.histogram, figures(found.late)
    lines = [
        f"{found.target}: {found.rate:,g} requests/s for {found.seconds:g} s over {found.connections} connections",
        f"{answered.count:,} answered, {found.queued:,} waited for a free connection, {found.reconnects:,} reconnects",
        f"latency, ms, from when each was due:   {_row(figures(answered))}",
        f"sent late by the generator, ms:   p50 {late['p50']:.3f}   p99 {late['p99']:.3f}   max {late['max']:.3f}",
        *_errors(found.errors, found.examples),
    ]
    if not found.kept_schedule:
        lines.append("not kept: the generator was late itself, so the figures are in part its own; it needs a core")
    return lines


def churned(found: Churned) -> list[str]:
    """Of connections that lived for one request."""
    made = found.histogram.count
    return [
        f"{found.target}: a connection for every request, {found.connections} at a time, {found.seconds:.1f} s",
        f"{made:,} connections, {made / found.seconds:,.0f}/s, {found.resumed:,} took up a TLS session",
        f"connect to answer, ms:   {_row(figures(found.histogram))}",
        *_errors(found.errors, found.examples),
    ]


def held(found: Held) -> list[str]:
    """Of connections that are kept."""
    there = f"{found.target}: {found.there:,} of {found.connections:,} connections are there"
    return [there, *_errors(found.errors, found.examples)]


def streamed(found: Streamed) -> list[str]:
    """Of bytes that went to and fro."""
    moved = found.moved / 1e9
    return [
        f"{found.target}: bytes to and fro over {found.connections} connections, {found.seconds:.1f} s",
        f"{moved:.2f} GB moved, {moved / found.seconds:.2f} GB/s both directions together",
        *_errors(found.errors, found.examples),
    ]


def _row(named: Mapping[str, float]) -> str:
    return "   ".join(f"{name} {value:.3f}" for name, value in named.items())


def _errors(errors: Mapping[str, int], examples: Mapping[str, str]) -> list[str]:
    return [f"error: {count:,} x {kind}: {examples[kind]}" for kind, count in errors.items()]
