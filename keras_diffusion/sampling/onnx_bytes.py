"""Looks into the bytes of an ONNX file before a runtime does: whether its weights stand in other files.

A file that names others could have them read from anywhere on the machine. Ours never do.

Reference: onnx.proto of ONNX; Protocol Buffers, "Encoding".
"""

# Of each kind of message, the fields that lead to a tensor: their number and the kind of message in them.
_LEADS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # fields of a tensor
_DEEPEST = 100  # as Protocol Buffers' own readers have it
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


def has_external_data(data):
    """Whether a tensor of a model says that its numbers stand in another file.

    Args:
        data: bytes of an ONNX file.

    Raises:
        ValueError: where the bytes are no Protocol Buffers.
    """
    # From the outermost message to the one that is read.
    path = [("model", _fields(memoryview(data)))]
    while path:
        kind, fields = path[-1]
        for number, value in fields:
            if kind == "tensor" and (
                number == _EXTERNAL_DATA or number == _DATA_LOCATION and value != 0
            ):
                return True
            inner = _LEADS[kind].get(number)
            if inner and isinstance(value, memoryview):
                if len(path) == _DEEPEST:
                    raise ValueError(f"more than {_DEEPEST} messages in each other")
                path.append((inner, _fields(value)))
                break
        else:
            path.pop()
    return False


def _fields(message):
    """Pairs of a field's number and its value: a number, or the bytes in it."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        # Readers in C++ would cut a larger key to 32 bits, and take it for another field's.
        if not 0 < number < 2**29:
            raise ValueError(f"a field of number {number}")
        if wire == _VARINT:
            value, place = _varint(message, place)
        elif wire in (_EIGHT_BYTES, _FOUR_BYTES):
            value, place = 0, place + (8 if wire == _EIGHT_BYTES else 4)
        elif wire == _BYTES:
            size, begin = _varint(message, place)
            value, place = message[begin : begin + size], begin + size
        else:
            raise ValueError(f"a field of kind {wire}")
        if place > len(message):
            raise ValueError("a field that is cut")
        yield number, value


def _varint(message, place):
    """A number of 7 bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError("a number that is cut")
        byte, place = message[place], place + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number of more than ten bytes")
