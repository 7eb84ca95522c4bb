"""Compresses bodies for the journal, each by itself, to about a third.

Callbacks are similar to each other but have little repetition inside, and Postgres does not compress such short values.
So each is compressed with Zstandard and a dictionary of typical bodies. It can be decompressed only with the same
dictionary: a better dictionary gets a new file and a new number here, and the old one stays for ever.
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

_LEVEL = -1  # 3 us a body and 175 of 510 bytes; level 1 gives 160 for 5 us (docs/performance.md)
_dictionary = zstandard.ZstdCompressionDict(
    files(__package__).joinpath("body_dictionary_1.txt").read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT
)


class _Own(threading.local):
    """One for each thread: two threads must not use one at the same time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=_dictionary, write_content_size=True, write_checksum=False, write_dict_id=False
        )
        self.decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary)


_own = _Own()


def pack(body: bytes) -> tuple[int, bytes]:
    """(packing, packed body) for `unpack`. The body stays unchanged if packing does not make it shorter."""
    if len(body) >= SHORTEST_PACKED:
        packed = _own.compressor.compress(body)
        if len(packed) < len(body):
            return ZSTANDARD_1, packed
    return PLAIN, body


def unpack(packing: int, packed: bytes) -> bytes:
    """The body, byte for byte. Raises ValueError for an unknown packing."""
    if packing == PLAIN:
        return packed
    if packing == ZSTANDARD_1:
        return _own.decompressor.decompress(packed)
    raise ValueError(f"A body is packed with method {packing}, which this release cannot read. Upgrade this process.")
