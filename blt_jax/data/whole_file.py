"""Files that are there whole or not at all, whenever the process is killed."""

import os


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file, text as UTF-8, in place of what was there. Raises OSError."""
    partial = f"{os.fspath(path)}.partial"
    with open(partial, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    os.replace(partial, path)
