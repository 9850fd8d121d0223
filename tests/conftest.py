"""Strict modes, eight virtual devices, and the reference data where it is at hand."""

import itertools
import os
import tarfile
import tempfile
from pathlib import Path

import jax
import pytest

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
# Nearly all of a test's time is compilation: compile fast rather than well, and the
# same program once a session.
jax.config.update("jax_disable_most_optimizations", True)
_CACHE = tempfile.TemporaryDirectory(prefix="blt_jax_tests_")
jax.config.update("jax_compilation_cache_dir", _CACHE.name)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with reference results (`reference/`) and real images (`data/`).

    The one that BLT_JAX_REFERENCE_DATA names, else the one that the link
    `data/reference` of the checkout leads into.
    """
    named = os.environ.get("BLT_JAX_REFERENCE_DATA")
    link = Path(__file__).resolve().parents[1] / "data" / "reference"
    folder = Path(named) if named else link.resolve().parent
    if not ((folder / "reference").is_dir() and (folder / "data").is_dir()):
        pytest.skip("needs the reference data; BLT_JAX_REFERENCE_DATA names its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_imagenet_lt(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny ImageNet made long-tailed, unpacked once for the session."""
    target = tmp_path_factory.mktemp("data")
    with tarfile.open(shared / "data" / "tiny_imagenet_lt.tar.gz") as archive:
        archive.extractall(target, filter="data")
    return target / "tiny_imagenet_lt"


@pytest.fixture(scope="session")
def photographs(shared: Path) -> list[bytes]:
    """47 real photographs of several classes, 64 x 64 JPEG files."""
    found: list[bytes] = []
    # Read off the archive: unpacking all of it takes longer than most tests.
    with tarfile.open(shared / "data" / "tiny_imagenet_lt.tar.gz") as archive:
        images = (member for member in archive if member.name.endswith(".JPEG"))
        for image in itertools.islice(images, 0, 47 * 20, 20):
            file = archive.extractfile(image)
            assert file is not None
            found.append(file.read())
    assert len(set(found)) == 47
    return found
