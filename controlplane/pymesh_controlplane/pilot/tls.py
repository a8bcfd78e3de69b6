"""Transport sockets: the mesh's own mutual TLS, and what a DestinationRule asks for. Pure."""

from collections.abc import Sequence
from typing import Final

from envoy.config.core.v3 import base_pb2, config_source_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.type.matcher.v3 import string_pb2
from google.protobuf.wrappers_pb2 import BoolValue

from pymesh import names
from pymesh.resources.istio.destination_rule import ClientTLSSettings
from pymesh.resources.istio.gateway import ServerTLSSettings
from pymesh_controlplane.pilot.messages import ads, grpc_service, packed

# The cluster of the agent's socket in the bootstrap of a proxy that gets its certificates by SDS.
SDS_CLUSTER: Final = "sds-grpc"
TRANSPORT_TLS: Final = "envoy.transport_sockets.tls"
TRANSPORT_RAW: Final = "envoy.transport_sockets.raw_buffer"
# Roots for TLS to the outside where the rule names none; the bundle of Debian and its relatives.
SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
# What a gateway offers to clients from outside; HTTP/2 joins once the proxy speaks it.
GATEWAY_ALPN: Final = ("http/1.1",)

_VERSIONS: Final = {
    "TLSV1_2": common_pb2.TlsParameters.TLSv1_2,
    "TLSV1_3": common_pb2.TlsParameters.TLSv1_3,
}


def raw() -> base_pb2.TransportSocket:
    """No TLS."""
    return base_pb2.TransportSocket(name=TRANSPORT_RAW, typed_config=packed(raw_buffer_pb2.RawBuffer()))


def mesh_client(sni: str, accounts: Sequence[str], alpn: Sequence[str]) -> base_pb2.TransportSocket:
    """Mutual TLS to a sidecar that must prove to be one of `accounts` (SPIFFE URIs)."""
    context = tls_pb2.UpstreamTlsContext(
        sni=sni, common_tls_context=_mesh([_subject(account) for account in accounts], alpn)
    )
    return _socket(context)


def mesh_server(alpn: Sequence[str], trust_domains: Sequence[str]) -> base_pb2.TransportSocket:
    """Mutual TLS from any workload of the mesh: its certificate is required, must lead to the mesh's roots and be of
    one of `trust_domains`. A root that was brought along may stand above other meshes, too.
    """
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=_mesh([_any_of(domain) for domain in trust_domains], alpn),
        require_client_certificate=BoolValue(value=True),
    )
    return _socket(context)


def gateway_server(settings: ServerTLSSettings, secrets: Sequence[str]) -> base_pb2.TransportSocket:
    """TLS for clients from outside, with a certificate that comes by name over ADS.

    `secrets` are the names of the certificate and, for MUTUAL, of what clients' certificates must lead to; then one is
    demanded, and it must be for one of the server's `subjectAltNames` where there are some.
    """
    certificate, *roots = secrets
    lowest = _VERSIONS.get(settings.min_protocol_version, common_pb2.TlsParameters.TLSv1_2)
    highest = _VERSIONS.get(settings.max_protocol_version, common_pb2.TlsParameters.TLS_AUTO)
    common = tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(tls_minimum_protocol_version=lowest, tls_maximum_protocol_version=highest),
        tls_certificate_sds_secret_configs=[secret_pb2.SdsSecretConfig(name=certificate, sds_config=ads())],
        alpn_protocols=GATEWAY_ALPN,
    )
    context = tls_pb2.DownstreamTlsContext(common_tls_context=common)
    for name in roots:
        combined = context.common_tls_context.combined_validation_context
        combined.validation_context_sds_secret_config.CopyFrom(secret_pb2.SdsSecretConfig(name=name, sds_config=ads()))
        accepted = [_subject(subject) for subject in settings.subject_alt_names]
        combined.default_validation_context.match_typed_subject_alt_names.extend(accepted)
        context.require_client_certificate.value = True
    return _socket(context)


def client(settings: ClientTLSSettings, host: str) -> base_pb2.TransportSocket:
    """TLS as a DestinationRule with mode SIMPLE or MUTUAL asks for; the peer's name is always checked."""
    sni = settings.sni or ("" if host.startswith("*") else host)
    accepted = settings.subject_alt_names or ([sni] if sni else [])
    validation = common_pb2.CertificateValidationContext(
        trusted_ca=base_pb2.DataSource(filename=settings.ca_certificates or SYSTEM_ROOTS),
        match_typed_subject_alt_names=[_subject(name) for name in accepted],
    )
    context = tls_pb2.CommonTlsContext(validation_context=validation)
    if settings.mode == "MUTUAL":
        context.tls_certificates.add(
            certificate_chain=base_pb2.DataSource(filename=settings.client_certificate),
            private_key=base_pb2.DataSource(filename=settings.private_key),
        )
    return _socket(tls_pb2.UpstreamTlsContext(sni=sni, common_tls_context=context))


def _socket(context: tls_pb2.UpstreamTlsContext | tls_pb2.DownstreamTlsContext) -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(name=TRANSPORT_TLS, typed_config=packed(context))


def _mesh(peers: Sequence[common_pb2.SubjectAltNameMatcher], alpn: Sequence[str]) -> tls_pb2.CommonTlsContext:
    return tls_pb2.CommonTlsContext(
        tls_params=common_pb2.TlsParameters(tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2),
        tls_certificate_sds_secret_configs=[_sds(names.SDS_WORKLOAD)],
        combined_validation_context=tls_pb2.CommonTlsContext.CombinedCertificateValidationContext(
            default_validation_context=common_pb2.CertificateValidationContext(match_typed_subject_alt_names=peers),
            validation_context_sds_secret_config=_sds(names.SDS_ROOT),
        ),
        alpn_protocols=alpn,
    )


def _sds(name: str) -> secret_pb2.SdsSecretConfig:
    source = config_source_pb2.ApiConfigSource(
        api_type=config_source_pb2.ApiConfigSource.GRPC,
        transport_api_version=config_source_pb2.ApiVersion.V3,
        grpc_services=[grpc_service(SDS_CLUSTER)],
        set_node_on_first_message_only=True,
    )
    return secret_pb2.SdsSecretConfig(
        name=name,
        sds_config=config_source_pb2.ConfigSource(
            api_config_source=source, resource_api_version=config_source_pb2.ApiVersion.V3
        ),
    )


def _any_of(trust_domain: str) -> common_pb2.SubjectAltNameMatcher:
    matcher = string_pb2.StringMatcher(prefix=f"spiffe://{trust_domain}/")
    return common_pb2.SubjectAltNameMatcher(san_type=common_pb2.SubjectAltNameMatcher.URI, matcher=matcher)


def _subject(name: str) -> common_pb2.SubjectAltNameMatcher:
    kind = common_pb2.SubjectAltNameMatcher.URI if "://" in name else common_pb2.SubjectAltNameMatcher.DNS
    return common_pb2.SubjectAltNameMatcher(san_type=kind, matcher=string_pb2.StringMatcher(exact=name))
