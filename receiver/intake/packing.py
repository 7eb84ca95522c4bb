"""Compresses each body for the journal, to about a third of its size.

Callbacks are similar to each other but have little repetition inside, and Postgres does not compress such short values.
So each is compressed with Zstandard and a dictionary of typical bodies. It can be decompressed only with the same
dictionary: a better dictionary gets a new file and a new number here, and the old one must be kept.
"""

from __future__ import annotations

import threading
from importlib.resources import files

import zstandard

PLAIN = 0
"""`callback.packing` of a body that is stored unchanged."""

ZSTANDARD_1 = 1
"""`callback.packing` of a Zstandard frame made with `body_dictionary_1.txt`."""

SHORTEST_PACKED = 128
"""A shorter body is stored unchanged."""

_LEVEL = -1  # 510 bytes become 175 in 3 us; level 1: 160 bytes in 5 us (docs/performance.md)
_dictionary = zstandard.ZstdCompressionDict(
    files(__package__).joinpath("body_dictionary_1.txt").read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT
)


class _PerThread(threading.local):
    """Each thread has its own compressor and decompressor, because they must not be used by two threads at once."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=_dictionary, write_content_size=True, write_checksum=False, write_dict_id=False
        )
        self.decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary)


_per_thread = _PerThread()


def pack(body: bytes) -> tuple[int, bytes]:
    """(packing, packed body) for `unpack`. The body stays unchanged if packing does not make it shorter."""
    if len(body) >= SHORTEST_PACKED:
        packed = _per_thread.compressor.compress(body)
        if len(packed) < len(body):
            return ZSTANDARD_1, packed
    return PLAIN, body


def unpack(packing: int, packed: bytes) -> bytes:
    """The body, byte for byte. Raises ValueError for an unknown packing."""
    if packing == PLAIN:
        return packed
    if packing == ZSTANDARD_1:
        return _per_thread.decompressor.decompress(packed)
    raise ValueError(f"A body is packed with method {packing}, which this release cannot read. Upgrade this process.")
