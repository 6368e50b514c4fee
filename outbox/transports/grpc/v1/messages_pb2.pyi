from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeliverRequest(_message.Message):
    __slots__ = ("envelopes",)
    ENVELOPES_FIELD_NUMBER: _ClassVar[int]
    envelopes: _containers.RepeatedCompositeFieldContainer[Envelope]
    def __init__(self, envelopes: _Optional[_Iterable[_Union[Envelope, _Mapping]]] = ...) -> None: ...

class DeliverResponse(_message.Message):
    __slots__ = ("replies",)
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    replies: _containers.RepeatedCompositeFieldContainer[Reply]
    def __init__(self, replies: _Optional[_Iterable[_Union[Reply, _Mapping]]] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("specversion", "id", "source", "type", "time", "partitionkey", "datacontenttype", "data", "correlationid", "causationid", "traceparent", "replyto", "undoes", "expirytime", "expiresin", "due", "runnumber")
    SPECVERSION_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    PARTITIONKEY_FIELD_NUMBER: _ClassVar[int]
    DATACONTENTTYPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CORRELATIONID_FIELD_NUMBER: _ClassVar[int]
    CAUSATIONID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    REPLYTO_FIELD_NUMBER: _ClassVar[int]
    UNDOES_FIELD_NUMBER: _ClassVar[int]
    EXPIRYTIME_FIELD_NUMBER: _ClassVar[int]
    EXPIRESIN_FIELD_NUMBER: _ClassVar[int]
    DUE_FIELD_NUMBER: _ClassVar[int]
    RUNNUMBER_FIELD_NUMBER: _ClassVar[int]
    specversion: str
    id: str
    source: str
    type: str
    time: str
    partitionkey: str
    datacontenttype: str
    data: bytes
    correlationid: str
    causationid: str
    traceparent: str
    replyto: str
    undoes: str
    expirytime: str
    expiresin: str
    due: str
    runnumber: str
    def __init__(self, specversion: _Optional[str] = ..., id: _Optional[str] = ..., source: _Optional[str] = ..., type: _Optional[str] = ..., time: _Optional[str] = ..., partitionkey: _Optional[str] = ..., datacontenttype: _Optional[str] = ..., data: _Optional[bytes] = ..., correlationid: _Optional[str] = ..., causationid: _Optional[str] = ..., traceparent: _Optional[str] = ..., replyto: _Optional[str] = ..., undoes: _Optional[str] = ..., expirytime: _Optional[str] = ..., expiresin: _Optional[str] = ..., due: _Optional[str] = ..., runnumber: _Optional[str] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("causationid", "outcome", "value", "code", "reason", "retry_after", "after_pending")
    CAUSATIONID_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_FIELD_NUMBER: _ClassVar[int]
    AFTER_PENDING_FIELD_NUMBER: _ClassVar[int]
    causationid: str
    outcome: str
    value: bytes
    code: str
    reason: str
    retry_after: float
    after_pending: bool
    def __init__(self, causationid: _Optional[str] = ..., outcome: _Optional[str] = ..., value: _Optional[bytes] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., retry_after: _Optional[float] = ..., after_pending: bool = ...) -> None: ...
