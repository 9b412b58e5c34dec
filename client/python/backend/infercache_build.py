"""scikit-build-core, whose sdists carry the C++ sources that lie outside this folder."""

import shutil
from pathlib import Path

from scikit_build_core.build import *  # noqa: F403  (every hook but the one below)
from scikit_build_core import build as _build

_HERE = Path(__file__).resolve().parent.parent
_ROOT = _HERE.parent.parent
_COPY = _HERE / "cpp"
# What CMakeLists.txt of the root reads with INFERCACHE_BUILD_PROGRAMS=OFF.
_SOURCES = [
    "CMakeLists.txt", "LICENSE", "cmake", "common", "convert", "proto",
    "client/CMakeLists.txt", "client/include", "client/src",
]


def build_sdist(sdist_directory, config_settings=None):
    if _COPY.exists():  # an sdist that is made from an sdist
        return _build.build_sdist(sdist_directory, config_settings)
    try:
        for name in _SOURCES:
            source, target = _ROOT / name, _COPY / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                shutil.copyfile(source, target)
        return _build.build_sdist(sdist_directory, config_settings)
    finally:
        shutil.rmtree(_COPY, ignore_errors=True)
