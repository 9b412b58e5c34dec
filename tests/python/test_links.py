"""The extension loads the driver if there is one: a machine without CUDA imports it."""

import shutil
import subprocess

import pytest

import infercache._core


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_the_extension_needs_no_library_of_cudas():
    path = infercache._core.__file__
    listed = subprocess.run(["readelf", "-d", path], capture_output=True, text=True, check=True).stdout
    needed = [line for line in listed.splitlines() if "(NEEDED)" in line]
    assert any("libc.so" in line for line in needed), "an empty list would say nothing"
    assert not [line for line in needed if "libcuda" in line or "libnv" in line]
