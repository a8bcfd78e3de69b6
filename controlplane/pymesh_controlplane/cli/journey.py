"""The journey of one request: the records that proxies kept of it, joined into a tree and put into words. Pure.

A proxy keeps one record for each request that passes it, so a request that goes through the mesh leaves two for each
hop: one where it was sent (outbound, or by a gateway), one where it arrived (inbound, or at a gateway). The two belong
together because they speak of the same connection: its source address and port as the sender sees them are the ones
that the receiver saw. What an app asks others for on behalf of a request carries the same x-request-id, and starts
after it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.text import Text

from pymesh import names
from pymesh.errors import printable

# What takes the time up to each of a record's moments, in words.
_PHASES: Final = {
    "filtered": "filters and route",
    "sent": "connection",
    "first_byte": "answer",
    "end": "body",
}


# Seconds by which the clocks of two machines may differ before "after" means nothing.
_SKEW: Final = 0.5


@dataclass(frozen=True, slots=True)
class Record:
    """One proxy's record of a request, with the pod that it is from; field by field what the proxy wrote."""

    pod: str
    fields: Mapping[str, Any]

    def __getitem__(self, name: str) -> str:
        """The field `name` as text that no terminal obeys."""
        return printable(str(self.fields[name]))

    @property
    def inbound(self) -> bool:
        """Whether the request came to the pod's app; else the app sent it, or a gateway passed it on."""
        return bool(self.fields["direction"] == "inbound")

    @property
    def gateway(self) -> bool:
        """Whether it came to a gateway and went on from there: no app sent it, and nothing redirected it."""
        return not self.inbound and not self.fields["original_destination"]

    @property
    def place(self) -> tuple[str, str]:
        """The pod, with its namespace where that is told."""
        return str(self.fields.get("namespace", "")), self.pod

    @property
    def started(self) -> float:
        """When it started, in Unix time."""
        return float(self.fields["started"])

    def phases(self) -> list[tuple[str, float]]:
        """What took how many milliseconds, in the order of happening; phases that were not reached are left out."""
        before = 0.0
        result = []
        for moment, name in _PHASES.items():
            at = self.fields["times_ms"][moment]
            if at is not None:
                result.append((name, at - before))
                before = at
        return result

    @property
    def milliseconds(self) -> float:
        """From the head of the request to the last byte of the answer."""
        return float(self.fields["times_ms"]["end"] or 0.0)


@dataclass(slots=True)
class Hop:
    """A record, and what happened because of it: the arrival of what was sent, the calls of the app that was asked."""

    record: Record
    then: "list[Hop]" = field(default_factory=list)


def join(records: Iterable[Record]) -> list[Hop]:
    """The records of one request as trees, each as deep as one record led to the next; in order of time."""
    hops = [Hop(record) for record in sorted(records, key=lambda record: record.started)]
    roots: list[Hop] = []
    for hop in hops:
        cause = _cause(hop, hops)
        (roots if cause is None else cause.then).append(hop)
    return roots


def _cause(effect: Hop, hops: Sequence[Hop]) -> Hop | None:
    """What led to `effect`: the latest of what could have, since a connection may carry the same request id again."""
    others = [other for other in hops if other is not effect and other.record.started <= effect.record.started + _SKEW]
    for led_to in (_led_to, _first_led_to):
        causes = [other for other in others if led_to(other.record, effect.record)]
        if causes:
            before = [cause for cause in causes if cause.record.started <= effect.record.started]
            return before[-1] if before else causes[0]
    return None


def _led_to(cause: Record, effect: Record) -> bool:
    if cause.inbound:
        return _sent(effect) and cause.place == effect.place and cause.started < effect.started
    return (
        not _sent(effect)
        and cause["upstream_local"] == effect["downstream_remote"] != ""
        and cause["endpoint"] == (effect["original_destination"] or effect["downstream_local"])
    )


def _first_led_to(cause: Record, effect: Record) -> bool:
    """Whether `effect` is where an attempt arrived that was given up: `cause` then tells of the last one only."""
    return (
        not cause.inbound
        and not _sent(effect)
        and int(cause.fields["attempts"]) > 1
        and cause["path"] == effect["path"]
        and _host(cause["upstream_local"]) == _host(effect["downstream_remote"]) != ""
        and effect.started <= cause.started + cause.milliseconds / 1000
    )


def _sent(record: Record) -> bool:
    """Whether an app sent it; at a gateway it arrived."""
    return not record.inbound and not record.gateway


def flatten(hops: Iterable[Hop]) -> Iterator[Record]:
    """All records below `hops`, in the order in which they are shown."""
    return (hop.record for hop in _all(hops))


def what_is_missing(hops: list[Hop]) -> str:
    """What the records of a request that came from outside the mesh do not tell yet, in words; empty if all is there.

    A proxy writes its record when the last byte has left, and tells the collector a moment later, so for a moment the
    answer may be ahead of the records.
    """
    if not any(hop.record.inbound or hop.record.gateway for hop in hops):
        return "no proxy has a record of the request's arrival"
    return loose_ends(hops)


def loose_ends(hops: list[Hop]) -> str:
    """What does not hang together, in words; empty if all does."""
    if len(hops) > 1:
        return f"{len(hops) - 1} of the records do not follow from the first: {hops[-1].record.pod}"
    sent = [hop for hop in _all(hops) if not hop.record.inbound and hop.record["upstream_peer"] and not hop.then]
    return f"{sent[0].record.pod} sent a request to {sent[0].record['endpoint']} that did not arrive" if sent else ""


def _all(hops: Iterable[Hop]) -> Iterator[Hop]:
    for hop in hops:
        yield hop
        yield from _all(hop.then)


def document(hops: Iterable[Hop]) -> list[dict[str, Any]]:
    """The trees for programs: each record with its `phases_ms`, and `then` what it led to."""
    return [
        {
            **hop.record.fields,
            "pod": hop.record.pod,
            "phases_ms": {name: round(duration, 3) for name, duration in hop.record.phases()},
            "then": document(hop.then),
        }
        for hop in hops
    ]


def render(hops: Iterable[Hop], pod_of_address: Mapping[str, str], depth: int = 0) -> Iterator[Text]:
    """The trees as lines.

    Args:
        hops: what `join` made.
        pod_of_address: names of pods by IP address.
        depth: how far to indent.
    """
    for hop in hops:
        margin = "  " * depth
        yield Text.assemble(margin, *_headline(hop.record, pod_of_address))
        for label, *words in _details(hop.record, pod_of_address):
            yield Text.assemble(margin, (f"    {label:<10}", "dim"), *words)
        yield from render(hop.then, pod_of_address, depth + 1)


# Details of answers that are the app's, or that nobody has told.
_NOT_OURS: Final = frozenset({"", "-", "via_upstream"})

_Words = tuple[str | tuple[str, str], ...]


def _headline(record: Record, pod_of_address: Mapping[str, str]) -> _Words:
    arrow, other = ("▶", record["authority"])
    if record.inbound:
        arrow, other = "◀", _pod_at(record["downstream_remote"], pod_of_address)
    elif record.gateway:
        arrow = "◀▶"
    good = 0 < int(record.fields["status"]) < 400
    return (
        (record.pod, "bold"), f" {arrow} ", other,
        f"  {record['method']} {record['path']}  ",
        (record["status"], "green" if good else "red"), f"  {_duration(record.milliseconds)} ms",
    )  # fmt: skip


def _details(record: Record, pod_of_address: Mapping[str, str]) -> Iterator[_Words]:
    if record.gateway:
        yield "client", *_client(record, pod_of_address)
    else:
        yield "redirect", _redirect(record)
    if record.inbound:
        yield "caller", *_identity(record["peer"])
    else:
        yield "route", record["route_source"] or "the service itself: no VirtualService speaks of it"
        yield "endpoint", *_endpoint(record, pod_of_address)
        if record["endpoint"]:
            yield "peer", *_identity(record["upstream_peer"])
    for name, note in record.fields["notes"].items():
        yield printable(name), printable(str(note))
    if record["flag"] != "-":
        yield "flag", (f"{record['flag']} {record['details']}", "red")
    elif int(record.fields["status"]) >= 400 and record["details"] not in _NOT_OURS:
        yield "refused", (record["details"], "red")
    yield "times", " · ".join(f"{name} {_duration(duration)}" for name, duration in record.phases()) + " ms"


def _client(record: Record, pod_of_address: Mapping[str, str]) -> _Words:
    place = f"{_pod_at(record['downstream_remote'], pod_of_address)}, to {record['downstream_local']}"
    if record["peer"]:
        return (f"{place}, ", *_identity(record["peer"]))
    sni = f" as {record['sni']}" if record["sni"] else ""
    return (f"{place}, TLS{sni}" if record.fields["tls"] else f"{place}, plaintext",)


def _redirect(record: Record) -> str:
    met = f"on its way to {record['original_destination']}"
    if record["downstream_local"] != record["original_destination"]:
        met += f", led to port {record['downstream_local'].rpartition(':')[2]}"
    return f"{met}, then to the app" if record.inbound else met


def _duration(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 1 else f"{milliseconds:.1f}"


def _identity(peer: str) -> _Words:
    if peer:
        return ("mTLS, ", (peer, "cyan"))
    return (("plaintext, so nobody in particular", "yellow"),)


def _endpoint(record: Record, pod_of_address: Mapping[str, str]) -> _Words:
    labels = record.fields["endpoint_labels"]
    version = f", version {printable(labels['version'])}" if "version" in labels else ""
    parts = names.ClusterName.parse(record["cluster"])
    subset = f", subset {parts.subset}" if parts and parts.subset else ""
    if not record["endpoint"]:
        return (("none", "yellow"), subset)
    reused = "pooled connection" if record.fields["reused"] else "new connection"
    attempts = int(record.fields["attempts"])
    tries = f", attempt {attempts}" if attempts > 1 else ""
    pod = _pod_at(record["endpoint"], pod_of_address)
    return ((pod, "bold"), f" at {record['endpoint']}{version}{subset}, {reused}{tries}")


def _pod_at(address: str, pod_of_address: Mapping[str, str]) -> str:
    host = _host(address)
    return pod_of_address.get(host, host or "nowhere")


def _host(address: str) -> str:
    return address.rpartition(":")[0]
