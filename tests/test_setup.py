"""pyproject.toml, requirements.lock, environment.yml and the Makefile say the same."""

import re
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML


def locked(root: Path) -> dict[str, Requirement]:
    lines = (root / "requirements.lock").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): one for one in found}


def version(one: Requirement) -> Version:
    (pin,) = one.specifier
    assert pin.operator == "==", f"{one}: the lock pins exact versions"
    return Version(pin.version)


def applies(one: Requirement, extras: Iterable[str] = ()) -> bool:
    """Whether a requirement counts on this system, for any Python that the lock is for."""
    return one.marker is None or any(
        one.marker.evaluate({"extra": e, "python_version": p, "python_full_version": f"{p}.0"})
        for e in ("", *extras)
        for p in ("3.11", "3.12")
    )


def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def test_every_dependency_is_locked_at_a_version_that_satisfies_it(root):
    lock = locked(root)
    for dependency in map(Requirement, project(root)["dependencies"]):
        name = canonicalize_name(dependency.name)
        assert name in lock, f"{name}: add it to requirements.lock"
        assert dependency.specifier.contains(version(lock[name])), f"{dependency} / {lock[name]}"
        assert {pin.operator for pin in dependency.specifier} == {">="}, (
            f"{dependency}: lower bound"
        )


def test_lock_has_the_whole_closure_and_nothing_else(root):
    lock = locked(root)
    waiting = [Requirement(text) for text in project(root)["dependencies"]]
    reached: dict[str, set[str]] = {}
    while waiting:
        one = waiting.pop()
        name = canonicalize_name(one.name)
        known = reached.get(name)
        if known is not None and one.extras <= known:
            continue
        reached[name] = (known or set()) | one.extras
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            # A part for other systems only: its line in the lock says which.
            assert name in lock and lock[name].marker, f"{name}: not installed; run `make setup`"
            continue
        waiting += [need for need in map(Requirement, needs) if applies(need, reached[name])]
    assert set(reached) - set(lock) == set(), "needed and not locked"
    here = {name for name, one in lock.items() if applies(one)}
    assert here - set(reached) == set(), "locked and not needed"


def test_lock_names_no_place(root):
    text = (root / "requirements.lock").read_text()
    assert not re.search(r"://|@ |^-|/|\\", "\n".join(text.splitlines()[3:]), re.M)


def test_torch_and_torchvision_are_a_pair(root):
    lock = locked(root)
    if Version(metadata.version("torchvision")).public != str(version(lock["torchvision"])):
        pytest.fail("torchvision is not the locked one; run `make setup`")
    needs = [Requirement(text) for text in metadata.requires("torchvision")]
    (torch,) = [need for need in needs if need.name == "torch"]
    assert torch.specifier.contains(version(lock["torch"]))


def test_environment_installs_the_lock(root):
    environment = YAML(typ="safe").load((root / "environment.yml").read_text())
    assert environment["channels"][0] == "conda-forge"
    *conda, last = environment["dependencies"]
    assert last == {"pip": ["-r requirements.lock", "-e ."]}, "pip comes last, from the lock"
    names = {re.split(r"[=<>]", text)[0]: text for text in conda}
    assert {"python", "pip", "git", "make", "ffmpeg"} <= set(names)
    python = Version(names["python"].split("=")[-1])
    assert Version("3.11") <= python
    assert Requirement(f"python{project(root)['requires-python']}").specifier.contains(python)
    assert not set(names) & (set(locked(root)) - {"pip"}), "Python packages come from the lock"


def test_installed_versions_are_the_locked_ones(root):
    other = []
    for name, one in locked(root).items():
        if one.marker is None or one.marker.evaluate():
            try:
                found = Version(metadata.version(name)).public
            except metadata.PackageNotFoundError:
                found = "absent"
            if found != str(version(one)):
                other.append(f"{name} {found} (locked {version(one)})")
    if other:  # a user may try newer versions; results are only comparable on the locked ones
        warnings.warn(f"not the locked versions: {', '.join(other)}", stacklevel=1)


def test_setup_files_name_no_host(root):
    for name in ("pyproject.toml", "requirements.lock", "environment.yml", "Makefile", ".ci/run"):
        assert "://" not in (root / name).read_text(), f"{name} names a host"


def test_console_script():
    scripts = metadata.entry_points(group="console_scripts", name="kdlib")
    if not scripts:
        pytest.fail("kdlib is not installed here; run `make setup`")
    (script,) = scripts
    assert callable(script.load())


def test_make_refuses_an_old_python(root, tmp_path):
    """The version check runs before anything is made."""
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "older than 3.11" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_lists_its_targets(root):
    done = subprocess.run(["make", "help"], cwd=root, capture_output=True, text=True, check=True)
    for target in ("setup", "data", "repro", "test", "lab", "evidence", "clean"):
        assert f"make {target}" in done.stdout


def test_ci_runs_the_tests(root):
    script = root / ".ci" / "run"
    assert script.stat().st_mode & 0o100, ".ci/run must be executable"
    assert "set -euo pipefail" in script.read_text()
    assert "make test" in script.read_text()


def test_python_is_recent_enough():
    assert sys.version_info >= (3, 11)
