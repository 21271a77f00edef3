"""The environment in which Ray and its processes must be started, once and before ``ray`` is imported anywhere.

Ray Serve reads its data plane's settings from environment variables at import, in every process; the processes that
Ray starts inherit them from here. Source: ``ray/serve/_private/constants.py`` of Ray 2.60.
"""

import secrets
import sys
from pathlib import Path

from attendant_server.hosting import ports

_WINDOW = 64
"""Ports for the replicas' own servers behind HAProxy: more than gateway replicas ever share a node."""
_MAX_STREAMS_PER_CONNECTION = 4096
"""gRPC clients put all calls on one connection; HAProxy's default of 100 would queue the rest."""

_MAX_MESSAGE_BYTES = 256 << 20
"""Of a message either way, where Serve's own default is 2 GiB: many times the largest body, and the largest batch of vectors."""


def data_plane() -> dict[str, str]:
    """Variables that choose HAProxy in front of the replicas' own servers; a Kubernetes deployment sets the same."""
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": str(_MAX_STREAMS_PER_CONNECTION),
        "RAY_SERVE_HAPROXY_H2_BE_MAX_CONCURRENT_STREAMS": str(_MAX_STREAMS_PER_CONNECTION),
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        # What autoscaling goes by is to be of this moment; the default is ten seconds.
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_SERVE_HANDLE_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        "RAY_worker_niceness": "0",
        # A host that is cut off is given up within nine seconds, not 65: before Serve replaces what ran there, or else it may
        # be placed on that host again.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "2000",
        "RAY_health_check_failure_threshold": "3",
    }


def own_cluster(run_dir: Path, *, drain_timeout_s: float, avoid_ports: tuple[int, ...] = ()) -> dict[str, str]:
    """Variables for a cluster of our own on this machine that shares no file and no port with another one.

    ``run_dir`` must have a short path: unix sockets lie in it.
    """
    if "ray" in sys.modules:
        raise RuntimeError("ray was imported before its environment was set")
    http = ports.pick_window("0.0.0.0", _WINDOW, avoid=avoid_ports)
    grpc = ports.pick_window("0.0.0.0", _WINDOW, avoid=(*avoid_ports, *http))
    stats, metrics, fallback_http, fallback_grpc = ports.pick_free("0.0.0.0", 4, avoid=(*avoid_ports, *http, *grpc))
    return {
        **data_plane(),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        # No balancer but our own HAProxy has to forget a replica, and that one reloads within a second.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(min(1.0, drain_timeout_s)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(http.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(http.stop),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(grpc.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(grpc.stop),
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(_MAX_MESSAGE_BYTES),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_http),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run_dir / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run_dir / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run_dir / "metrics.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run_dir),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run_dir / "server-state"),
    }
