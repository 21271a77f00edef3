from attendant.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FewShotExample(_message.Message):
    __slots__ = ("input", "output", "reasoning")
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    REASONING_FIELD_NUMBER: _ClassVar[int]
    input: str
    output: str
    reasoning: str
    def __init__(self, input: _Optional[str] = ..., output: _Optional[str] = ..., reasoning: _Optional[str] = ...) -> None: ...

class FewShotRequest(_message.Message):
    __slots__ = ("model", "instruction", "examples", "queries", "labels", "template", "calibrate", "sampling")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    model: str
    instruction: str
    examples: _containers.RepeatedCompositeFieldContainer[FewShotExample]
    queries: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    template: str
    calibrate: bool
    sampling: _common_pb2.SamplingParams
    def __init__(self, model: _Optional[str] = ..., instruction: _Optional[str] = ..., examples: _Optional[_Iterable[_Union[FewShotExample, _Mapping]]] = ..., queries: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., template: _Optional[str] = ..., calibrate: _Optional[bool] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParams, _Mapping]] = ...) -> None: ...

class FewShotProbability(_message.Message):
    __slots__ = ("label", "probability", "logprob")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    label: str
    probability: float
    logprob: float
    def __init__(self, label: _Optional[str] = ..., probability: _Optional[float] = ..., logprob: _Optional[float] = ...) -> None: ...

class FewShotAnswer(_message.Message):
    __slots__ = ("index", "text", "label", "score", "probs")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROBS_FIELD_NUMBER: _ClassVar[int]
    index: int
    text: str
    label: str
    score: float
    probs: _containers.RepeatedCompositeFieldContainer[FewShotProbability]
    def __init__(self, index: _Optional[int] = ..., text: _Optional[str] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., probs: _Optional[_Iterable[_Union[FewShotProbability, _Mapping]]] = ...) -> None: ...

class FewShotResponse(_message.Message):
    __slots__ = ("id", "model", "answers", "usage", "receipt")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    answers: _containers.RepeatedCompositeFieldContainer[FewShotAnswer]
    usage: _common_pb2.Usage
    receipt: _common_pb2.Receipt
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., answers: _Optional[_Iterable[_Union[FewShotAnswer, _Mapping]]] = ..., usage: _Optional[_Union[_common_pb2.Usage, _Mapping]] = ..., receipt: _Optional[_Union[_common_pb2.Receipt, _Mapping]] = ...) -> None: ...
