"""The engine: one token loop for every Transformer, on torch alone.

It knows no Ray, gRPC, HTTP, Prometheus or asyncio (``worker.py`` alone owns a thread), and no text: token ids go in,
token ids and vectors come out.

Shapes are written ``[T, H, D]`` everywhere, with one glossary:

====  ==========================================================
T     packed tokens of a step, all sequences end to end, no padding
S     sequences in a step
H     query heads
K     key/value heads (H is a multiple of K)
D     size of one head
E     hidden size of the model
V     vocabulary
L     layers
P     positions (tokens) in one cache block
B     blocks in the cache
====  ==========================================================
"""

__version__ = "0.1.0"
