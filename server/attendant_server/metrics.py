"""Every metric of the application, in one list, and how the processes' parts become one text.

``GatewayMetrics`` counts what a gateway sees, ``ReplicaMetrics`` what an engine replica does; each has a registry of its
own. ``merge_expositions`` joins their texts: one HELP and TYPE a family, and nothing of a replica that is gone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from attendant_engine import __version__
from attendant_engine.stats import LoadStats, StepOutput, TenantUsage
from attendant_engine.types import ModelInfo, PooledOutput, SequenceOutput

REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0)


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """When one model's streams get their tokens."""

    first: Histogram
    between: Histogram

    def first_token(self, seconds: float) -> None:
        """Note the time from submission to an output's first token."""
        self.first.observe(seconds)

    def next_tokens(self, seconds: float, num_tokens: int) -> None:
        """Note that ``num_tokens`` came ``seconds`` after the ones before them."""
        self.between.observe(seconds / num_tokens)


class GatewayMetrics:
    """What one gateway counts."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "attendant_requests",
            "Requests answered or refused, by endpoint and by error code (ok for none).",
            ("endpoint", "code"),
            registry=self._registry,
        )
        self._duration = Histogram(
            "attendant_request_duration_seconds",
            "Time from admission to the last byte of the answer.",
            ("endpoint",),
            buckets=REQUEST_BUCKETS_S,
            registry=self._registry,
        )
        self._first_token = Histogram(
            "attendant_time_to_first_token_seconds",
            "Time from submission to an output's first token.",
            ("model",),
            buckets=TOKEN_BUCKETS_S,
            registry=self._registry,
        )
        self._between_tokens = Histogram(
            "attendant_inter_token_latency_seconds",
            "Time between an output's tokens after the first.",
            ("model",),
            buckets=TOKEN_BUCKETS_S,
            registry=self._registry,
        )
        self._rejected = Counter(
            "attendant_requests_rejected", "Requests refused before any work, by reason.", ("reason",), registry=self._registry
        )
        self._failovers = Counter(
            "attendant_stream_failovers", "Requests moved to another replica after theirs was lost.", ("model",), registry=self._registry
        )
        self._resumed = Counter(
            "attendant_streams_resumed",
            "Streams that went on here after their gateway or connection was lost.",
            ("model",),
            registry=self._registry,
        )
        self._picks = Counter(
            "attendant_routing_picks",
            "Choices of a replica, by what decided: a cached prefix, load in spite of one (spill), or load.",
            ("model", "reason"),
            registry=self._registry,
        )
        self._tasks = Gauge(
            "attendant_gateway_tasks", "Tasks of the gateway's event loop; steady under steady load.", registry=self._registry
        )
        build_info(self._registry).labels(component="gateway", model="", replica="", version=__version__, dtype="", device_kind="").set(1)

    def request_ended(self, endpoint: str, code: str, seconds: float) -> None:
        """Count an answered request; ``code`` is "ok" or the error's."""
        self._requests.labels(endpoint, code).inc()
        self._duration.labels(endpoint).observe(seconds)

    def request_refused(self, endpoint: str, code: str) -> None:
        """Count a request that a transport refused; it has no duration, since it was never admitted."""
        self._requests.labels(endpoint, code).inc()

    def request_rejected(self, reason: str) -> None:
        """Count a request that was refused before any work."""
        self._rejected.labels(reason).inc()

    def failed_over(self, model: str) -> None:
        """Count a request that was moved to another replica."""
        self._failovers.labels(model).inc()

    def stream_resumed(self, model: str) -> None:
        """Count a stream that another gateway began."""
        self._resumed.labels(model).inc()

    def replica_picked(self, model: str, reason: str) -> None:
        """Count a choice of a replica: "prefix", "spill" or "load"."""
        self._picks.labels(model, reason).inc()

    def forget_model(self, model: str) -> None:
        """Drop the series of a model that is gone, so that their number stays that of the models."""
        for metric in (self._first_token, self._between_tokens, self._failovers, self._resumed, self._picks):
            metric.remove_by_labels({"model": model})

    def token_times(self, model: str) -> TokenTimes:
        """Return where one model's token times go."""
        return TokenTimes(self._first_token.labels(model), self._between_tokens.labels(model))

    def render(self, *, num_tasks: int = 0) -> bytes:
        """Return these metrics alone, as Prometheus text; ``num_tasks`` are those of the event loop now."""
        self._tasks.set(num_tasks)
        return generate_latest(self._registry)


class ReplicaMetrics:
    """What one engine replica does. Fed by whoever sees its steps; every series has ``model`` and ``replica``."""

    def __init__(self, *, model: str, replica: str) -> None:
        self._registry = CollectorRegistry()
        self._values = (model, replica)
        self._running = self._gauge("attendant_requests_running", "Sequences in the batch.")
        self._waiting = self._gauge("attendant_requests_waiting", "Requests waiting for a place in the batch.")
        self._queue_s = self._histogram("attendant_request_queue_seconds", "Time a request waited for its first step.", REQUEST_BUCKETS_S)
        self._prefill_s = self._histogram("attendant_request_prefill_seconds", "Time from first step to first token.", REQUEST_BUCKETS_S)
        self._decode_s = self._histogram("attendant_request_decode_seconds", "Time from first to last token.", REQUEST_BUCKETS_S)
        self._prompt_tokens = self._counter("attendant_prompt_tokens", "Prompt tokens computed, each counted once.")
        self._cached_tokens = self._counter("attendant_cached_prompt_tokens", "Prompt tokens served from the prefix cache.")
        self._generated_tokens = self._counter("attendant_generated_tokens", "Tokens generated.")
        self._tenant_prompt_tokens = self._tenant_counter("attendant_tenant_prompt_tokens", "Prompt tokens computed for a tenant.")
        self._tenant_cached_tokens = self._tenant_counter(
            "attendant_tenant_cached_prompt_tokens", "Prompt tokens served to a tenant from the prefix cache."
        )
        self._tenant_generated_tokens = self._tenant_counter("attendant_tenant_generated_tokens", "Tokens generated for a tenant.")
        self._draft_tokens = self._counter("attendant_draft_tokens", "Tokens guessed from the text so far.")
        self._accepted_tokens = self._counter("attendant_accepted_draft_tokens", "Guessed tokens that were right.")
        self._batch_sequences = self._histogram("attendant_batch_sequences", "Sequences in a step.", BATCH_BUCKETS)
        self._batch_tokens = self._histogram("attendant_batch_tokens", "Tokens in a step.", BATCH_BUCKETS)
        self._step_s = self._histogram("attendant_step_seconds", "Time of a step.", TOKEN_BUCKETS_S)
        self._cache_usage = self._gauge("attendant_kv_cache_usage_ratio", "Share of cache blocks that sequences hold.")
        self._cache_bytes = self._gauge("attendant_kv_cache_bytes", "Size of the key/value cache.")
        self._preemptions = self._counter("attendant_preemptions", "Sequences put back to be recomputed, for want of cache.")
        self._finished = Counter(
            "attendant_sequences_finished",
            "Sequences ended, by reason.",
            ("model", "replica", "finish_reason"),
            registry=self._registry,
        )
        self._load_s = Gauge(
            "attendant_model_load_seconds", "Time each phase of loading took.", ("model", "replica", "phase"), registry=self._registry
        )
        self._build_info = build_info(self._registry)

    def loaded(self, info: ModelInfo, stats: LoadStats) -> None:
        """Note how loading went and what was loaded."""
        model, replica = self._values
        for phase, seconds in stats.phase_s.items():
            self._load_s.labels(model, replica, phase).set(seconds)
        self._cache_bytes.set(stats.kv_cache_bytes)
        self._build_info.labels(
            component="replica", model=model, replica=replica, version=info.engine_version, dtype=info.dtype, device_kind=info.device_kind
        ).set(1)

    def observe_step(self, step: StepOutput) -> None:
        """Take in one step of the engine."""
        stats = step.stats
        if stats.num_sequences:
            self._batch_sequences.observe(stats.num_sequences)
            self._batch_tokens.observe(stats.num_tokens)
            self._step_s.observe(stats.step_s)
        self._prompt_tokens.inc(stats.num_prompt_tokens)
        self._cached_tokens.inc(stats.num_cached_prompt_tokens)
        self._note_usage(stats.usage)
        self._generated_tokens.inc(stats.num_generated_tokens)
        self._draft_tokens.inc(stats.num_draft_tokens)
        self._accepted_tokens.inc(stats.num_accepted_tokens)
        self._preemptions.inc(stats.num_preemptions)
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._cache_usage.set(stats.kv_cache_usage_ratio)
        self._cache_bytes.set(stats.kv_cache_bytes)
        for output in step.outputs:
            if isinstance(output, PooledOutput):
                self._queue_s.observe(output.queue_s)
            elif output.finish_reason is not None:
                self._note_end(output)

    def render(self) -> bytes:
        """Return these metrics as Prometheus text."""
        return generate_latest(self._registry)

    def _note_usage(self, usage: tuple[TenantUsage, ...]) -> None:
        """Count by tenant; tenants are names of the key file, and without one there is none to tell apart."""
        for used in usage:
            if used.tenant:
                values = (*self._values, used.tenant)
                self._tenant_prompt_tokens.labels(*values).inc(used.num_prompt_tokens)
                self._tenant_cached_tokens.labels(*values).inc(used.num_cached_prompt_tokens)
                self._tenant_generated_tokens.labels(*values).inc(used.num_generated_tokens)

    def _note_end(self, output: SequenceOutput) -> None:
        self._finished.labels(*self._values, output.finish_reason).inc()
        self._queue_s.observe(output.queue_s)
        self._prefill_s.observe(output.prefill_s)
        self._decode_s.observe(output.decode_s)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ("model", "replica"), registry=self._registry).labels(*self._values)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model", "replica"), registry=self._registry).labels(*self._values)

    def _tenant_counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, ("model", "replica", "tenant"), registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, ("model", "replica"), buckets=buckets, registry=self._registry).labels(*self._values)


def build_info(registry: CollectorRegistry) -> Gauge:
    """Register the family that says what runs; its value is always 1."""
    return Gauge(
        "attendant_build_info",
        "What runs: the version, and for a replica its number format and device.",
        ("component", "model", "replica", "version", "dtype", "device_kind"),
        registry=registry,
    )


def merge_expositions(texts: Iterable[bytes]) -> bytes:
    """Join Prometheus texts of ours into one valid text: every family once, with all its samples together.

    Families named ``*_created`` (a client-library extra that doubles every counter) are left out.
    """
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        family = ""
        for line in text.decode("utf-8").splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                family = line.split(" ", 3)[2]
                head = heads.setdefault(family, [])
                kind = line[:7]
                if not any(known.startswith(kind) for known in head):
                    head.append(line)
            elif line and not line.startswith("#"):
                samples.setdefault(family, []).append(line)
    lines: list[str] = []
    for family, head in heads.items():
        if family in samples and not family.endswith("_created"):
            lines += [*head, *samples[family]]
    return "".join(f"{line}\n" for line in lines).encode("utf-8")
