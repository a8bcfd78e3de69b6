"""Worlds in which proxies report, as manifests."""

from tests.controlplane.pilot.worlds import TELEMETRY, mesh_config

TRACED = """
extensionProviders:
- {name: otel, opentelemetry: {service: default/otel.default.svc.cluster.local, port: 4317}}
defaultProviders: {tracing: [otel]}
defaultConfig: {tracing: {sampling: 12.5}}
"""
OTEL = """
---
apiVersion: v1
kind: Service
metadata: {name: otel, namespace: default}
spec: {clusterIP: 10.96.0.77, ports: [{name: grpc-otlp, port: 4317}]}
"""
# Everything at once.
REPORTED = TELEMETRY + OTEL + mesh_config(TRACED + "accessLogFile: /dev/stdout")
