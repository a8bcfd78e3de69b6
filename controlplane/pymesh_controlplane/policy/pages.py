"""What the page /policy shows. Pure."""

from pymesh_controlplane.pilot.status import Json
from pymesh_controlplane.policy.checks import Limits
from pymesh_controlplane.policy.desk import Desk, totals
from pymesh_controlplane.policy.metrics import Counts
from pymesh_controlplane.policy.python_checks import PythonChecks
from pymesh_controlplane.policy.rules import Code, Rate, Rule, Rules


def status(rules: Rules, desk: Desk, limits: Limits, counts: Counts) -> dict[str, Json]:
    """`{"epoch", "replicas": n, "store", "rules": [...], "sidecars": n, "refused": {reason: n}}`.

    Of each rule it has what its kind has; `store` says what is wrong with it, "" if nothing is, None if there is none.
    """
    return {
        "epoch": rules.epoch,
        "replicas": counts.replicas,
        "store": desk.problem if desk.shared is not None else None,
        "rules": [_rule(rule, desk, limits, counts) for rule in rules.by_name.values()],
        "sidecars": len(desk.sidecars),
        "refused": dict(sorted(counts.refused.items())),
    }


def python(checks: PythonChecks) -> Json:
    """The checks in Python: `{"functions", "problem", "failures": {function: {kind: n}}}`."""
    failures: dict[str, Json] = {}
    for name in sorted({name for name, _ in checks.failures}):
        failures[name] = {kind: count for (of, kind), count in sorted(checks.failures.items()) if of == name}
    functions: list[Json] = [*sorted(checks.names)]
    return {"functions": functions, "problem": checks.problem, "failures": failures}


def _rule(rule: Rule, desk: Desk, limits: Limits, counts: Counts) -> Json:
    about: dict[str, Json] = {
        "rule": rule.name,
        "targets": list(rule.hosts),
        "failureMode": rule.failure_mode,
        "otherwise": rule.otherwise,
        "dryRun": rule.dry_run,
    }
    counted: dict[str, Json] = {
        word: counts.checks[rule.name, result]
        for word, result in (("allowed", "allowed"), ("denied", "denied"), ("wouldDeny", "would_deny"))
    }
    if isinstance(rule.limit, Code):
        about |= {"function": rule.limit.function, "timeout": rule.limit.timeout, **counted}
        return about | {"undecided": counts.checks[rule.name, "undecided"]}
    if isinstance(rule.limit, Rate):
        about |= {"requests": rule.limit.requests, "seconds": rule.limit.period, "burst": rule.limit.burst}
        about |= {"by": list(rule.limit.by)}
        about |= {} if desk.shared is not None else {"keys": len(limits.buckets[rule.name])}
        return about | counted
    book = desk.books[rule.name]
    sidecars: dict[str, Json] = {
        name: {
            "granted": holder.grant,
            "held": holder.charge,
            "inUse": holder.in_use,
            "wanted": holder.wanted,
            "connected": holder.until is None,
        }
        for name, holder in sorted(book.holders.items())
    }
    out = totals(book)
    about |= {"max": desk.maximum(rule.name), "granted": out["granted"], "held": out["held"], "inUse": out["in_use"]}
    return about | {"sidecars": sidecars}
