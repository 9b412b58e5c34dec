"""The types that the package tells its users' type checkers: mypy --strict finds nothing in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import infercache
from conftest import ROOT

pytest.importorskip("mypy")


def test_the_package_is_typed(tmp_path):
    if not (Path(infercache.__file__).parent / "_core.pyi").exists():
        pytest.skip("this build of the extension wrote no stub")
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", ROOT / "client" / "python" / "pyproject.toml",
         "--cache-dir", tmp_path, "--package", "infercache"],
        cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "LD_PRELOAD"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
    assert "no issues found" in checked.stdout
