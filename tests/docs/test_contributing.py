"""The worked example in docs/contributing.md, taken from the page and done in a copy of the tree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.documents import TREE, blocks

PAGE = "docs/contributing.md"
COPIED = ("falcon_agent", "tests", "docs", "config", "demo", "pyproject.toml", "README.md")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree with the example in it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in COPIED:
        if (TREE / name).is_dir():
            shutil.copytree(TREE / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(TREE / name, copy)
    for block in blocks(PAGE):
        if block.language == "python":
            assert not (copy / block.about).exists(), f"{block.about} is there already"
            (copy / block.about).write_text(block.text)
        elif block.language == "diff":
            apply(block.text, copy / block.about)
    return copy


def apply(diff: str, path: Path) -> None:
    """Change a file as a diff without line numbers says; the old lines must be there exactly once."""
    lines = diff.splitlines()
    old = "".join(f"{line[1:]}\n" for line in lines if line[:1] in {" ", "-"})
    new = "".join(f"{line[1:]}\n" for line in lines if line[:1] in {" ", "+"})
    content = path.read_text()
    assert content.count(old) == 1, f"{path.name} does not have exactly once:\n{old}"
    path.write_text(content.replace(old, new))


def run(tree: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=tree, capture_output=True, text=True, check=False, timeout=120)


def test_its_test_passes_in_the_copy(tree: Path) -> None:
    test = "tests/collectors/test_oomscore.py"
    done = run(tree, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", test)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


def test_its_test_notices_a_wrong_score(tree: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tree, broken)
    apply("-    return int(text)\n+    return 7\n", broken / "falcon_agent/procfs/oom_score.py")
    done = run(
        broken, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/collectors/test_oomscore.py"
    )
    assert done.returncode == 1, done.stdout


def test_the_program_knows_it(tree: Path) -> None:
    done = run(tree, sys.executable, "-m", "falcon_agent", "metrics", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["container.oom.score"]["collector"] == "oomscore"
    assert (
        len(rows)
        == len(json.loads(run(TREE, sys.executable, "-m", "falcon_agent", "metrics", "--json").stdout)) + 1
    )


def test_it_is_written_as_the_project_wants_it(tree: Path) -> None:
    written = [block.about for block in blocks(PAGE) if block.language == "python"]
    ruff = str(Path(sys.executable).with_name("ruff"))
    for check in (("check",), ("format", "--check")):
        done = run(tree, ruff, *check, "--no-cache", *written)
        assert done.returncode == 0, done.stdout + done.stderr
    lint = run(tree, str(Path(sys.executable).with_name("lint-imports")), "--no-cache")
    assert "No collector imports another KEPT" in lint.stdout
    assert "oomscore" not in lint.stdout
