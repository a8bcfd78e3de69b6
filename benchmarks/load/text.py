"""Results for people."""

from benchmarks.load.results import Latencies, figures


def latencies(found: Latencies) -> list[str]:
    """A few lines: what was sent, the figures, and what is to be known before they are believed."""
    answered = found.histogram
    row = "   ".join(f"{name} {value:.3f}" for name, value in figures(answered).items())
    late = figures(found.late)
    lines = [
        f"{found.target}: {found.rate:,g} requests/s for {found.seconds:g} s over {found.connections} connections",
        f"{answered.count:,} answered, {found.queued:,} waited for a free connection, {found.reconnects:,} reconnects",
        f"latency, ms, from when each was due:   {row}",
        f"sent late by the generator, ms:   p50 {late['p50']:.3f}   p99 {late['p99']:.3f}   max {late['max']:.3f}",
    ]
    lines += [f"error: {count:,} x {kind}: {found.examples[kind]}" for kind, count in found.errors.items()]
    if not found.kept_schedule:
        lines.append(
            "the generator did not keep its schedule, so the figures are in part its own: give it a core, or less to do"
        )
    return lines
