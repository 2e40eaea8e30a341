"""The protobuf messages of Chakra execution traces, described at run time.

Source: mlcommons/chakra schema/protobuf/et_def.proto, schema 0.0.4 to 1.1 (fields that nothing
here reads are left out: protobuf skips them). Before that, field 1 of the metadata held attributes,
now a version; it is read as bytes, so both pass.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from cluster_sim.errors import SpecError

# Scalar values of an attribute, with their field numbers and protobuf types.
SCALARS = {
    "double_val": (3, "DOUBLE"),
    "float_val": (5, "FLOAT"),
    "int32_val": (7, "INT32"),
    "int64_val": (9, "INT64"),
    "uint32_val": (11, "UINT32"),
    "uint64_val": (13, "UINT64"),
    "sint32_val": (15, "SINT32"),
    "sint64_val": (17, "SINT64"),
    "fixed32_val": (19, "FIXED32"),
    "fixed64_val": (21, "FIXED64"),
    "sfixed32_val": (23, "SFIXED32"),
    "sfixed64_val": (25, "SFIXED64"),
    "bool_val": (27, "BOOL"),
    "string_val": (29, "STRING"),
}
NODE_FIELDS = {
    "id": (1, "UINT64"),
    "name": (2, "STRING"),
    "type": (3, "INT32"),  # an enumeration, of which newer numbers must pass too
    "start_time_micros": (6, "UINT64"),
    "duration_micros": (7, "UINT64"),
}
LONGEST_LENGTH = 10  # bytes of a varint of 64 bits


@cache
def messages() -> dict[str, Any]:
    """Classes of the messages by name; raises SpecError without the package protobuf."""
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    except ImportError:
        raise SpecError(
            "Chakra traces need the package protobuf: pip install 'cluster-sim[chakra]'"
        ) from None
    file = descriptor_pb2.FileDescriptorProto(
        name="cluster_sim_chakra.proto", package="ChakraProtoMsg", syntax="proto3"
    )
    types = descriptor_pb2.FieldDescriptorProto

    def field(message: Any, name: str, number: int, kind: str, *, many: bool = False) -> Any:
        label = types.LABEL_REPEATED if many else types.LABEL_OPTIONAL
        one = message.field.add(name=name, number=number, label=label)
        if kind.isupper():
            one.type = getattr(types, f"TYPE_{kind}")
        else:
            one.type, one.type_name = types.TYPE_MESSAGE, f".ChakraProtoMsg.{kind}"
        return one

    bools = file.message_type.add(name="BoolList")
    field(bools, "values", 1, "BOOL", many=True)
    attribute = file.message_type.add(name="AttributeProto")
    field(attribute, "name", 1, "STRING")
    attribute.oneof_decl.add(name="value")
    for name, (number, kind) in (SCALARS | {"bool_list": (28, "BoolList")}).items():
        field(attribute, name, number, kind).oneof_index = 0
    metadata = file.message_type.add(name="GlobalMetadata")
    field(metadata, "version", 1, "BYTES")
    field(metadata, "attr", 2, "AttributeProto", many=True)
    values = file.message_type.add(name="IOInfo")
    field(values, "values", 1, "STRING")
    node = file.message_type.add(name="Node")
    for name, (number, kind) in NODE_FIELDS.items():
        field(node, name, number, kind)
    field(node, "ctrl_deps", 4, "UINT64", many=True)
    field(node, "data_deps", 5, "UINT64", many=True)
    field(node, "inputs", 8, "IOInfo")
    field(node, "attr", 10, "AttributeProto", many=True)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        one.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"ChakraProtoMsg.{one.name}")
        )
        for one in file.message_type
    }


def read_messages(path: Path, data: bytes) -> list[Any]:
    """The nodes of a trace: messages after their lengths, the first of which is the metadata.

    Raises SpecError with the message and byte at which the file is broken.
    """
    classes = messages()
    from google.protobuf.message import DecodeError

    found, at, number = [], 0, 0
    while at < len(data):
        length, begin = _length(path, data, at, number)
        if begin + length > len(data):
            raise SpecError(
                f"{path}: message {number} at byte {at} says {length} bytes, but "
                f"{len(data) - begin} are left; the file is truncated, or no Chakra trace"
            )
        kind = classes["Node" if number else "GlobalMetadata"]
        try:
            found.append(kind.FromString(data[begin : begin + length]))
        except DecodeError:
            raise SpecError(
                f"{path}: message {number} at byte {at} is no Chakra {kind.DESCRIPTOR.name}; the "
                "file is damaged, or in another format (say which with --trace-format)"
            ) from None
        at, number = begin + length, number + 1
    if not found:
        raise SpecError(f"{path}: an empty file; a Chakra trace begins with its metadata")
    return found[1:]


def _length(path: Path, data: bytes, at: int, number: int) -> tuple[int, int]:
    """A varint, and where what follows begins."""
    value = 0
    for place, byte in enumerate(data[at : at + LONGEST_LENGTH]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise SpecError(
        f"{path}: message {number} at byte {at} has no length; the file is truncated, or no "
        "Chakra trace"
    )
