"""DestinationRule: load balancing, localities and outlier detection."""

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

from pymesh.consistent_hashing import COOKIE_TEXT, MAX_RING_SIZE
from pymesh.resources.fields import seconds
from pymesh.resources.istio.destination_rule import (
    ConsistentHashLB,
    LoadBalancerSettings,
    LocalityLoadBalancerSetting,
    OutlierDetection,
    PortTrafficPolicy,
    TrafficPolicy,
)
from pymesh_controlplane.galley.findings import Findings
from pymesh_controlplane.pilot import localities
from pymesh_controlplane.pilot.model import Service, World

# Percent; Istio's default, and Envoy's.
MAX_EJECTION_PERCENT: Final = 10
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Field -> what picks the endpoint.
_KEYS: Final = {
    "httpHeaderName": "http_header_name",
    "httpCookie": "http_cookie",
    "useSourceIp": "use_source_ip",
    "httpQueryParameterName": "http_query_parameter_name",
}


def check(
    findings: Findings, policies: Iterable[tuple[str, TrafficPolicy]], service: Service | None, world: World
) -> None:
    """Look at the policies of a rule, each with its path; `service` is the one that the rule is for."""
    for path, policy in policies:
        _check(findings, policy, path, service, world)
        for index, settings in enumerate(policy.port_level_settings):
            _check(findings, settings, f"{path}.portLevelSettings[{index}]", service, world)


def _check(
    findings: Findings, policy: TrafficPolicy | PortTrafficPolicy, path: str, service: Service | None, world: World
) -> None:
    balancer, outlier = policy.load_balancer, policy.outlier_detection
    if balancer is not None:
        _check_balancer(findings, balancer, f"{path}.loadBalancer")
        if balancer.locality_lb_setting is not None:
            here = f"{path}.loadBalancer.localityLbSetting"
            _check_localities(findings, balancer.locality_lb_setting, here, watched=outlier is not None)
    if outlier is not None:
        _check_outliers(findings, outlier, f"{path}.outlierDetection")
        _check_share(findings, outlier, f"{path}.outlierDetection", service, world)


def _check_balancer(findings: Findings, settings: LoadBalancerSettings, path: str) -> None:
    hashed = settings.consistent_hash
    if hashed is None:
        return
    if settings.simple not in {None, "UNSPECIFIED"}:
        findings.error(path, "give one of simple and consistentHash: it has both")
    _check_key(findings, hashed, f"{path}.consistentHash")
    sizes = {"minimumRingSize": hashed.minimum_ring_size}
    if hashed.ring_hash is not None:
        sizes["ringHash.minimumRingSize"] = hashed.ring_hash.minimum_ring_size
    for name, size in sizes.items():
        if size is not None and size > MAX_RING_SIZE:
            findings.error(f"{path}.consistentHash.{name}", f"must be at most {MAX_RING_SIZE}")


def _check_key(findings: Findings, hashed: ConsistentHashLB, path: str) -> None:
    given = [name for name, attribute in _KEYS.items() if getattr(hashed, attribute)]
    if len(given) != 1:
        has = " and ".join(given) or "none"
        findings.error(path, f"give one of {', '.join(_KEYS)}, which is to pick the endpoint: it has {has}")
    if hashed.http_header_name and not _HEADER.fullmatch(hashed.http_header_name):
        findings.error(f"{path}.httpHeaderName", f"'{hashed.http_header_name}' is not the name of a header")
    if hashed.http_cookie is not None:
        if not _HEADER.fullmatch(hashed.http_cookie.name):
            findings.error(f"{path}.httpCookie.name", f"'{hashed.http_cookie.name}' is not the name of a cookie")
        if not COOKIE_TEXT.fullmatch(hashed.http_cookie.path):
            findings.error(f"{path}.httpCookie.path", "is not a path that a cookie can hold")


def _check_localities(findings: Findings, setting: LocalityLoadBalancerSetting, path: str, *, watched: bool) -> None:
    if setting.distribute and setting.failover:
        findings.error(path, "give one of distribute and failover: it has both")
    for index, share in enumerate(setting.distribute):
        total = sum(share.to.values())
        if total != 100:
            findings.error(f"{path}.distribute[{index}].to", f"the shares add up to {total}, not to 100")
        _check_apart(findings, {f'{path}.distribute[{index}].to["{to}"]': to for to in share.to}, "share of")
    origins = {f"{path}.distribute[{index}].from": share.from_ for index, share in enumerate(setting.distribute)}
    _check_apart(findings, origins, "earlier")
    for index, item in enumerate(setting.failover):
        if item.from_ == item.to:
            findings.error(f"{path}.failover[{index}].to", f"is '{item.to}' itself: name another region")
        for name, region in (("from", item.from_), ("to", item.to)):
            if "/" in region or "*" in region or not region:
                findings.error(f"{path}.failover[{index}].{name}", f"'{region}' is not the name of a region")
    if setting.failover and not watched and setting.enabled is not False:
        findings.warning(
            f"{path}.failover", "has no effect without outlierDetection, which notices that a region fails"
        )


def _check_apart(findings: Findings, patterns: Mapping[str, str], what: str) -> None:
    """As in Istio, no locality may be in two of the patterns, each under its path: which counts would be a guess."""
    for index, (path, pattern) in enumerate(patterns.items()):
        other = next((other for other in islice(patterns.values(), index) if localities.overlap(pattern, other)), None)
        if other is not None:
            findings.error(path, f"'{pattern}' has localities in common with the {what} '{other}': name each once")


def _check_outliers(findings: Findings, settings: OutlierDetection, path: str) -> None:
    for name, value in (("interval", settings.interval), ("baseEjectionTime", settings.base_ejection_time)):
        if value is not None and seconds(value) < 0.001:
            findings.error(f"{path}.{name}", "must be at least 1ms")
    if settings.consecutive_local_origin_failures is not None and not settings.split_external_local_origin_errors:
        findings.warning(
            f"{path}.consecutiveLocalOriginFailures", "has no effect without splitExternalLocalOriginErrors: true"
        )


def _check_share(
    findings: Findings, settings: OutlierDetection, path: str, service: Service | None, world: World
) -> None:
    """An endpoint is left out only if that is no more than the share allowed: of few endpoints that is none."""
    if service is None:
        return
    percent = settings.max_ejection_percent or MAX_EJECTION_PERCENT
    most = max((len(world.endpoints.get((service.host, port.port), ())) for port in service.ports), default=0)
    if most and percent * most < 100:
        needed = -(-100 // most)
        findings.warning(
            f"{path}.maxEjectionPercent" if settings.max_ejection_percent else path,
            f"{service.host} has {most} endpoint{'s' if most > 1 else ''}, of which {percent} % is none: nothing is "
            f"ever left out. Set maxEjectionPercent to {needed} or more",
        )
