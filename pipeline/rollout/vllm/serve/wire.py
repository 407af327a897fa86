"""Tensors on a socket: what the transfer backend `etr_tcp` sends from the trainer to a server's workers.

A frame is a length (4 bytes, big-endian), a JSON object of that length, and the bytes of the tensor that it describes. Nothing
is ever unpickled.
"""

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import torch

from pipeline.rollout.vllm.loading import Piece

BACKEND = "etr_tcp"
"""Name of the transfer backend, for `vllm serve --weight-transfer-config`."""
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}
LONGEST_HEADER = 1 << 16
LONGEST_TENSOR = 1 << 36
"""Bytes above which a header is damaged: no tensor of a model is that large."""


class WireError(OSError):
    """The other side closed the connection, or sent what is no frame."""


def send_header(stream: socket.socket, header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    stream.sendall(struct.pack("!I", len(text)) + text)


def read_header(stream: socket.socket) -> dict[str, Any]:
    """Raises WireError for anything but a JSON object."""
    (length,) = struct.unpack("!I", _exactly(stream, bytearray(4)))
    if length > LONGEST_HEADER:
        raise WireError(f"a header of {length} bytes is no header of the weight transfer")
    try:
        header = json.loads(_exactly(stream, bytearray(length)))
    except ValueError as error:
        raise WireError(f"a header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise WireError("a header is not a JSON object")
    return header


def send_piece(streams: list[socket.socket], piece: Piece) -> None:
    """Sends the piece to every worker of one server."""
    name, first, tensor = piece
    flat = tensor.detach().to("cpu").contiguous()
    header = {
        "name": name,
        "first": first,
        "shape": list(flat.shape),
        "dtype": str(flat.dtype).removeprefix("torch."),
    }
    numbers: Any = flat.view(-1).view(torch.uint8).numpy()
    for stream in streams:
        send_header(stream, header)
        stream.sendall(numbers)


def send_end(streams: list[socket.socket]) -> None:
    """Says that the last piece was sent."""
    for stream in streams:
        send_header(stream, {"name": None})


def read_pieces(stream: socket.socket, device: torch.device) -> Iterator[Piece]:
    """Yields pieces until the end is said. Raises WireError for a damaged frame or a closed connection."""
    while (header := read_header(stream)).get("name") is not None:
        try:
            name, first, shape = str(header["name"]), header["first"], [int(size) for size in header["shape"]]
            dtype = DTYPES[header["dtype"]]
        except (KeyError, TypeError, ValueError) as error:
            raise WireError(f"a header of the weight transfer lacks or misstates {error}") from error
        count = dtype.itemsize * torch.Size(shape).numel()
        if min(shape, default=1) < 0 or count > LONGEST_TENSOR:
            raise WireError(f"{name}: {shape} is no tensor's shape")
        numbers = torch.empty(count, dtype=torch.uint8)
        _exactly(stream, numbers.numpy())
        yield name, first, numbers.view(dtype).view(shape).to(device)


def _exactly(stream: socket.socket, room: Any) -> Any:
    """Fills `room` from the stream, and returns it."""
    view = memoryview(room)
    while len(view):
        count = stream.recv_into(view)
        if not count:
            raise WireError("the other side closed the connection of the weight transfer")
        view = view[count:]
    return room
