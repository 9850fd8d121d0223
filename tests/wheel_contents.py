"""What must be in a wheel, what must not, and its metadata against pyproject.toml.

python tests/wheel_contents.py WHEEL
"""

import email
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def problems(wheel: Path) -> list[str]:
    """A line for everything that is wrong with the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = email.message_from_bytes(archive.read(f"{folder}/METADATA"))
        scripts = archive.read(f"{folder}/entry_points.txt").decode()
    found = []

    def equal(what: str, is_there: object, wanted: object) -> None:
        if is_there != wanted:
            found.append(f"{what}: {is_there!r}, expected {wanted!r}")

    equal("top level", {name.split("/")[0] for name in names}, {"blt_jax", folder})
    source = (ROOT / "blt_jax").rglob("*.py")
    wanted = {str(path.relative_to(ROOT)) for path in source} | {"blt_jax/py.typed"}
    equal(
        "files of the package",
        {name for name in names if name.startswith("blt_jax/")} ^ wanted,
        set(),
    )
    equal("licence file", f"{folder}/licenses/LICENSE" in names, True)
    equal("name", metadata["Name"], project["name"])
    equal("version", metadata["Version"], project["version"])
    equal("summary", metadata["Summary"], project["description"])
    equal("licence", metadata["License-Expression"], project["license"])
    equal("Python", metadata["Requires-Python"], project["requires-python"])
    equal("classifiers", metadata.get_all("Classifier"), project["classifiers"])
    equal(
        "addresses",
        {tuple(line.split(", ", 1)) for line in metadata.get_all("Project-URL", [])},
        set(project["urls"].items()),
    )
    equal(
        "extras",
        {name.replace("_", "-") for name in metadata.get_all("Provides-Extra", [])},
        set(project["optional-dependencies"]),
    )
    equal("command", "blt-jax = blt_jax.main:run" in scripts, True)
    readme = metadata.get_payload(decode=True).decode()
    same = readme.strip() == (ROOT / "README.md").read_text().strip()
    equal("README is the description", same, True)
    return found


if __name__ == "__main__":
    lines = problems(Path(sys.argv[1]))
    print("\n".join(lines) or f"{Path(sys.argv[1]).name}: as it should be")
    sys.exit(bool(lines))
