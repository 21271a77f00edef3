"""Settings of the server: one schema for flags, environment, the YAML file and the Serve application builder.

Precedence is the command line's business (flag > environment > file > default); here a value is only checked.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?\s*$", re.IGNORECASE)
_FACTOR = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


def parse_size(value: Any) -> Any:
    """Turn "2GiB", "512M" or a number of bytes into bytes. Raises ``ValueError`` with the accepted forms."""
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value)
    if match is None:
        raise ValueError(f"{value!r} is not a size; write bytes, or a number with KiB, MiB, GiB, KB, MB or GB, for example 2GiB")
    unit = (match[2] or "").upper().removesuffix("B") if (match[2] or "").upper() != "B" else "B"
    return int(float(match[1]) * _FACTOR[unit])


SizeBytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0)]


class AdapterSettings(BaseModel):
    """One adapter: the name that requests use as a model's, and its directory in PEFT layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    path: str


class ModelSettings(BaseModel):
    """One served model: the name that requests use, where its checkpoint lies, and the adapters that are loaded beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=256)]
    path: str
    adapters: tuple[AdapterSettings, ...] = ()


class TenantSettings(BaseModel):
    """What one tenant is granted: its weight beside others where there is not enough for all, and tokens a minute, None for any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    tokens_per_minute: Annotated[int, Field(ge=1)] | None = None


class Settings(BaseModel):
    """Everything ``attendant serve`` can be told. Unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: tuple[ModelSettings, ...] = ()
    adapter: tuple[AdapterSettings, ...] = ()
    host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8000
    grpc_port: Annotated[int, Field(ge=0, le=65535)] = 9000
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention_backend: Literal["auto", "native", "reference", "torch", "triton"] = "auto"
    quantization: Literal["none", "int8", "int4"] = "none"
    kv_cache_dtype: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    speculation: Literal["none", "ngram"] = "ngram"
    max_model_len: Annotated[int, Field(ge=1)] | None = None
    max_num_seqs: Annotated[int, Field(ge=1)] | None = None
    max_batch_tokens: Annotated[int, Field(ge=1)] | None = None
    kv_cache_memory: SizeBytes | None = None
    replicas: Annotated[int, Field(ge=1, le=1024)] = 1
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    min_replicas: Annotated[int, Field(ge=0, le=1024)] | None = None
    max_replicas: Annotated[int, Field(ge=1, le=1024)] | None = Field(default=None, validate_default=True)
    downscale_delay_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    api_key_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    model_directory: str | None = None
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 1024
    max_queue_tokens: Annotated[int, Field(ge=1)] | None = None
    tenants: dict[str, TenantSettings] = {}
    request_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 600.0
    drain_timeout_s: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    max_body_bytes: SizeBytes = 8 * 2**20
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    local: bool = False
    faults: str = ""
    tests_only: bool = False

    @model_validator(mode="after")
    def _faults_are_for_tests(self) -> "Settings":
        if self.faults and not self.tests_only:
            raise ValueError("'faults' breaks requests on purpose and is for tests alone; leave it out, or set tests_only too")
        return self

    @field_validator("max_replicas")
    @classmethod
    def _bounds_go_together(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_replicas")
        if (value is None) != (least is None):
            raise ValueError("give both 'min_replicas' and 'max_replicas', which turns autoscaling on, or neither")
        if value is not None and least is not None and value < least:
            raise ValueError(f"{value} is less than 'min_replicas', which is {least}; give at least as many")
        return value

    @field_validator("local")
    @classmethod
    def _local_does_not_scale(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("max_replicas") is not None:
            raise ValueError("one process cannot scale; leave 'min_replicas' and 'max_replicas' out, or serve on Ray")
        return value

    @property
    def most_replicas(self) -> int:
        """Replicas of each model that there may be at once."""
        return self.replicas if self.max_replicas is None else self.max_replicas
