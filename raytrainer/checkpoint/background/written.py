"""How the process that writes checkpoints makes a file out of its parts: each byte is hashed, summed and written once.

It goes in small steps, so that whoever runs it can stop between two of them and let somebody else go on. Nothing here
imports torch.
"""

from __future__ import annotations

import mmap
from collections.abc import Generator, Sequence

from raytrainer.checkpoint.background.direct import DirectFile
from raytrainer.checkpoint.background.messages import CheckSum, Identity, Image, Part, Place, Summed
from raytrainer.checkpoint.background.sums import crc32
from raytrainer.checkpoint.digests import new_digest
from raytrainer.checkpoint.manifest import FileRecord

STEP = 512 << 10
"""What is summed and copied at once; it fits into a processor's cache [bytes]."""
_UNSIGNED = (1 << 64) - 1


def write_image(image: Image, memory: Sequence[mmap.mmap]) -> Generator[None, None, FileRecord]:
    """Write a file and bring it to the disk.

    Args:
        image: Names the file and its parts.
        memory: The segments of the shared memory.

    Yields:
        After each step.

    Returns:
        What a manifest says about the file.
    """
    digest, size = new_digest(), 0
    sums: dict[int, int] = {}
    with DirectFile(image.path) as file:
        for part in image.parts:
            for chunk in _chunks(part, memory, sums):
                digest.update(chunk)
                size += len(chunk)
                taken = 0
                while taken < len(chunk):
                    taken += file.put(chunk[taken:])
                    if file.is_full:
                        file.write()
                        yield
        file.write()
        yield
        file.sync()
    yield
    return FileRecord(size=size, digest=digest.hexdigest())


def _chunks(part: Part, memory: Sequence[mmap.mmap], sums: dict[int, int]) -> Generator[bytes | memoryview]:
    """The bytes of a part."""
    if isinstance(part, bytes):
        yield part
    elif isinstance(part, Place):
        yield from _copied(part, memory)
    elif isinstance(part, CheckSum):
        yield sums[part.number].to_bytes(4, "little")
    elif isinstance(part, Summed):
        total = 0
        for chunk in _copied(part.place, memory):
            total = crc32(chunk, total)
            yield chunk
        sums[part.number] = total
    else:
        text = _digits(part, sums)
        sums[part.NUMBER] = crc32(text, 0)
        yield text


def _copied(place: Place, memory: Sequence[mmap.mmap]) -> Generator[memoryview]:
    whole = memoryview(memory[place.segment])[place.begin : place.begin + place.size]
    for begin in range(0, place.size, STEP):
        yield whole[begin : begin + STEP]


def _digits(identity: Identity, sums: dict[int, int]) -> bytes:
    """What torch makes of the checksums of all entries."""
    combined = 0
    for one in identity.sums:
        value = sums[one.number] if isinstance(one, CheckSum) else one
        mixed = value + 0x9E3779B9 + (combined << 6 & _UNSIGNED) + (combined >> 2)
        combined ^= mixed & _UNSIGNED
    return identity.prefix + b"%020d" % combined
