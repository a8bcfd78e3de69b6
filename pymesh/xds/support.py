"""The one table of the xDS fields that pymesh-proxy supports.

What is not in the table is refused (`check.py`), never ignored. Fields at their default value
count as not set. docs/support.md is generated from this table.

A note says what a field's support leaves out; an `only` lists the values that a field may have. Further limits, those
that need more than one field to be stated, are checked where the message is compiled (`pymesh_proxy.config`), and the
notes name them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Support:
    """What is supported of one message.

    Attributes:
        fields: names of the supported fields, separated by white space.
        notes: field -> what is different or left out.
        only: enum field -> the values it may have, by name.
        opaque: fields whose content is not looked at, since it means nothing to pymesh-proxy; each has a note.
        names: the supported fields as a set.
    """

    fields: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    opaque: tuple[str, ...] = ()
    names: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(self.fields.split()))


_BOOTSTRAP: Final = "envoy.config.bootstrap.v3.Bootstrap"
_CORE: Final = "envoy.config.core.v3."
_LISTENER: Final = "envoy.config.listener.v3."
_HCM: Final = "envoy.extensions.filters.network.http_connection_manager.v3."
_EXT_AUTHZ: Final = "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz"
_JWT: Final = "envoy.extensions.filters.http.jwt_authn.v3."
_RBAC: Final = "envoy.extensions.filters.http.rbac.v3.RBAC"
_NETWORK_RBAC: Final = "envoy.extensions.filters.network.rbac.v3.RBAC"
_RULES: Final = "envoy.config.rbac.v3."
_TCP: Final = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
_GRPC_LOG: Final = "envoy.extensions.access_loggers.grpc.v3."
_ROUTE: Final = "envoy.config.route.v3."
_CLUSTER: Final = "envoy.config.cluster.v3."
_ENDPOINT: Final = "envoy.config.endpoint.v3."
_TLS: Final = "envoy.extensions.transport_sockets.tls.v3."
_MATCHER: Final = "envoy.type.matcher.v3."
_UPSTREAM_HTTP: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

_NO_SUBSTITUTION: Final = "plain values: `%` only as `%%`, command operators are refused"
_MAKE_AND_BREAK: Final = "no effect: nothing waits for a resource; until it is there, requests get 503 or 404"

SUPPORTED: Final[Mapping[str, Support]] = {
    # --- bootstrap ---
    _BOOTSTRAP: Support("node static_resources dynamic_resources admin"),
    f"{_BOOTSTRAP}.StaticResources": Support("listeners clusters"),
    f"{_BOOTSTRAP}.DynamicResources": Support(
        "lds_config cds_config ads_config",
        {
            "lds_config": "`ads` only",
            "cds_config": "`ads` only",
            "ads_config": "of its static cluster count the one endpoint and, for TLS, `sni`, which the server's "
            "certificate has to name, and `trusted_ca.filename`, read at each connect",
        },
    ),
    "envoy.config.bootstrap.v3.Admin": Support("address"),
    f"{_CORE}Node": Support("id cluster metadata locality user_agent_name user_agent_version"),
    f"{_CORE}Locality": Support("region zone sub_zone"),
    f"{_CORE}ConfigSource": Support(
        "ads initial_fetch_timeout resource_api_version",
        {"initial_fetch_timeout": _MAKE_AND_BREAK},
        only={"resource_api_version": ("V3",)},
    ),
    f"{_CORE}AggregatedConfigSource": Support(),
    f"{_CORE}ApiConfigSource": Support(
        "api_type transport_api_version grpc_services set_node_on_first_message_only",
        {
            "grpc_services": "exactly one, `envoy_grpc`",
            "set_node_on_first_message_only": "no effect: the node is always sent once per stream",
        },
        only={"api_type": ("GRPC", "DELTA_GRPC"), "transport_api_version": ("V3",)},
    ),
    f"{_CORE}GrpcService": Support("envoy_grpc timeout", {"timeout": "of `ext_authz` only"}),
    f"{_CORE}GrpcService.EnvoyGrpc": Support("cluster_name authority", {"authority": "of `ext_authz` only"}),
    # --- addresses, data ---
    f"{_CORE}Address": Support("socket_address"),
    f"{_CORE}SocketAddress": Support("protocol address port_value", only={"protocol": ("TCP",)}),
    f"{_CORE}CidrRange": Support("address_prefix prefix_len"),
    f"{_CORE}BindConfig": Support(
        "source_address extra_source_addresses",
        {"source_address": "port 0 only", "extra_source_addresses": "at most one, of the other address family"},
    ),
    f"{_CORE}ExtraSourceAddress": Support("address", {"address": "port 0 only"}),
    f"{_CORE}DataSource": Support(
        "filename inline_bytes inline_string", {"filename": "read when the resource is accepted"}
    ),
    f"{_CORE}Metadata": Support(
        "filter_metadata",
        {
            "filter_metadata": "read: `pymesh` and `istio` (where a route or service comes from, workload labels) and, "
            "on endpoints, `envoy.transport_socket_match`; other keys are carried for others and mean nothing here"
        },
    ),
    f"{_CORE}TransportSocket": Support("name typed_config"),
    f"{_CORE}TypedExtensionConfig": Support("name typed_config"),
    f"{_CORE}RuntimeFractionalPercent": Support("default_value", {"default_value": "there is no runtime to override"}),
    "envoy.type.v3.FractionalPercent": Support("numerator denominator"),
    "envoy.type.v3.Int64Range": Support("start end"),
    f"{_CORE}HeaderValueOption": Support(
        "header append_action keep_empty_value",
        only={"append_action": ("APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT", "OVERWRITE_IF_EXISTS_OR_ADD")},
    ),
    f"{_CORE}HeaderValue": Support(
        "key value", {"key": "not `:`-prefixed and not `host`, as in Envoy", "value": _NO_SUBSTITUTION}
    ),
    # --- listeners ---
    f"{_LISTENER}Listener": Support(
        "name address filter_chains default_filter_chain listener_filters listener_filters_timeout "
        "continue_on_listener_filters_timeout use_original_dst traffic_direction bind_to_port stat_prefix",
        {
            "address": "pymesh-proxy may serve it from `--listen` instead; port 15001 and 15006 by direction",
            "stat_prefix": "no effect: metrics carry the resource's own name",
        },
    ),
    f"{_LISTENER}ListenerFilter": Support("name typed_config"),
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst": Support(),
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector": Support(),
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector": Support(),
    f"{_LISTENER}FilterChain": Support(
        "name filter_chain_match filters transport_socket transport_socket_connect_timeout metadata",
        {"filters": "exactly one: http_connection_manager or tcp_proxy"},
    ),
    f"{_LISTENER}FilterChainMatch": Support(
        "destination_port prefix_ranges server_names transport_protocol application_protocols",
        {"transport_protocol": "`tls` or `raw_buffer`"},
    ),
    f"{_LISTENER}Filter": Support("name typed_config"),
    # --- network filters ---
    f"{_HCM}HttpConnectionManager": Support(
        "codec_type stat_prefix rds route_config http_filters common_http_protocol_options http_protocol_options "
        "server_name server_header_transformation via max_request_headers_kb stream_idle_timeout request_timeout "
        "request_headers_timeout drain_timeout access_log use_remote_address xff_num_trusted_hops skip_xff_append "
        "internal_address_config "
        "generate_request_id preserve_external_request_id always_set_request_id_in_response "
        "forward_client_cert_details set_current_client_cert_details upgrade_configs normalize_path merge_slashes "
        "path_with_escaped_slashes_action strip_matching_host_port tracing",
        {
            "http_filters": "`envoy.filters.http.router` last; an unknown filter is left out only if `is_optional`",
            "drain_timeout": "after `max_connection_duration`; a proxy that shuts down takes `--drain-time`",
            "upgrade_configs": "one that is not allowed is not asked for: the request goes on without, Envoy says 403",
        },
        only={"codec_type": ("AUTO", "HTTP1")},
    ),
    f"{_HCM}HttpConnectionManager.Tracing": Support(
        "client_sampling random_sampling overall_sampling provider",
        {"random_sampling": "of requests without a trace; a caller that has decided is believed (docs/tracing.md)"},
    ),
    "envoy.config.trace.v3.Tracing.Http": Support("name typed_config"),
    "envoy.config.trace.v3.OpenTelemetryConfig": Support(
        "grpc_service service_name",
        {"grpc_service": "`envoy_grpc`; a cluster with `http2_protocol_options`"},
    ),
    f"{_HCM}Rds": Support("config_source route_config_name", {"config_source": "`ads` only"}),
    f"{_HCM}HttpConnectionManager.InternalAddressConfig": Support("cidr_ranges"),
    f"{_HCM}HttpFilter": Support("name typed_config is_optional disabled"),
    f"{_HCM}HttpConnectionManager.UpgradeConfig": Support("upgrade_type enabled"),
    f"{_HCM}HttpConnectionManager.SetCurrentClientCertDetails": Support("subject dns uri"),
    "envoy.extensions.filters.http.router.v3.Router": Support(),
    _EXT_AUTHZ: Support(
        "grpc_service transport_api_version failure_mode_allow failure_mode_allow_header_add status_on_error "
        "allowed_headers disallowed_headers stat_prefix validate_mutations filter_enabled_metadata "
        "metadata_context_namespaces",
        {
            "grpc_service": "`envoy_grpc` and `timeout` (0.2 s by default)",
            "stat_prefix": "no effect: metrics carry the cluster's name",
            "validate_mutations": "always on: an answer that would set a header that cannot be, `host`, a `:`-header "
            "or the message's framing gets 500, flag UAEX",
        },
        only={"transport_api_version": ("V3",)},
    ),
    f"{_JWT}JwtAuthentication": Support(
        "providers rules bypass_cors_preflight requirement_map strip_failure_response stat_prefix"
    ),
    f"{_JWT}RequirementRule": Support(
        "match requires requirement_name", {"match": "without `runtime_fraction`: who has to show a token is no chance"}
    ),
    f"{_JWT}JwtRequirement": Support(
        "provider_name provider_and_audiences requires_any requires_all allow_missing_or_failed allow_missing"
    ),
    f"{_JWT}JwtRequirementOrList": Support("requirements"),
    f"{_JWT}JwtRequirementAndList": Support("requirements"),
    f"{_JWT}ProviderWithAudiences": Support("provider_name audiences"),
    f"{_JWT}JwtProvider": Support(
        "issuer audiences subjects require_expiration max_lifetime local_jwks forward from_headers from_params "
        "from_cookies forward_payload_header pad_forward_payload_header payload_in_metadata "
        "normalize_payload_in_metadata header_in_metadata clock_skew_seconds jwt_cache_config claim_to_headers "
        "clear_route_cache",
        {
            "local_jwks": "RSA of 2048 to 8192 bits, P-256, P-384, P-521 and Ed25519; a set with a private or a "
            "symmetric key is refused. Keys are fetched by pilot, so `remote_jwks` is not needed",
            "from_cookies": "taken off as well, unless `forward` is set",
            "jwt_cache_config": "500 verified tokens are kept without it; at most 50,000",
            "clear_route_cache": "no effect: the route is found once the filters have seen the request",
        },
    ),
    f"{_JWT}JwtProvider.NormalizePayload": Support("space_delimited_claims"),
    f"{_JWT}JwtHeader": Support("name value_prefix"),
    f"{_JWT}JwtClaimToHeader": Support("header_name claim_name"),
    f"{_JWT}JwtCacheConfig": Support("jwt_cache_size jwt_max_token_size"),
    _RBAC: Support("rules rules_stat_prefix shadow_rules shadow_rules_stat_prefix"),
    f"{_RULES}RBAC": Support("action policies"),
    f"{_RULES}Policy": Support("permissions principals"),
    f"{_RULES}Permission": Support(
        "and_rules or_rules any header url_path uri_template destination_ip destination_port destination_port_range "
        "metadata sourced_metadata not_rule requested_server_name",
        {"uri_template": "a `UriTemplateMatchConfig`", "requested_server_name": "of the ClientHello; empty without"},
    ),
    f"{_RULES}Permission.Set": Support("rules"),
    f"{_RULES}Principal": Support(
        "and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip header url_path metadata "
        "sourced_metadata not_id",
        {
            "source_ip": "as `direct_remote_ip`: the connection's own address",
            "remote_ip": "the client's, by `use_remote_address`, `xff_num_trusted_hops` and x-forwarded-for",
            "metadata": "what filters before this one have told: `envoy.filters.http.jwt_authn` and the like",
        },
    ),
    f"{_RULES}SourcedMetadata": Support("metadata_matcher metadata_source", only={"metadata_source": ("DYNAMIC",)}),
    f"{_MATCHER}MetadataMatcher": Support("filter path value invert"),
    f"{_MATCHER}MetadataMatcher.PathSegment": Support("key"),
    f"{_MATCHER}ValueMatcher": Support(
        "null_match double_match string_match bool_match present_match list_match or_match"
    ),
    f"{_MATCHER}ValueMatcher.NullMatch": Support(),
    f"{_MATCHER}DoubleMatcher": Support("range exact"),
    f"{_MATCHER}ListMatcher": Support("one_of"),
    f"{_MATCHER}OrMatcher": Support("value_matchers"),
    "envoy.type.v3.DoubleRange": Support("start end"),
    "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig": Support("path_template"),
    _NETWORK_RBAC: Support(
        "rules shadow_rules shadow_rules_stat_prefix stat_prefix enforcement_type",
        {
            "rules": "what they ask about requests is refused (`remote_ip` is the connection's); decided before the "
            "first byte, and not with it",
        },
        only={"enforcement_type": ("ONE_TIME_ON_FIRST_BYTE",)},
    ),
    f"{_RULES}Principal.Set": Support("ids"),
    f"{_RULES}Principal.Authenticated": Support("principal_name"),
    f"{_MATCHER}PathMatcher": Support("path"),
    "envoy.type.v3.Int32Range": Support("start end"),
    f"{_MATCHER}ListStringMatcher": Support("patterns"),
    "envoy.type.v3.HttpStatus": Support("code"),
    "xds.type.v3.TypedStruct": Support(
        "type_url value",
        {
            "type_url": "`type.googleapis.com/pymesh.policy.v1alpha1.Policy`: the filter that asks the policy service; "
            "`type.googleapis.com/pymesh.filters.v1alpha1.Python`: a filter in plain Python (docs/filters.md)",
            "value": "Policy: `cluster`, `timeout`, `rules`: `name`, `kind`, `max`, `failure_mode`, `otherwise`, `by`; "
            "Python: `class`, `config`, `timeout`, `failure_mode_allow`",
        },
    ),
    f"{_CORE}HttpProtocolOptions": Support(
        "idle_timeout max_connection_duration max_headers_count max_requests_per_connection",
        {"max_connection_duration": "downstream only", "max_headers_count": "downstream only"},
    ),
    f"{_CORE}Http1ProtocolOptions": Support(
        "accept_http_10 default_host_for_http_10", {"accept_http_10": "downstream"}
    ),
    _TCP: Support("stat_prefix cluster weighted_clusters idle_timeout access_log max_connect_attempts hash_policy"),
    "envoy.type.v3.HashPolicy": Support("source_ip"),
    "envoy.type.v3.HashPolicy.SourceIp": Support(),
    f"{_TCP}.WeightedCluster": Support("clusters"),
    f"{_TCP}.WeightedCluster.ClusterWeight": Support("name weight"),
    # --- access logs ---
    "envoy.config.accesslog.v3.AccessLog": Support("name typed_config"),
    "envoy.extensions.access_loggers.file.v3.FileAccessLog": Support("path log_format"),
    "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog": Support("log_format"),
    f"{_GRPC_LOG}HttpGrpcAccessLogConfig": Support(
        "common_config additional_request_headers_to_log additional_response_headers_to_log",
        {"common_config": "of an http_connection_manager; pymesh's own tags: pymesh/telemetry_tags.py"},
    ),
    f"{_GRPC_LOG}TcpGrpcAccessLogConfig": Support("common_config", {"common_config": "of a tcp_proxy"}),
    f"{_GRPC_LOG}CommonGrpcAccessLogConfig": Support(
        "log_name grpc_service transport_api_version buffer_flush_interval buffer_size_bytes",
        {
            "grpc_service": "`envoy_grpc`; a cluster with `http2_protocol_options`",
            "buffer_size_bytes": "0 sends each entry by itself; of what cannot be sent, the last 2 MiB wait",
        },
        only={"transport_api_version": ("V3",)},
    ),
    f"{_CORE}SubstitutionFormatString": Support(
        "text_format text_format_source json_format", {"json_format": "flat: strings only"}
    ),
    # --- routes ---
    f"{_ROUTE}RouteConfiguration": Support(
        "name virtual_hosts request_headers_to_add request_headers_to_remove response_headers_to_add "
        "response_headers_to_remove most_specific_header_mutations_wins validate_clusters "
        "ignore_port_in_host_matching max_direct_response_body_size_bytes metadata"
    ),
    f"{_ROUTE}VirtualHost": Support(
        "name domains routes request_headers_to_add request_headers_to_remove response_headers_to_add "
        "response_headers_to_remove retry_policy metadata include_request_attempt_count "
        "include_attempt_count_in_response"
    ),
    f"{_ROUTE}Route": Support(
        "name match route redirect direct_response metadata request_headers_to_add request_headers_to_remove "
        "response_headers_to_add response_headers_to_remove"
    ),
    f"{_ROUTE}RouteMatch": Support(
        "prefix path safe_regex path_separated_prefix case_sensitive runtime_fraction headers query_parameters"
    ),
    f"{_ROUTE}HeaderMatcher": Support(
        "name exact_match prefix_match suffix_match contains_match safe_regex_match range_match present_match "
        "string_match invert_match treat_missing_header_as_empty"
    ),
    f"{_ROUTE}QueryParameterMatcher": Support("name string_match present_match"),
    f"{_MATCHER}StringMatcher": Support("exact prefix suffix contains safe_regex ignore_case"),
    f"{_MATCHER}RegexMatcher": Support("regex google_re2", {"google_re2": "no effect: it is always RE2"}),
    f"{_MATCHER}RegexMatcher.GoogleRE2": Support(),
    f"{_MATCHER}RegexMatchAndSubstitute": Support("pattern substitution"),
    f"{_ROUTE}RouteAction": Support(
        "cluster weighted_clusters prefix_rewrite regex_rewrite host_rewrite_literal auto_host_rewrite timeout "
        "idle_timeout retry_policy upgrade_configs hash_policy"
    ),
    f"{_ROUTE}RouteAction.HashPolicy": Support("header cookie connection_properties query_parameter terminal"),
    f"{_ROUTE}RouteAction.HashPolicy.Header": Support("header_name regex_rewrite"),
    f"{_ROUTE}RouteAction.HashPolicy.Cookie": Support("name ttl path attributes"),
    f"{_ROUTE}RouteAction.HashPolicy.CookieAttribute": Support("name value"),
    f"{_ROUTE}RouteAction.HashPolicy.ConnectionProperties": Support("source_ip"),
    f"{_ROUTE}RouteAction.HashPolicy.QueryParameter": Support("name"),
    f"{_ROUTE}RouteAction.UpgradeConfig": Support("upgrade_type enabled"),
    f"{_ROUTE}WeightedCluster": Support("clusters total_weight"),
    f"{_ROUTE}WeightedCluster.ClusterWeight": Support("name weight"),
    f"{_ROUTE}RetryPolicy": Support(
        "retry_on num_retries per_try_timeout retriable_status_codes retriable_headers retriable_request_headers "
        "retry_back_off retry_host_predicate "
        "host_selection_retry_max_attempts",
        {
            "retry_on": "connection failures are retried, where that is safe, even if it does not name them: "
            "see pymesh_proxy/upstream/retry.py",
            "retry_host_predicate": "`previous_hosts`; no effect: a retry always prefers an endpoint not yet tried",
            "host_selection_retry_max_attempts": "no effect: untried endpoints are chosen from directly",
        },
    ),
    f"{_ROUTE}RetryPolicy.RetryBackOff": Support("base_interval max_interval"),
    f"{_ROUTE}RetryPolicy.RetryHostPredicate": Support("name typed_config"),
    "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate": Support(),
    f"{_ROUTE}RedirectAction": Support(
        "https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite "
        "response_code strip_query"
    ),
    f"{_ROUTE}DirectResponseAction": Support("status body"),
    # --- clusters ---
    f"{_CLUSTER}Cluster": Support(
        "name alt_stat_name type eds_cluster_config connect_timeout lb_policy load_assignment circuit_breakers "
        "typed_extension_protocol_options dns_refresh_rate dns_failure_refresh_rate dns_lookup_family "
        "upstream_bind_config least_request_lb_config round_robin_lb_config ring_hash_lb_config common_lb_config "
        "transport_socket_matches transport_socket metadata health_checks outlier_detection",
        {
            "alt_stat_name": "no effect: metrics carry the resource's own name",
            "dns_refresh_rate": "the record's own time to live is not known to the system's resolver",
            "lb_policy": "CLUSTER_PROVIDED with ORIGINAL_DST, and only there",
        },
        only={"lb_policy": ("ROUND_ROBIN", "LEAST_REQUEST", "RANDOM", "RING_HASH", "CLUSTER_PROVIDED")},
    ),
    f"{_CLUSTER}Cluster.EdsClusterConfig": Support("eds_config service_name", {"eds_config": "`ads` only"}),
    f"{_CLUSTER}Cluster.RefreshRate": Support("base_interval max_interval"),
    f"{_CLUSTER}Cluster.LeastRequestLbConfig": Support(
        "choice_count active_request_bias", {"active_request_bias": "0 to 10"}
    ),
    f"{_CLUSTER}Cluster.RoundRobinLbConfig": Support(),
    f"{_CLUSTER}Cluster.RingHashLbConfig": Support(
        "minimum_ring_size hash_function maximum_ring_size", {"minimum_ring_size": "at most 65536"}
    ),
    f"{_CLUSTER}Cluster.CommonLbConfig": Support(
        "healthy_panic_threshold locality_weighted_lb_config consistent_hashing_lb_config"
    ),
    f"{_CLUSTER}Cluster.CommonLbConfig.LocalityWeightedLbConfig": Support(),
    f"{_CLUSTER}Cluster.CommonLbConfig.ConsistentHashingLbConfig": Support("use_hostname_for_hashing"),
    f"{_CORE}RuntimeDouble": Support(
        "default_value runtime_key", {"runtime_key": "no effect: there is no runtime to override"}
    ),
    "envoy.type.v3.Percent": Support("value"),
    f"{_CLUSTER}Cluster.TransportSocketMatch": Support(
        "name match transport_socket", {"match": "string, number and boolean values"}
    ),
    f"{_CORE}HealthCheck": Support(
        "timeout interval initial_jitter interval_jitter interval_jitter_percent unhealthy_threshold "
        "healthy_threshold reuse_connection http_health_check tcp_health_check no_traffic_interval "
        "no_traffic_healthy_interval unhealthy_interval unhealthy_edge_interval healthy_edge_interval",
        {
            "reuse_connection": "of HTTP checks; TCP checks make a connection each",
            "initial_jitter": "listeners do not wait for the first round of checks, as Envoy's do at its start",
        },
    ),
    f"{_CORE}HealthCheck.HttpHealthCheck": Support(
        "host path method expected_statuses retriable_statuses codec_client_type",
        only={"codec_client_type": ("HTTP1",)},
    ),
    f"{_CORE}HealthCheck.TcpHealthCheck": Support("send receive"),
    f"{_CORE}HealthCheck.Payload": Support("text binary", {"text": "hexadecimal digits, as in Envoy"}),
    f"{_CLUSTER}OutlierDetection": Support(
        "consecutive_5xx interval base_ejection_time max_ejection_percent enforcing_consecutive_5xx "
        "enforcing_success_rate success_rate_minimum_hosts success_rate_request_volume success_rate_stdev_factor "
        "consecutive_gateway_failure enforcing_consecutive_gateway_failure split_external_local_origin_errors "
        "consecutive_local_origin_failure enforcing_consecutive_local_origin_failure "
        "enforcing_local_origin_success_rate failure_percentage_threshold enforcing_failure_percentage "
        "enforcing_failure_percentage_local_origin failure_percentage_minimum_hosts "
        "failure_percentage_request_volume max_ejection_time max_ejection_time_jitter "
        "successful_active_health_check_uneject_host always_eject_one_host"
    ),
    f"{_CLUSTER}CircuitBreakers": Support("thresholds", {"thresholds": "the DEFAULT priority, once"}),
    f"{_CLUSTER}CircuitBreakers.Thresholds": Support(
        "priority max_connections max_pending_requests max_requests max_retries retry_budget",
        only={"priority": ("DEFAULT",)},
    ),
    f"{_CLUSTER}CircuitBreakers.Thresholds.RetryBudget": Support("budget_percent min_retry_concurrency"),
    _UPSTREAM_HTTP: Support("common_http_protocol_options explicit_http_config"),
    f"{_UPSTREAM_HTTP}.ExplicitHttpConfig": Support(
        "http_protocol_options http2_protocol_options",
        {
            "http2_protocol_options": "for clusters of gRPC services that the proxy itself calls; a request routed to "
            "one is answered with 503, flag NC: upstream requests are HTTP/1.1"
        },
    ),
    f"{_CORE}Http2ProtocolOptions": Support(),
    # --- endpoints ---
    f"{_ENDPOINT}ClusterLoadAssignment": Support("cluster_name endpoints"),
    f"{_ENDPOINT}LocalityLbEndpoints": Support(
        "locality lb_endpoints load_balancing_weight priority",
        {
            "locality": "counts with `locality_weighted_lb_config`; there is no zone-aware routing",
            "load_balancing_weight": "counts with `locality_weighted_lb_config`",
            "priority": "with Envoy's gradual spill-over; the overprovisioning factor is 1.4",
        },
    ),
    f"{_ENDPOINT}LbEndpoint": Support(
        "endpoint health_status metadata load_balancing_weight",
        {"load_balancing_weight": "RANDOM knows no weights, as in Envoy"},
    ),
    f"{_ENDPOINT}Endpoint": Support("address hostname health_check_config"),
    f"{_ENDPOINT}Endpoint.HealthCheckConfig": Support("port_value hostname disable_active_health_check"),
    # --- TLS ---
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer": Support(),
    f"{_TLS}DownstreamTlsContext": Support("common_tls_context require_client_certificate"),
    f"{_TLS}UpstreamTlsContext": Support("common_tls_context sni"),
    f"{_TLS}CommonTlsContext": Support(
        "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context "
        "validation_context_sds_secret_config combined_validation_context alpn_protocols",
        {"tls_certificates": "at most one", "tls_certificate_sds_secret_configs": "at most one"},
    ),
    f"{_TLS}CommonTlsContext.CombinedCertificateValidationContext": Support(
        "default_validation_context validation_context_sds_secret_config"
    ),
    f"{_TLS}TlsParameters": Support(
        "tls_minimum_protocol_version tls_maximum_protocol_version",
        only={
            "tls_minimum_protocol_version": ("TLS_AUTO", "TLSv1_2", "TLSv1_3"),
            "tls_maximum_protocol_version": ("TLS_AUTO", "TLSv1_2", "TLSv1_3"),
        },
    ),
    f"{_TLS}TlsCertificate": Support("certificate_chain private_key"),
    f"{_TLS}CertificateValidationContext": Support("trusted_ca match_typed_subject_alt_names match_subject_alt_names"),
    f"{_TLS}SubjectAltNameMatcher": Support("san_type matcher", only={"san_type": ("DNS", "URI")}),
    f"{_TLS}Secret": Support("name tls_certificate validation_context"),
    f"{_TLS}SdsSecretConfig": Support(
        "name sds_config",
        {
            "sds_config": "not looked at: secrets called `kubernetes://…` come over ADS, all others from citadel, "
            "whatever stands here"
        },
        opaque=("sds_config",),
    ),
}
