"""Bytes from outside, changed at random: accepted or refused in one line, never worse.

A little of it in every run of the tests, always the same; `fuzz.py` does it for as long
as one likes, led by coverage.
"""

import tempfile
from pathlib import Path

import fuzz_targets
import pytest

hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

EXAMPLES = {"image": 60, "archive": 60, "overrides": 60}


def bounded(examples: int) -> settings:
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def changed(draw: st.DrawFn, target: str) -> bytes:
    """A whole input with some bytes replaced, put in, left out or repeated."""
    content = bytearray(draw(st.sampled_from(fuzz_targets.seeds(target))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        to = min(at + draw(st.sampled_from([0, 1, 2, 4, 8, 60, 5000])), len(content))
        new = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(
                    [
                        *(b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\n", b"\r"),
                        *(b"../", b"/", b" ", b"\t", b"-1", b"NaN", b"1e999", b"null"),
                        *(b"[" * 3000, b"(" * 300, b"9" * 5000, b'"', b"\x1b[2J"),
                        *(b"\xe2\x80\xae", b"\xed\xa0\x80", b"=", b"."),
                    ]
                ),
                st.just(bytes(content[at:to]) * 2),
            )
        )
        content[at:to] = new
    return bytes(content)


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_accepts_or_refuses_in_one_line(target: str) -> None:
    if target == "safetensors":
        pytest.importorskip("safetensors", reason="needs safetensors")
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:

        @bounded(EXAMPLES.get(target, 150))
        @given(content=st.one_of(changed(target), st.binary(max_size=200)))
        def check(content: bytes) -> None:
            outcomes.append(fuzz_targets.TARGETS[target](content, Path(folder)))

        check()
    # Otherwise the changes reach nothing beyond the first check.
    assert set(outcomes) == {True, False}


@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_seeds_reach_what_they_are_for(target: str, tmp_path: Path) -> None:
    run = fuzz_targets.TARGETS[target]
    assert any([run(content, tmp_path) for content in fuzz_targets.seeds(target)])


# What fuzzing found, and is mended: each raised something else, or a line without the
# file's name.
FOUND = {
    "a name too long for the disk": ("lists", b"[" * 5000 + b"/x 0\n"),
    "a list that is one long line": ("lists", b"x" * 5000),
    "JSON too deep for the parser": ("class_map", b"[" * 100_000),
    "deep JSON for prepare": ("json_files", b"[" * 100_000),
    "prepared.json without lists": ("json_files", b'{"format": 1, "settings": 3}'),
    "lists with names to elsewhere": (
        "json_files",
        b'{"format":1,"settings":{"name":"x"},"lists_sha256":{"../../x\\u001b":"a"}}',
    ),
    "names of classes that are no text": ("pickled", b"\xff\xfe"),
    "a pickle's text without an end": ("pickled", b"S" + b"x" * 5000 + b"\n."),
    "a dotted name in a checkpoint": ("config_json", b'{".augment": {}}'),
    "a name that turns the line": ("config_json", '{"mo\u202edel": 3}'.encode()),
    "the name of a configuration": ("overrides", b"--config=\x1b[2J"),
    "an index into a tuple": ("overrides", b"--config.data.mean[0]=1"),
    "an argument for a screen": ("overrides", b"9" * 5000),
    "a very long flag": ("overrides", b"--confi" + b"9" * 5000 + b"\n--x"),
}


@pytest.mark.parametrize("what", FOUND)
def test_faults_that_were_found(what: str, tmp_path: Path) -> None:
    target, content = FOUND[what]
    assert not fuzz_targets.TARGETS[target](content, tmp_path)


def test_a_zip_directory_that_points_before_the_file(tmp_path: Path) -> None:
    whole = fuzz_targets.seeds("archive")[4]
    end = whole.rindex(b"PK\5\6")
    for offset in (0, 10, 2**31, 2**32 - 1):
        field = offset.to_bytes(4, "little")
        broken = whole[: end + 16] + field + whole[end + 20 :]
        assert not fuzz_targets.TARGETS["archive"](broken, tmp_path)


def test_a_zip_directory_with_another_size(tmp_path: Path) -> None:
    whole = fuzz_targets.seeds("archive")[4]
    entry = whole.index(b"PK\1\2")
    for size in (599, 601, 1000):
        field = size.to_bytes(4, "little")
        broken = whole[: entry + 24] + field + whole[entry + 28 :]
        assert not fuzz_targets.TARGETS["archive"](broken, tmp_path)
