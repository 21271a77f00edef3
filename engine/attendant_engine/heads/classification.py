"""Sequence classification: one row of label logits a sequence, as the families' checkpoints define it.

Names mirror ``BertForSequenceClassification`` (pooler, classifier) and the decoders' ``score``. Adapters bring heads too.
"""

import torch
from torch import nn

from attendant_engine.heads.pooling import Pooling
from attendant_engine.kernels.cpu.linear import NativeLinear
from attendant_engine.layers.linear import Linear
from attendant_engine.types import PoolingMode


class BertPooler(nn.Module):
    """tanh(dense(first token)), trained by next-sentence prediction (Devlin et al. 2019)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.dense = Linear(hidden_size, hidden_size, bias=True)

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` to ``[S, E]``."""
        return torch.tanh(self.dense(hidden[cu_seqlens[:-1].long()]))


class PoolerClassification(nn.Module):
    """A linear classifier over BERT's pooler."""

    def __init__(self, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.pooler = BertPooler(hidden_size)
        self.classifier = Linear(hidden_size, num_labels, bias=True)

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` to raw logits ``[S, num_labels]`` float32."""
        out: torch.Tensor = self.classifier(self.pooler(hidden, cu_seqlens)).float()
        return out


class PooledClassification(nn.Module):
    """A linear classifier over the pooled hidden states themselves, as ModernBERT's ``classifier_pooling`` names them."""

    def __init__(self, hidden_size: int, num_labels: int, pooling: PoolingMode) -> None:
        super().__init__()
        self.pooling = Pooling(pooling, False)
        self.classifier = Linear(hidden_size, num_labels, bias=True)

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` to raw logits ``[S, num_labels]`` float32."""
        out: torch.Tensor = self.classifier(_pool_all(self.pooling, hidden, cu_seqlens).to(hidden.dtype)).float()
        return out


def _pool_all(pooling: Pooling, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
    assert pooling.default_pooling is not None
    num_sequences = len(cu_seqlens) - 1
    return pooling(hidden, cu_seqlens, (pooling.default_pooling,) * num_sequences, (False,) * num_sequences)


class LastTokenClassification(nn.Module):
    """A linear classifier over a decoder's last token, which alone has seen the whole text."""

    def __init__(self, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        self.score = Linear(hidden_size, num_labels, bias=False)

    def forward(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` to raw logits ``[S, num_labels]`` float32."""
        out: torch.Tensor = self.score(hidden[cu_seqlens[1:].long() - 1]).float()
        return out


class NativePoolerClassification:
    """``PoolerClassification`` on the CPU kernels; ``dense`` has the tanh in it."""

    def __init__(self, dense: NativeLinear, classifier: NativeLinear) -> None:
        self._dense = dense
        self._classifier = classifier

    def __call__(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` to raw logits ``[S, num_labels]`` float32."""
        return self._classifier(self._dense(hidden, cu_seqlens[:-1]))


class NativePooledClassification:
    """``PooledClassification`` on the CPU kernels."""

    def __init__(self, pooling: Pooling, classifier: NativeLinear) -> None:
        self._pooling = pooling
        self._classifier = classifier

    def __call__(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` to raw logits ``[S, num_labels]`` float32."""
        return self._classifier(_pool_all(self._pooling, hidden, cu_seqlens))


class NativeLastTokenClassification:
    """``LastTokenClassification`` on the CPU kernels."""

    def __init__(self, score: NativeLinear) -> None:
        self._score = score

    def __call__(self, hidden: torch.Tensor, cu_seqlens: torch.Tensor) -> torch.Tensor:
        """``[T, E]`` and ``[S + 1]`` to raw logits ``[S, num_labels]`` float32."""
        return self._score(hidden, cu_seqlens[1:] - 1)
