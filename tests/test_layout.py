"""Holds the repository to what its folders, its changelog and its packaging promise."""

import ast
import re
import subprocess
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("worker", "client", "wire", "certs")

# Written in halves, so that this file does not find itself.
REGISTRY = re.compile(
    b"|".join(
        re.escape(head + tail).encode()
        for head, tail in [
            ("pypi", ".org"),
            ("python", "hosted.org"),
            ("anaconda", ".org"),
            ("crates", ".io"),
            ("npmjs", ".org"),
            ("--index", "-url"),
            ("--extra-index", "-url"),
            ("--find", "-links"),
        ]
    )
)


def committed_files() -> list[Path]:
    """Return what git tracks, and what it would if everything here were added."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_every_module_says_what_it_owns() -> None:
    modules = {package: list((ROOT / package).rglob("*.py")) for package in PACKAGES}
    assert all(modules.values()), modules
    silent = [
        str(path.relative_to(ROOT))
        for paths in modules.values()
        for path in paths
        if not ast.get_docstring(ast.parse(path.read_bytes()))
    ]
    assert silent == []


def test_every_package_is_typed() -> None:
    assert [package for package in PACKAGES if not (ROOT / package / "py.typed").is_file()] == []


def test_the_console_script_is_installed() -> None:
    (script,) = entry_points(group="console_scripts", name="worker-service")
    assert callable(script.load())


def test_no_file_names_a_package_registry() -> None:
    files = committed_files()
    assert ROOT / "constraints.txt" in files
    assert [str(path.relative_to(ROOT)) for path in files if REGISTRY.search(path.read_bytes())] == []


def test_the_changelog_and_the_installed_package_are_at_the_current_version() -> None:
    current = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert version("worker-service") == current
    assert re.search(rf"^## {re.escape(current)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
