"""Coverage-guided fuzzing of one place where bytes from outside are parsed.

    python tests/fuzz.py TARGET [-max_total_time=60] [other flags of libFuzzer] [CORPUS]

needs the extra `fuzz`. Targets are those of `fuzz_targets.py`. A fault ends it with a
traceback and a file `crash-...` that repeats it: python tests/fuzz.py TARGET crash-...
"""

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with contextlib.suppress(ImportError):
    import simplejpeg  # noqa: F401 - C libraries are not instrumented
with atheris.instrument_imports(
    include=["blt_jax", "tarfile", "zipfile", "pickletools"]
):
    import fuzz_targets


def main() -> None:
    """Start libFuzzer on a target."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in fuzz_targets.TARGETS:
        sys.exit(
            f"usage: fuzz.py TARGET ...; targets: {', '.join(fuzz_targets.TARGETS)}"
        )
    name, rest = arguments[0], arguments[1:]
    target = fuzz_targets.TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="blt_jax_fuzz_") as folder:
        work, corpus = Path(folder) / "work", Path(folder) / "corpus"
        work.mkdir()
        corpus.mkdir()
        for number, content in enumerate(fuzz_targets.seeds(name)):
            (corpus / f"seed{number}").write_bytes(content)
        if all(argument.startswith("-") for argument in rest):
            rest.append(str(corpus))
        flags = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=20000"]
        atheris.Setup(
            [sys.argv[0], *flags, *rest], lambda content: target(content, work) and None
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
