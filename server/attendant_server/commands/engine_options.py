"""Options of an engine that several commands take, each with the words that explain it."""

from typing import Annotated, Literal

import typer

Device = Annotated[Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="What computes. Default auto.")]
DType = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option("--dtype", help="Number format of the weights. Default auto."),
]
AttentionBackend = Annotated[
    Literal["auto", "native", "reference", "torch", "triton"] | None,
    typer.Option("--attention-backend", help="Native: our own CPU kernels. Default auto: the fastest one here."),
]
Quantization = Annotated[
    Literal["none", "int8", "int4"] | None,
    typer.Option("--quantization", help="Pack float weights into fewer bits at load (native CPU kernels). Default none."),
]
KVCacheDType = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"] | None,
    typer.Option("--kv-cache-dtype", help="Number format of the cache; int8 holds twice as much. Default auto: as --dtype."),
]
MaxModelLen = Annotated[int | None, typer.Option("--max-model-len", help="Longest context, in tokens. Default: the model's.")]
MaxNumSeqs = Annotated[int | None, typer.Option("--max-num-seqs", help="Most sequences in one step. Default: planned.")]
MaxBatchTokens = Annotated[int | None, typer.Option("--max-batch-tokens", help="Most tokens in one step. Default: planned.")]
KVCacheMemory = Annotated[str | None, typer.Option("--kv-cache-memory", help="For example 2GiB. Default: planned.")]
TensorParallel = Annotated[
    int | None,
    typer.Option("--tensor-parallel", help="Processes (GPUs, or CPU ranks) that share one replica's weights. Default 1."),
]
