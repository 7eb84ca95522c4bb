"""Bodies as the journal keeps them: packed without loss, each by itself, to about a third.

Callbacks resemble each other far more than themselves, and Postgres compresses none so short. So each is
compressed with Zstandard against a dictionary of what the provider posts. What a dictionary packed can be read
with that one only: a better one is another file and another number here, and the old one stays for ever.
"""

from __future__ import annotations

import threading
from importlib.resources import files

import zstandard

PLAIN = 0
"""`callback.packing` of a body that stands there as it came."""

ZSTANDARD_1 = 1
"""`callback.packing` of a Zstandard frame made with `body_dictionary_1.txt`."""

SHORTEST_PACKED = 128
"""Bytes of a body that is worth packing; shorter ones stay readable."""

_LEVEL = -1  # 3 us a body and 175 of 510 bytes; level 1 gives 160 for 5 us (docs/performance.md)
_dictionary = zstandard.ZstdCompressionDict(
    files(__package__).joinpath("body_dictionary_1.txt").read_bytes(), dict_type=zstandard.DICT_TYPE_RAWCONTENT
)


class _Own(threading.local):
    """Each thread's own: neither may be used by two at once."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=_dictionary, write_content_size=True, write_checksum=False, write_dict_id=False
        )
        self.decompressor = zstandard.ZstdDecompressor(dict_data=_dictionary)


_own = _Own()


def pack(body: bytes) -> tuple[int, bytes]:
    """(packing, packed body), as `unpack` takes it; as it came where packing would not make it shorter."""
    if len(body) >= SHORTEST_PACKED:
        packed = _own.compressor.compress(body)
        if len(packed) < len(body):
            return ZSTANDARD_1, packed
    return PLAIN, body


def unpack(packing: int, packed: bytes) -> bytes:
    """The body, byte for byte. Raises ValueError for a packing that this version does not know."""
    if packing == PLAIN:
        return packed
    if packing == ZSTANDARD_1:
        return _own.decompressor.decompress(packed)
    raise ValueError(f"A body is packed with method {packing}, which this release cannot read. Upgrade this process.")
