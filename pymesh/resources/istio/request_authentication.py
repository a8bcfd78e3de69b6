"""Istio's RequestAuthentication: whose tokens of end users a workload believes, and what it tells of them.

Source: istio.io/docs/reference/config/security/request_authentication and .../jwt, release 1.27.
"""

from typing import Annotated, NamedTuple

from msgspec import Meta

from pymesh.resources.fields import Block, Duration, ObjectMeta
from pymesh.resources.istio.common import TargetRef, Text, WorkloadSelector

# The name of a header, RFC 9110 5.1.
HeaderName = Annotated[
    str,
    Meta(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z", max_length=256, description="the name of a header, as in x-user"),
]
# Places and headers of one issuer; each costs every request a look.
MAX_ITEMS = 32
# Issuers of one resource; each is asked in turn who a token is of.
MAX_JWT_RULES = 64
Names = Annotated[list[Text], Meta(max_length=MAX_ITEMS, description=f"a list of at most {MAX_ITEMS} names")]


class KeySource(NamedTuple):
    """Where the keys of an issuer are: at `uri`; if that is empty, where the issuer itself says (OpenID discovery)."""

    issuer: str
    uri: str


class JWTHeader(Block, frozen=True):
    """A header with a token, and what stands there before it, as in `Bearer `."""

    name: HeaderName
    prefix: Annotated[str, Meta(max_length=256, description="at most 256 characters")] = ""


class ClaimToHeader(Block, frozen=True):
    """A header that tells the app a claim; a claim within others as `realm.roles`."""

    header: HeaderName
    claim: Text


class JWTRule(Block, frozen=True):
    """One issuer, and its tokens.

    Attributes:
        issuer: the `iss` of its tokens.
        audiences: of which a token has to name one; any will do without.
        jwks_uri, jwks: where its keys are, or they themselves. Without either they are where the issuer says (OpenID
            discovery).
        from_headers, from_params, from_cookies: where its tokens stand; as bearer tokens and in `access_token` without.
        output_payload_to_header: the claims go there, base64url.
        forward_original_token: whether the app gets the token, too.
        timeout: to wait for the keys.
        space_delimited_claims: claims whose words are a list, for AuthorizationPolicies; `scope` and `permission` are.
    """

    issuer: Text
    audiences: Names = []
    jwks_uri: Text | None = None
    jwks: str | None = None
    from_headers: Annotated[list[JWTHeader], Meta(max_length=MAX_ITEMS)] = []
    from_params: Names = []
    from_cookies: Names = []
    output_payload_to_header: HeaderName | None = None
    output_claim_to_headers: Annotated[list[ClaimToHeader], Meta(max_length=MAX_ITEMS)] = []
    forward_original_token: bool = False
    timeout: Duration = "5s"
    space_delimited_claims: Names = []

    @property
    def token_headers(self) -> list[str]:
        """The headers in which its tokens stand, in small letters."""
        elsewhere = self.from_params or self.from_cookies
        return [item.name.lower() for item in self.from_headers] or ([] if elsewhere else ["authorization"])

    @property
    def source(self) -> KeySource | None:
        """Where the keys are to be fetched from; None if they are here."""
        return None if self.jwks else KeySource(self.issuer, self.jwks_uri or "")


class RequestAuthenticationSpec(Block, frozen=True):
    """security.istio.io RequestAuthentication. Who shows no token is let in; who shows a bad one is not."""

    selector: WorkloadSelector | None = None
    target_ref: TargetRef | None = None
    target_refs: list[TargetRef] = []
    jwt_rules: Annotated[
        list[JWTRule], Meta(max_length=MAX_JWT_RULES, description=f"a list of at most {MAX_JWT_RULES} rules")
    ] = []

    @property
    def targets(self) -> list[TargetRef]:
        """What it names, in whichever of the two fields."""
        return self.target_refs or ([self.target_ref] if self.target_ref is not None else [])


class RequestAuthentication(Block, frozen=True):
    """Whose tokens a workload believes."""

    metadata: ObjectMeta
    api_version: str
    kind: str
    spec: RequestAuthenticationSpec = RequestAuthenticationSpec()
    status: object | None = None
