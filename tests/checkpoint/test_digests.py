"""Files are compared by the hash that their manifest names, also by that of earlier versions."""

from __future__ import annotations

import hashlib
import json

import pytest
import xxhash

from raytrainer.checkpoint.digests import ALGORITHMS, LENGTHS, TITLES, digest_of_file, new_digest
from raytrainer.checkpoint.scan import newest_checkpoint, verify_checkpoint
from raytrainer.errors import CheckpointError
from tests.checkpoint.saving import as_an_earlier_version, save_small

VERSIONS = {"xxh3_128": lambda path: None, "sha256": as_an_earlier_version}


@pytest.mark.parametrize(("algorithm", "rewrite"), VERSIONS.items(), ids=VERSIONS)
def test_a_checkpoint_is_compared_by_the_hash_of_its_manifest(tmp_path, algorithm, rewrite):
    checkpoint = save_small(tmp_path, 5, world_size=2)
    rewrite(checkpoint)
    manifest = verify_checkpoint(checkpoint)
    assert {record.algorithm for record in manifest.files.values()} == {algorithm}
    assert newest_checkpoint(tmp_path, run_id="run", report=pytest.fail) == checkpoint


@pytest.mark.parametrize("rewrite", VERSIONS.values(), ids=VERSIONS)
def test_a_flipped_bit_is_found_by_either_hash(tmp_path, rewrite):
    checkpoint = save_small(tmp_path, 5)
    rewrite(checkpoint)
    path = checkpoint / "nested/weights.bin"
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"weights\.bin is damaged: its content has the hash"):
        verify_checkpoint(checkpoint)


def test_a_manifest_names_the_algorithm_of_each_hash(tmp_path):
    checkpoint = save_small(tmp_path, 5)
    entry = json.loads((checkpoint / "manifest.json").read_text())["files"]["nested/weights.bin"]
    content = (checkpoint / "nested/weights.bin").read_bytes()
    assert entry == {"size": len(content), "xxh3_128": xxhash.xxh3_128_hexdigest(content)}


def test_a_hash_of_a_file_is_that_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(content)
    for algorithm in ALGORITHMS:
        with (tmp_path / "f").open("rb") as file:
            found = digest_of_file(file, algorithm)
        assert len(found) == LENGTHS[algorithm]
        assert TITLES[algorithm]
        assert (
            found == {"sha256": hashlib.sha256, "xxh3_128": xxhash.xxh3_128}[algorithm](content).hexdigest()
        )


def test_a_hash_in_pieces_is_that_of_the_whole():
    digest = new_digest()
    for piece in (b"ab", memoryview(b"cde"), b""):
        digest.update(piece)
    assert digest.hexdigest() == xxhash.xxh3_128_hexdigest(b"abcde")
