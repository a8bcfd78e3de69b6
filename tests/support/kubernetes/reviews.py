"""Questions that are POSTed and answered at once, and stored nowhere: TokenReview, SubjectAccessReview and the like."""

from tests.support.kubernetes import rbac
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.errors import Object, cause, invalid
from tests.support.kubernetes.kinds import Kind
from tests.support.kubernetes.requests import Target, User
from tests.support.kubernetes.tokens import Believed, RefusedError, Tokens

KINDS = {
    "TokenReview", "SelfSubjectReview", "SelfSubjectAccessReview", "SubjectAccessReview", "LocalSubjectAccessReview",
    "SelfSubjectRulesReview",
}  # fmt: skip


class Reviews:
    """Answers them for one cluster. `static` are the bearer tokens that are nobody's service account."""

    def __init__(self, cluster: Cluster, tokens: Tokens, static: dict[str, User]) -> None:
        self._cluster = cluster
        self._tokens = tokens
        self._static = static

    def answer(self, kind: Kind, body: Object, user: User, namespace: str) -> Object:
        """The review with its status.

        Raises:
            ApiError: 422.
        """
        spec = body.get("spec") or {}
        match kind.kind:
            case "TokenReview":
                status = self._token(spec)
            case "SelfSubjectReview":
                status = {"userInfo": info(user)}
            case "SelfSubjectAccessReview":
                status = self._access(spec, user)
            case "SelfSubjectRulesReview":
                status = self._rules(spec, user)
            case _:
                asked = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))
                if not asked.name and not asked.groups:
                    wrong = cause("spec.user", "Required value: at least one of user or group must be specified")
                    raise invalid(kind.group, kind.kind, "", [wrong])
                status = self._access(spec, asked)
        return body | {"apiVersion": kind.api_version, "kind": kind.kind, "status": status}

    def _token(self, spec: Object) -> Object:
        token, audiences = spec.get("token", ""), spec.get("audiences") or ()
        if not token:
            return {"user": {}, "error": "no token"}
        try:
            if token in self._static:
                believed = Believed(self._static[token], tuple(audiences))
            else:
                believed = self._tokens.believe(token, audiences)
        except RefusedError as error:
            return {"user": {}, "error": str(error)}
        status: Object = {"authenticated": True, "user": info(believed.user)}
        return status | ({"audiences": list(believed.audiences)} if believed.audiences else {})

    def _access(self, spec: Object, user: User) -> Object:
        if path := spec.get("nonResourceAttributes"):
            allowed = rbac.allowed_path(self._cluster, user, path.get("verb", ""), path.get("path", ""))
        else:
            about = spec.get("resourceAttributes") or {}
            target = Target(
                about.get("verb", ""), about.get("group", ""), about.get("version", ""), about.get("resource", ""),
                about.get("namespace", ""), about.get("name", ""), about.get("subresource", ""),
            )  # fmt: skip
            allowed = rbac.allowed(self._cluster, user, target)
        return {"allowed": allowed}

    def _rules(self, spec: Object, user: User) -> Object:
        found = list(rbac.rules(self._cluster, user, spec.get("namespace", "")))
        resources = [{key: value for key, value in rule.items() if key != "nonResourceURLs"} for rule in found
                     if rule.get("resources")]  # fmt: skip
        paths = [{"verbs": rule["verbs"], "nonResourceURLs": rule["nonResourceURLs"]} for rule in found
                 if rule.get("nonResourceURLs")]  # fmt: skip
        return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}


def info(user: User) -> Object:
    """UserInfo, as the API writes it."""
    found: Object = {"username": user.name}
    if user.uid:
        found["uid"] = user.uid
    found["groups"] = list(user.groups)
    if user.extra:
        found["extra"] = {key: list(value) for key, value in user.extra.items()}
    return found
