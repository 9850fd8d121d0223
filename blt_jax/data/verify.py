"""Every image of a data set decoded once, before training: which files are bad."""

import os
from collections import Counter
from collections.abc import Callable, Sequence

from blt_jax.data.bad_files import PROBLEMS, BadFile, describe
from blt_jax.data.damage import warning
from blt_jax.data.decode import BadImageError, crop, open_picture
from blt_jax.data.split import Split
from blt_jax.data.threads import DecodingThreads

# Images between two looks at the clock; a whole split of tasks would fill the memory.
_BLOCK = 256


def verify_images(
    splits: Sequence[Split],
    *,
    threads: int,
    report: Callable[[int, int], None] | None = None,
) -> list[BadFile]:
    """Decode every image of the splits in parallel; return the bad files in order.

    report: report(images done, images of all splits), now and then.

    Finds what training finds, and with simplejpeg a little more: training decodes
    JPEG with EXIF by Pillow, which keeps libjpeg's warnings to itself.

    Raises:
      OSError: the machine, not a file, is at fault.
    """
    pool = DecodingThreads(threads)
    total = sum(len(split) for split in splits)
    bad: list[BadFile] = []
    done = 0
    for split in splits:
        for start in range(0, len(split), _BLOCK):
            count = min(_BLOCK, len(split) - start)
            found: list[BadFile | None] = [None] * count

            def look(
                number: int,
                split: Split = split,
                start: int = start,
                found: list[BadFile | None] = found,
            ) -> None:
                found[number] = _problem(split, start + number)

            pool.each(look, count)
            bad += [one for one in found if one is not None]
            done += count
            if report is not None:
                report(done, total)
    return bad


def summary(bad: Sequence[BadFile], *, total: int, named: int = 5) -> list[str]:
    """Lines for a person: how many, of what kind, and the first few files."""
    if not bad:
        return [f"all {total} images can be read"]
    kinds = Counter(one.kind for one in bad)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    lines = [f"{len(bad)} of {total} images are bad: {counts}"]
    lines += [f"  {one.split}: {one.problem}" for one in bad[:named]]
    if len(bad) > named:
        lines.append(f"  ... and {len(bad) - named} more")
    return lines


def in_two_splits(splits: Sequence[Split]) -> list[tuple[str, str, str]]:
    """Paths that two splits share: (path, first split, second split).

    Of a file in training and in an evaluation split the accuracy means nothing.
    """
    seen: dict[str, str] = {}
    shared = []
    for split in splits:
        for path in {os.path.normpath(path) for path in split.ids}:
            if seen.setdefault(path, split.name) != split.name:
                shared.append((path, seen[path], split.name))
    return sorted(shared)


def _problem(split: Split, record: int) -> BadFile | None:
    try:
        content = split.source[record]
        picture = open_picture(content, name=split.ids[record])
        # One pixel: a JPEG at an eighth of its size, which reads all of its data.
        crop(picture, (0, 0, picture.width, picture.height), 1)
        lost = None
        if isinstance(content, bytes) and b"Exif\0\0" in content:
            lost = warning(content)
        if lost is not None:
            raise BadImageError(
                f"{split.ids[record]}: not a whole image ({lost}); replace the file or "
                "take it out of the list"
            )
    except PROBLEMS as error:
        return describe(split, record, error)
    return None
