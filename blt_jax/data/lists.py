"""List files of the field: one `relative/path label` a line (OLTR and successors)."""

import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence

import numpy as np

# What each name of a folder means to a list that mentions it.
_OUTSIDE, _FOLDER, _MISSING = "outside", "folder", "missing"
# A label beyond it is a slip of the pen; counting up to it would fill the memory.
_MOST_CLASSES = 1_000_000


def read_list(
    path: str | os.PathLike[str],
    root: str | os.PathLike[str] | None,
    *,
    num_classes: int | None = None,
    every_class: bool = False,
) -> tuple[list[str], np.ndarray]:
    """Read a list file and check every line of it.

    The label is what follows the last white space, so that names may hold spaces. A
    byte order mark, CRLF and blank lines are accepted, and `.gz` is unpacked. Existence
    is checked by listing each folder once, which stays fast on network disks.

    root: the folder that the paths start from; None: the images are kept elsewhere, and
      no files are looked for. Paths are relative, without "..", in any case.
    num_classes: labels must be below it; None: any label >= 0.
    every_class: refuse a list that leaves out a class (training lists).

    Returns:
      relative paths [N] and labels [N] int32.

    Raises:
      FileNotFoundError: no such list, root, or listed file.
      ValueError: any other faulty line; the message starts with file:line.
    """
    problem_of = _unsafe
    if root is not None:
        root = os.fspath(root) or "."
        if not os.path.isdir(root):
            raise FileNotFoundError(
                f"{root}: no such folder; set data.root to the folder that the paths "
                f"in {os.fspath(path)} start from"
            )
        problem_of = _Checker(os.path.realpath(root)).problem
    paths: list[str] = []
    labels: list[int] = []
    missing: list[tuple[int, str]] = []
    for number, name, label in _entries(path, num_classes):
        problem = problem_of(name)
        if problem == _MISSING:
            missing.append((number, name))
        elif problem is not None:
            raise ValueError(f"{os.fspath(path)}:{number}: {problem}")
        paths.append(name)
        labels.append(label)
    if missing:
        number, name = missing[0]
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise FileNotFoundError(
            f"{os.fspath(path)}:{number}: no file {_shown(name)} in {root}{more}; set "
            "data.root to the folder that the paths start from, or mend the list"
        )
    if not paths:
        raise ValueError(f"{os.fspath(path)}: the list is empty")
    result = np.array(labels, np.int32)
    if every_class:
        counts = np.bincount(result, minlength=num_classes or 0)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            raise ValueError(
                f"{os.fspath(path)}: no image for {_some(empty)} of {len(counts)} "
                "classes; labels must run from 0 without a gap, so number the classes "
                "anew or add images"
            )
    return paths, result


def read_class_names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read class names: a line `id<TAB>name` or `name`; the line number is the label.

    A name that two classes share is followed by its id in brackets.
    """
    ids: list[str] = []
    names: list[str] = []
    for number, line in enumerate(_read_lines(path, "class names"), 1):
        first, tab, rest = line.partition("\t")
        name = rest.strip() if tab else first.strip()
        if not name:
            raise ValueError(
                f"{os.fspath(path)}:{number}: empty class name; the line number is the "
                "label, so no line may be left out"
            )
        ids.append(first.strip() if tab else "")
        names.append(name)
    if not names:
        raise ValueError(f"{os.fspath(path)}: the file holds no class names")
    times: dict[str, int] = {}
    for name in names:
        times[name] = times.get(name, 0) + 1
    lines: dict[str, int] = {}
    result = []
    for number, (key, name) in enumerate(zip(ids, names, strict=True), 1):
        full = f"{name} ({key})" if times[name] > 1 and key else name
        if full in lines:
            raise ValueError(
                f"{os.fspath(path)}:{number}: class name {_shown(full)} is also on "
                f"line {lines[full]}; names must differ"
            )
        lines[full] = number
        result.append(full)
    return tuple(result)


def names_from_folders(
    paths: Sequence[str], labels: np.ndarray, num_classes: int
) -> tuple[str, ...]:
    """Name the classes after their folders, or by number where that is ambiguous.

    Used without a file of names. Folders count where all images of a class lie in one,
    and no two classes share its name.
    """
    folder_of: dict[int, str] = {}
    for path, label in zip(paths, labels.tolist(), strict=True):
        folder = os.path.dirname(path)
        if folder_of.setdefault(label, folder) != folder:
            folder_of.clear()
            break
    names = tuple(os.path.basename(folder_of.get(c, "")) for c in range(num_classes))
    if all(names) and len(set(names)) == num_classes:
        return names
    return tuple(str(c) for c in range(num_classes))


def _unsafe(name: str) -> str | None:
    """What is wrong with a path whose file is not looked for, as a sentence."""
    if name.startswith("/") or "\0" in name or ".." in name.split("/"):
        return f"{_shown(name)} must be relative, without '..'"
    return None


class _Checker:
    """Says what is wrong with a relative path; reads each folder once."""

    def __init__(self, root: str):
        self._root = root
        # Folder -> what is wrong with it, or its entries by name.
        self._folders: dict[str, str | dict[str, os.DirEntry[str]]] = {}

    def problem(self, name: str) -> str | None:
        """Return None, _MISSING, or a sentence."""
        folder, _, base = name.rpartition("/")
        entries = self._folders.get(folder)
        if entries is None:
            # An absolute path has "" or "/..." as its folder.
            entries = self._read(folder)
            self._folders[folder] = entries
        if isinstance(entries, str):
            return self._explain(entries, name)
        if name.startswith("/"):
            return self._explain(_OUTSIDE, name)
        entry = entries.get(base)
        if entry is None:
            # Also where "." and ".." end up: no folder lists them.
            return self._explain(_OUTSIDE if base == ".." else _MISSING, name)
        try:
            if entry.is_symlink() and not self._inside(entry.path):
                return self._explain(_OUTSIDE, name)
            if not entry.is_file():
                return self._explain(_FOLDER if entry.is_dir() else _MISSING, name)
        except OSError as error:  # a link to itself
            return f"{_shown(name)} cannot be read ({error.strerror})"
        return None

    def _read(self, folder: str) -> str | dict[str, os.DirEntry[str]]:
        if "\0" in folder or folder.startswith("/") or ".." in folder.split("/"):
            return _OUTSIDE
        full = os.path.join(self._root, folder)
        try:
            with os.scandir(full) as entries:
                result = {entry.name: entry for entry in entries}
        except (FileNotFoundError, NotADirectoryError):
            return _MISSING
        except OSError as error:  # a name too long, no permission
            return f"folder {_shown(folder)} cannot be read ({error.strerror})"
        return result if self._inside(full) else _OUTSIDE

    def _inside(self, path: str) -> bool:
        real = os.path.realpath(path)
        return os.path.commonpath([real, self._root]) == self._root

    def _explain(self, problem: str, name: str) -> str:
        if problem == _OUTSIDE:
            return (
                f"{_shown(name)} leaves the root {self._root}; paths must be "
                "relative to it, without '..' and without links that lead out of it"
            )
        if problem == _FOLDER:
            return f"{_shown(name)} is a folder, not an image"
        return problem


def _entries(
    path: str | os.PathLike[str], num_classes: int | None
) -> Iterator[tuple[int, str, int]]:
    """Yield line number, path and label of each line that is not blank."""
    for number, line in enumerate(_read_lines(path, "list"), 1):
        if not line or line.isspace():
            continue
        parts = line.rsplit(None, 1)
        if len(parts) != 2:
            raise ValueError(
                f"{os.fspath(path)}:{number}: {_shown(line.strip())} is not a path "
                "and a label; write 'relative/path label'"
            )
        name, text = parts
        yield number, name, _parse_label(text, num_classes, path, number)


def _read_lines(path: str | os.PathLike[str], what: str) -> list[str]:
    opened = gzip.open if os.fspath(path).endswith(".gz") else open
    try:
        # Universal newlines; utf-8-sig drops a byte order mark.
        with opened(path, "rt", encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError:
        raise FileNotFoundError(f"{os.fspath(path)}: no such {what} file") from None
    except IsADirectoryError:
        raise ValueError(f"{os.fspath(path)}: is a folder, not a {what} file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{os.fspath(path)}:{line}: not UTF-8 text; save the file as UTF-8"
        ) from None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise ValueError(
            f"{os.fspath(path)}: not a whole gzip file; fetch it again"
        ) from None
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _parse_label(
    text: str, num_classes: int | None, path: str | os.PathLike[str], number: int
) -> int:
    # int() would also take "1_0", and digits of other scripts.
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(
            f"{os.fspath(path)}:{number}: label {_shown(text)} is not a whole number; "
            "write 'relative/path label'"
        )
    label = int(text)
    most = _MOST_CLASSES if num_classes is None else num_classes
    if not 0 <= label < most:
        raise ValueError(
            f"{os.fspath(path)}:{number}: label {label} must be at least 0 and below "
            f"{most} classes"
        )
    return label


def _shown(text: str, most: int = 200) -> str:
    """A text from the file for a message: quoted, and not a screenful of it."""
    quoted = repr(text)
    return quoted if len(quoted) <= most else f"{quoted[: most - 4]}...{quoted[0]}"


def _some(numbers: np.ndarray, most: int = 8) -> str:
    text = ", ".join(str(number) for number in numbers[:most].tolist())
    return text if len(numbers) <= most else f"{text} ... ({len(numbers)} in all)"
