"""Frontend for .tflite files: checks the file and brings old files up to what the quantizer reads."""

from pathlib import Path
from typing import Any

from converters import probe
from converters.engine import native_silence
from converters.errors import ConvertError

IDENTIFIER = b"TFL3"  # TFLite schema: file_identifier, at byte 4 of the flatbuffer
SIGNATURE_KEY = b"serving_default"


def read(path: Path) -> bytes:
    """The bytes of a .tflite that the engine loads and runs; raises ConvertError for any other file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConvertError(f"{path}: cannot be read: {error.strerror}") from error
    if content[4:8] != IDENTIFIER:
        raise ConvertError(f"{path}: not a .tflite file ({len(content)} bytes, no {IDENTIFIER.decode()} mark)")
    probe.check(path)
    return content


def modernize(content: bytes) -> bytes:
    """The same model with what the quantizer needs: full operator codes and one signature.

    Files from before schema version 3a keep operator codes in `deprecated_builtin_code` only, and the quantizer would
    take every operator for ADD. A model without a signature gets one whose names are its tensors' names.
    """
    from ai_edge_litert.tools import flatbuffer_utils  # noqa: PLC0415 - heavy

    with native_silence():
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    signatures = model.signatureDefs or []
    if len(signatures) > 1:
        keys = ", ".join(signature.signatureKey.decode() for signature in signatures)
        raise ConvertError(f"the model has {len(signatures)} signatures ({keys}): export it with one")
    if not signatures:
        model.signatureDefs = [_signature(flatbuffer_utils.schema_fb, model.subgraphs[0])]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _signature(schema: Any, graph: Any) -> Any:
    def names(indices: Any) -> list[Any]:
        entries = []
        for index in indices:
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = graph.tensors[index].name, int(index)
            entries.append(entry)
        return entries

    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE_KEY, 0
    signature.inputs, signature.outputs = names(graph.inputs), names(graph.outputs)
    return signature
