"""Requests with tokens: by every algorithm, forged, expired, and in each place where a request may have one."""

import json
import time
from typing import NamedTuple

from tests.support.tokens import Key, b64, ec_key, ed25519_key, hmac_key, jwks, rsa_key

ISSUER = "https://issuer.test"
NOW = int(time.time())
CLAIMS = {"iss": ISSUER, "sub": "ann", "aud": "api", "exp": NOW + 3600}

RSA, NAMED_ALG, STRANGER = rsa_key(), rsa_key(), rsa_key()
P256, P384, P521, ED25519 = ec_key(), ec_key("P-384"), ec_key("P-521"), ed25519_key()
KEYS = jwks(
    RSA.public(kid="rsa"),
    NAMED_ALG.public(kid="rs256", alg="RS256", use="sig"),
    P256.public(kid="p256"),
    P384.public(kid="p384"),
    P521.public(kid="p521", alg="ES512"),
    ED25519.public(kid="ed", alg="EdDSA"),
)
UNNAMED = jwks(RSA.public(), P256.public())


class Asked(NamedTuple):
    """A request; `differs` says why the two are not to agree, if they are not."""

    name: str
    path: str
    headers: tuple[tuple[str, str], ...]
    differs: str = ""
    method: str = "GET"


def bearer(name: str, token: str, path: str = "/main", differs: str = "") -> Asked:
    """A request with a token where bearer tokens stand."""
    return Asked(name, path, (("authorization", f"Bearer {token}"),), differs)


def claims(**more: object) -> dict[str, object]:
    """The claims of a good token with others besides; None leaves one out."""
    return {name: value for name, value in {**CLAIMS, **more}.items() if value is not None}


def good(**more: object) -> str:
    """A token with these claims that is signed as it should be."""
    return P256.token(claims(**more), "ES256", "p256")


def raw(header: str, payload: str = "", key: Key = P256, alg: str = "ES256") -> str:
    """A token whose header and payload are spelled out, signed all the same."""
    return key.signed(header, payload or json.dumps(CLAIMS), alg)


GOOD = good()
HEAD, PAYLOAD, SIGNATURE = GOOD.split(".")
SECOND = P256.token({"iss": "second", "sub": "bob"}, "ES256", "p256")
ES256_HEADER = '{"alg":"ES256","kid":"p256"}'

ALGORITHMS = [
    bearer(f"{alg} by {kid}", key.token(CLAIMS, alg, kid))
    for kid, key, algs in (
        ("rsa", RSA, ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
        ("rs256", NAMED_ALG, ("RS256", "RS512")),
        ("p256", P256, ("ES256",)),
        ("p384", P384, ("ES384",)),
        ("p521", P521, ("ES512",)),
        ("ed", ED25519, ("EdDSA",)),
    )
    for alg in algs
] + [bearer(f"no kid, {alg}", key.token(CLAIMS, alg)) for alg, key in (("RS256", RSA), ("ES384", P384))]

MODULUS = bytes(RSA.pem)
ATTACKS = [
    bearer("alg none, no signature", f"{b64(json.dumps({'alg': 'none'}))}.{PAYLOAD}."),
    bearer("alg none, some signature", f"{b64(json.dumps({'alg': 'none'}))}.{PAYLOAD}.{SIGNATURE}"),
    *(
        bearer(f"alg {alg!r}", raw(json.dumps({"alg": alg, "kid": "p256"})))
        for alg in ("None", "NONE", "nOnE", "", "es256", "RS1", "ES256K", "A128KW", "dir", "ES256 ", "RSA1_5", 1, None)
    ),
    bearer("no alg", raw('{"kid":"p256"}')),
    bearer("the public key as the secret, PEM", hmac_key(MODULUS).token(CLAIMS, "HS256", "rsa")),
    bearer("the public key as the secret, JWK", hmac_key(json.dumps(RSA.jwk).encode()).token(CLAIMS, "HS256", "rsa")),
    bearer("the key id as the secret", hmac_key(b"rsa").token(CLAIMS, "HS512", "rsa")),
    bearer("an empty secret", hmac_key(b"").token(CLAIMS, "HS256")),
    bearer(
        "RS256 header, ES256 signature",
        raw('{"alg":"RS256","kid":"p256"}'),
        differs="a key's kind says which algorithms it is for (RFC 8725 3.1)",
    ),
    bearer("ES256 header, RS256 signature", raw('{"alg":"ES256","kid":"rsa"}', key=RSA, alg="RS256")),
    bearer(
        "ES384 header by the P-256 key",
        P256.token(CLAIMS, "ES384", "p256"),
        differs="a key's kind says which algorithms it is for (RFC 8725 3.1)",
    ),
    bearer(
        "ES256 by the P-384 key",
        P384.token(CLAIMS, "ES256", "p384"),
        differs="an algorithm has one curve (RFC 7518 3.4)",
    ),
    bearer(
        "EdDSA header, ES256 signature",
        raw('{"alg":"EdDSA","kid":"p256"}'),
        differs="a key's kind says which algorithms it is for (RFC 8725 3.1)",
    ),
    bearer(
        "EdDSA, short signature", ".".join(ED25519.token(CLAIMS, "EdDSA", "ed").split(".")[:2]) + "." + b64(b"x" * 63)
    ),
    bearer("PS256 by the key for RS256", NAMED_ALG.token(CLAIMS, "PS256", "rs256")),
    bearer("another's key", STRANGER.token(CLAIMS, "RS256", "rsa")),
    bearer("another's key, no kid", STRANGER.token(CLAIMS, "RS256")),
    bearer("unknown kid", P256.token(CLAIMS, "ES256", "nobody")),
    bearer("another key's kid", P256.token(CLAIMS, "ES256", "rsa")),
    bearer("empty kid", P256.token(CLAIMS, "ES256", "")),
    bearer("kid is a number", raw('{"alg":"ES256","kid":1}')),
    bearer("kid is a path", P256.token(CLAIMS, "ES256", "../../../../dev/null")),
    bearer("kid with a quote", P256.token(CLAIMS, "ES256", "x' OR '1'='1")),
    bearer("its own key in the header", STRANGER.token(CLAIMS, "RS256", "rsa", jwk=STRANGER.public(kid="rsa"))),
    bearer("its own key, no kid", STRANGER.token(CLAIMS, "RS256", jwk=STRANGER.public())),
    bearer("a key set of its own", STRANGER.token(CLAIMS, "RS256", "rsa", jku="http://127.0.0.1:9/jwks.json")),
    bearer(
        "a certificate of its own", STRANGER.token(CLAIMS, "RS256", "rsa", x5u="http://127.0.0.1:9/c.pem", x5c=["AA"])
    ),
    bearer(
        "crit",
        P256.token(CLAIMS, "ES256", "p256", crit=["exp"]),
        differs="RFC 7515 4.1.11: what is critical and unknown ends it",
    ),
    bearer("crit of b64", P256.token(CLAIMS, "ES256", "p256", crit=["b64"], b64=False), differs="RFC 7515 4.1.11"),
    bearer("signature of zeros", f"{HEAD}.{PAYLOAD}.{b64(bytes(64))}"),
    bearer("DER signature", f"{HEAD}.{PAYLOAD}.{b64(b'0D' + bytes(70))}"),
    bearer("cut signature", f"{HEAD}.{PAYLOAD}.{SIGNATURE[4:]}"),
    bearer("no signature", f"{HEAD}.{PAYLOAD}."),
    bearer("two parts", f"{HEAD}.{PAYLOAD}"),
    bearer("four parts", f"{GOOD}.{SIGNATURE}"),
    bearer("five parts", f"{GOOD}.{SIGNATURE}.{SIGNATURE}"),
    bearer("dots", ".."),
    bearer("nothing but a word", "nonsense"),
    bearer("header part is empty", f".{PAYLOAD}.{SIGNATURE}"),
    bearer("other payload", f"{HEAD}.{b64(json.dumps(claims(sub='root')))}.{SIGNATURE}"),
    bearer("padded header", f"{HEAD}==.{PAYLOAD}.{SIGNATURE}"),
    bearer("padded signature", f"{GOOD}==", differs="RFC 7515 section 2: base64url has no padding"),
    bearer("blank within", f"{HEAD}.{PAYLOAD} .{SIGNATURE}", differs="base64url has one form here; the words tell"),
    bearer("plus and slash", f"{HEAD}.{PAYLOAD}.{'+/' * 43}"),
    bearer(
        "a bit more in the last character",
        GOOD[:-1] + "BCDEFGHIJKLMNOPQRSTUVWXYZ"["AQgw".index(GOOD[-1])],
        differs="base64url has one form here; the words tell",
    ),
    bearer("header is a list", raw('["ES256"]')),
    bearer("header is no JSON", raw("ES256")),
    bearer("alg twice", raw('{"alg":"none","alg":"ES256","kid":"p256"}')),
    bearer("alg twice, the other way", raw('{"alg":"ES256","kid":"p256","alg":"none"}')),
    bearer("white space in JSON", raw('\n{ "alg" : "ES256" , "kid":"p256" }\t')),
    bearer("something behind the header", raw('{"alg":"ES256","kid":"p256"}{}')),
    bearer("a comment in JSON", raw('{"alg":"ES256","kid":"p256"/**/}')),
    bearer("a comma too many", raw('{"alg":"ES256","kid":"p256",}'), differs="RFC 8259"),
    bearer("BOM", raw('\ufeff{"alg":"ES256","kid":"p256"}')),
    bearer("deep", raw(ES256_HEADER, '{"a":' + "[" * 200 + "]" * 200 + "}")),
    bearer("very deep", raw(ES256_HEADER, '{"a":' + "[" * 5000 + "]" * 5000 + "}")),
    bearer("payload is text", raw(ES256_HEADER, '"claims"')),
    bearer("payload is no JSON", raw(ES256_HEADER, "claims")),
    bearer("iss twice", raw(ES256_HEADER, json.dumps(CLAIMS)[:-1] + ', "iss": "second"}')),
    bearer("sub twice", raw(ES256_HEADER, '{"sub": "root", ' + json.dumps(CLAIMS)[1:])),
    bearer("NaN", raw(ES256_HEADER, json.dumps(CLAIMS)[:-1] + ', "value": NaN}')),
    bearer("half a surrogate pair", raw(ES256_HEADER, json.dumps(CLAIMS)[:-1] + ', "value": "\\ud800"}')),
    bearer("a number beyond a double", raw(ES256_HEADER, json.dumps(CLAIMS)[:-1] + ', "value": 1e999}')),
    bearer(
        "a huge token",
        P256.token(claims(fill="x" * 20_000), "ES256", "p256"),
        differs="16 KiB are more than any token needs",
    ),
]

PLACES_TOKEN = good(sub="places")
CLAIM_CHECKS = [
    bearer("good", GOOD),
    bearer("good again, from the cache", GOOD),
    bearer("expired", good(exp=NOW - 3600)),
    bearer("expired within the skew", good(exp=NOW - 30)),
    bearer("not yet", good(nbf=NOW + 3600)),
    bearer("not yet, within the skew", good(nbf=NOW + 30)),
    bearer("already", good(nbf=NOW - 3600)),
    bearer(
        "issued in the future",
        good(iat=NOW + 3600),
        differs="who signs with tomorrow's date has a wrong clock, or lies",
    ),
    bearer("ended at the beginning of time", good(exp=0), differs="0 is a time, too, and it is over"),
    bearer("never ends", good(exp=None)),
    bearer("exp is text", good(exp=str(NOW + 3600))),
    bearer("exp is true", good(exp=True)),
    bearer("exp is null", raw(ES256_HEADER, json.dumps({**CLAIMS, "exp": None}))),
    bearer("exp is negative", good(exp=-1)),
    bearer("exp has a fraction", good(exp=NOW + 3600.5)),
    bearer("exp is huge", good(exp=10**30)),
    bearer("exp is a list", good(exp=[NOW + 3600])),
    bearer("nbf is text", good(nbf="0")),
    bearer("nbf is negative", good(nbf=-1)),
    bearer("iat is text", good(iat="0")),
    bearer("other issuer", good(iss="https://evil.test")),
    bearer("issuer with a slash", good(iss=ISSUER + "/")),
    bearer("issuer in other letters", good(iss=ISSUER.upper())),
    bearer("no issuer", good(iss=None)),
    bearer("issuer is a list", good(iss=[ISSUER])),
    bearer("sub is a number", good(sub=1)),
    bearer("jti is a number", good(jti=1)),
    bearer("other audience", good(aud="elsewhere")),
    bearer("no audience", good(aud=None)),
    bearer("audiences, one of them ours", good(aud=["elsewhere", "other"])),
    bearer("audiences, none of them ours", good(aud=["elsewhere", "apis"])),
    bearer("no audiences", good(aud=[])),
    bearer("audience with a scheme", good(aud="http://api")),
    bearer("audience with a path", good(aud="https://api/v1")),
    bearer("audience is a number", good(aud=1)),
    bearer("audiences with a number", good(aud=["api", 1])),
    bearer("expired and by a stranger", STRANGER.token(claims(exp=1), "RS256", "rsa")),
    bearer("own audience of the rule", good(aud="special"), "/audience"),
    bearer("audience of the provider alone", GOOD, "/audience"),
    *(
        bearer(f"claim {index}", good(value=value, nested={"deep": {"value": "found"}}))
        for index, value in enumerate(
            ("text", "grüße", "", 5, -5, 1.5, 2**53, 1e300, True, False, None, ["a", "b"], {"a": 1}, "a b ")
        )
    ),
    bearer(
        "claim with a line end",
        good(value="a\r\nx-evil: 1"),
        differs="it can be no header: Envoy answers 503, here the others go on",
    ),
    bearer(
        "claim with a NUL", good(value="a\0b"), differs="it can be no header: Envoy answers 503, here the others go on"
    ),
    bearer("nested claim is none", good(nested={"deep": "value"})),
    bearer("any issuer", RSA.token({"iss": "whoever"}, "RS256"), "/anyone"),
    bearer("any issuer, none", P256.token({}, "ES256"), "/anyone"),
    bearer("any issuer, any kid", P256.token({}, "ES256", "whichever"), "/anyone"),
    bearer("any issuer, expired within its skew", P256.token({"exp": NOW - 2}, "ES256"), "/anyone"),
    bearer("any issuer, expired beyond its skew", P256.token({"exp": NOW - 30}, "ES256"), "/anyone"),
    bearer("keys are not known", P256.token({"iss": "unknown"}, "ES256", "p256"), "/unknown"),
    bearer("strict, good", GOOD, "/strict"),
    bearer("strict, never ends", good(exp=None), "/strict"),
    bearer("strict, lives too long", good(exp=NOW + 72_000), "/strict"),
    bearer("strict, another subject", good(sub="bob"), "/strict"),
    bearer("by name", GOOD, "/named"),
]

WHERE = [
    Asked("missing", "/main", ()),
    Asked("missing, with a query", "/main?a=b&c", ()),
    Asked("missing, long path", "/main/" + "x" * 400, ()),
    Asked("missing, with a quote", '/main?"a', (), differs="a quote would end the challenge's text"),
    Asked("no rule", "/nowhere", ()),
    Asked("nothing required", "/open", (("authorization", "Bearer nonsense"),)),
    Asked("preflight", "/main", (("origin", "http://a"), ("access-control-request-method", "GET")), method="OPTIONS"),
    Asked("preflight without a method", "/main", (("origin", "http://a"),), method="OPTIONS"),
    Asked("options", "/main", (), method="OPTIONS"),
    Asked("basic", "/main", (("authorization", "Basic YTpi"),)),
    Asked("small letters", "/main", (("authorization", f"bearer {GOOD}"),)),
    Asked("no prefix", "/main", (("authorization", GOOD),)),
    Asked("prefix alone", "/main", (("authorization", "Bearer"),)),
    Asked("two blanks", "/main", (("authorization", f"Bearer  {GOOD}"),)),
    Asked("quoted", "/main", (("authorization", f'Bearer "{GOOD}"'),)),
    Asked("something before", "/main", (("authorization", f"Digest x, Bearer {GOOD}"),)),
    Asked("something behind", "/main", (("authorization", f"Bearer {GOOD}, Basic YTpi"),)),
    Asked("twice the same", "/main", (("authorization", f"Bearer {GOOD}"),) * 2),
    Asked("good and bad", "/main", (("authorization", f"Bearer {GOOD}"), ("authorization", "Bearer bad"))),
    Asked("bad and good", "/main", (("authorization", "Bearer bad"), ("authorization", f"Bearer {GOOD}"))),
    Asked("good and basic", "/main", (("authorization", f"Bearer {GOOD}"), ("authorization", "Basic YTpi"))),
    Asked("parameter", f"/main?access_token={GOOD}", ()),
    Asked("parameter among others", f"/main?a=1&access_token={GOOD}&b=2", ()),
    Asked(
        "parameter, others not in order", f"/main?b=2&access_token={GOOD}&a=1", (), "the query stays as it was written"
    ),
    Asked("parameter, escaped", f"/main?access%5ftoken={GOOD.replace('.', '%2E')}", ()),
    Asked("parameter, others escaped", f"/main?a=%41%2f&access_token={GOOD}", (), "the query stays as it was written"),
    Asked("parameter, half an escape", f"/main?access_token={GOOD}%2", ()),
    Asked(
        "parameter twice, second bad",
        f"/main?access_token={GOOD}&access_token=bad",
        (),
        "the app may take the other one",
    ),
    Asked("parameter twice, first bad", f"/main?access_token=bad&access_token={GOOD}", ()),
    Asked("empty parameter", "/main?access_token=", ()),
    Asked("parameter and header", f"/main?access_token={GOOD}", (("authorization", f"Bearer {GOOD}"),)),
    Asked("bad parameter, good header", "/main?access_token=bad", (("authorization", f"Bearer {GOOD}"),)),
    Asked("good parameter, bad header", f"/main?access_token={GOOD}", (("authorization", "Bearer bad"),)),
    Asked(
        "own headers are believed of nobody",
        "/main",
        (("authorization", f"Bearer {GOOD}"), ("x-sub", "root"), ("x-payload", "e30"), ("x-nested", "evil")),
    ),
    Asked("own headers without a token", "/optional", (("x-sub", "root"), ("X-Payload", "e30"), ("x-value", "1"))),
    Asked(
        "own headers with an underscore",
        "/main",
        (("authorization", f"Bearer {GOOD}"), ("x_sub", "root")),
        "to many apps x_sub and x-sub are one",
    ),
    Asked("own headers, no rule", "/nowhere", (("x-sub", "root"),)),
    Asked(
        "own headers of the other provider", "/istio", (("authorization", f"Bearer {GOOD}"), ("x-second-sub", "root"))
    ),
    Asked("kept", "/kept?a=1", (("authorization", f"Bearer {GOOD}"), ("x-sub", "app's"))),
    Asked("optional, none", "/optional", ()),
    Asked("optional, good", "/optional", (("authorization", f"Bearer {GOOD}"),)),
    Asked("optional, bad", "/optional", (("authorization", "Bearer bad"),)),
    Asked("optional, expired", "/optional", (("authorization", f"Bearer {good(exp=1)}"),)),
    Asked("optional, another's", "/optional", (("authorization", f"Bearer {SECOND}"),)),
    Asked("istio, none", "/istio", ()),
    Asked("istio, first", "/istio", (("authorization", f"Bearer {GOOD}"),)),
    Asked("istio, second", "/istio", (("x-second", SECOND),)),
    Asked("istio, both", "/istio", (("authorization", f"Bearer {GOOD}"), ("x-second", SECOND))),
    Asked("istio, first bad", "/istio", (("authorization", "Bearer bad"),)),
    Asked("istio, second bad", "/istio", (("x-second", "bad"),)),
    Asked("istio, unknown issuer", "/istio", (("authorization", f"Bearer {good(iss='nobody')}"),)),
    Asked("istio, first bad, second good", "/istio", (("authorization", "Bearer bad"), ("x-second", SECOND))),
    Asked("both, none", "/both", ()),
    Asked("both, one", "/both", (("authorization", f"Bearer {GOOD}"),)),
    Asked("both, both", "/both", (("authorization", f"Bearer {GOOD}"), ("x-second", SECOND))),
    Asked("either, none", "/either", ()),
    Asked("either, expired and missing", "/either", (("authorization", f"Bearer {good(exp=1)}"),)),
    Asked("either, unknown and bad", "/either", (("authorization", f"Bearer {good(iss='x')}"), ("x-second", "bad"))),
    Asked("allowed to be missing, none", "/missing", ()),
    Asked("allowed to be missing, second's", "/missing", (("x-second", SECOND),)),
    Asked("allowed to be missing, bad", "/missing", (("x-second", "bad"),)),
    Asked("allowed to be missing, in the wrong place", "/missing", (("x-second", GOOD),)),
    Asked("allowed to fail, bad", "/failed", (("x-second", "bad"),)),
    Asked("allowed to fail, good", "/failed", (("x-second", SECOND),)),
    Asked("allowed to fail, none", "/failed", ()),
    Asked("header with a prefix", "/places", (("x-jwt", f"JWT {PLACES_TOKEN}"),)),
    Asked("header with another prefix", "/places", (("x-jwt", f"Bearer {PLACES_TOKEN}"),)),
    Asked("header without a prefix", "/places", (("x-plain", PLACES_TOKEN),)),
    Asked("empty header", "/places", (("x-plain", ""),)),
    Asked("not the default place", "/places", (("authorization", f"Bearer {PLACES_TOKEN}"),)),
    Asked("parameter of another name", f"/places?jwt={PLACES_TOKEN}", ()),
    Asked("parameter with a blank", f"/places?my%20token={PLACES_TOKEN}", ()),
    Asked("parameter with a plus", f"/places?my+token={PLACES_TOKEN}", ()),
    Asked(
        "cookie", "/places", (("cookie", f"a=1; session={PLACES_TOKEN}; b=2"),), "a token that is not to go on does not"
    ),
    Asked(
        "quoted cookie", "/places", (("cookie", f'session="{PLACES_TOKEN}"'),), "a token that is not to go on does not"
    ),
    Asked("bad cookie", "/places", (("cookie", "session=bad"),)),
    Asked("other cookie", "/places", (("cookie", f"session2={PLACES_TOKEN}"),)),
    Asked(
        "cookie twice, second bad",
        "/places",
        (("cookie", f"session={PLACES_TOKEN}; session=bad"),),
        "the app may take the other one",
    ),
    Asked("good cookie, bad header", "/places", (("cookie", f"session={PLACES_TOKEN}"), ("x-plain", "bad"))),
]

EVERYTHING = [*ALGORITHMS, *ATTACKS, *CLAIM_CHECKS, *WHERE]
