from attendant.v1 import chat_pb2 as _chat_pb2
from attendant.v1 import classification_pb2 as _classification_pb2
from attendant.v1 import completion_pb2 as _completion_pb2
from attendant.v1 import embedding_pb2 as _embedding_pb2
from attendant.v1 import few_shot_pb2 as _few_shot_pb2
from attendant.v1 import models_pb2 as _models_pb2
from attendant.v1 import tokenization_pb2 as _tokenization_pb2
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor
