import hashlib
from importlib.resources import files
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.intake import packing
from receiver.intake.packing import PLAIN, SHORTEST_PACKED, ZSTANDARD_1, pack, unpack

SAMPLES = sorted((Path(__file__).parents[1] / "samples" / "callbacks").iterdir())


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_each_sample_is_unpacked_byte_for_byte(path: Path) -> None:
    body = path.read_bytes()
    assert unpack(*pack(body)) == body


@given(st.binary(max_size=2_000) | st.binary(min_size=1, max_size=40).map(lambda piece: piece * 100))
def test_any_bytes_are_unpacked_unchanged(body: bytes) -> None:
    assert unpack(*pack(body)) == body


def test_largest_body_is_unpacked_unchanged() -> None:
    for body in (b"{" * 65536, bytes(range(256)) * 256):
        assert unpack(*pack(body)) == body


def test_documented_body_takes_less_than_half() -> None:
    body = (SAMPLES[0].parent / "completed.json").read_bytes()
    kind, packed = pack(body)
    assert kind == ZSTANDARD_1
    assert len(packed) < len(body) / 2


def test_short_and_incompressible_bodies_stay_unchanged() -> None:
    short, noise = b"x" * (SHORTEST_PACKED - 1), b"".join(hashlib.sha256(bytes([n])).digest() for n in range(8))
    assert pack(short) == (PLAIN, short)
    assert pack(noise) == (PLAIN, noise)


def test_threads_do_not_mix_up_their_bodies() -> None:
    bodies = [(b'{"status":"completed","attempts":"%d","filler":"%s"}' % (n, b"ab" * n)) for n in range(60, 400)]
    wrong: list[bytes] = []

    def pack_all() -> None:
        wrong.extend(body for body in bodies * 20 if unpack(*pack(body)) != body)

    threads = [Thread(target=pack_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_dictionary_is_never_changed() -> None:
    """Bodies that were packed with it could not be read any more. A better one is a new file, and a new number."""
    dictionary = files(packing.__package__).joinpath("body_dictionary_1.txt").read_bytes()
    assert hashlib.sha256(dictionary).hexdigest() == "4701925fb2b345c8da7a0734ebc354fdab7c9c0df4f760ac6a8f0d6d03fe1deb"


def test_frame_of_an_earlier_release_can_be_read() -> None:
    frame = bytes.fromhex(
        "28b52ffd609500f50100d03131313130323133313137383334313133313137383034377d0a0e00208bccf50d600f102fe0e0"
        "ef7a03d043e03507728900701340278818c8b23e2f20"
    )
    assert unpack(ZSTANDARD_1, frame) == (SAMPLES[0].parent / "completed.json").read_bytes()


def test_packing_of_a_later_release_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="method 9, which this release cannot read"):
        unpack(9, b"")
