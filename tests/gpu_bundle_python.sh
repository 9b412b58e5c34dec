#!/usr/bin/env bash
# Builds the Python client of a GPU bundle for a Python that the bundle has none for. The bundle has the C++ client as
# archives: what is compiled, for a minute or two, is the extension alone.
#
#   python/build.sh PYTHON FOLDER   FOLDER is made a copy of the bundle's python/ with the client for PYTHON
#   CXX   in the environment: a compiler that knows C++20 [c++]
#
# Exit status 77, and one line that says why: there is no compiler, or no Python.h. 1: it could not be built.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${1:?} folder=${2:?}
libraries=$(cd "$here/../lib" && pwd)
compiler=${CXX:-c++}

lacks() {
  printf 'no %s\n' "$*"
  exit 77
}

command -v "$compiler" >/dev/null || lacks "compiler to build it with: $compiler"
ask() { "$python" -c "import sysconfig; print(sysconfig.$1)"; }
headers=$(ask 'get_path("include")')
[ -e "$headers/Python.h" ] || lacks "Python.h in $headers to build it with (python3-dev)"

mkdir -p "$folder"
cp -r "$here/infercache" "$here"/*.py "$folder"
objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
source=$here/source

# As client/python/CMakeLists.txt does, but in less time.
printf '"%s"\n' -std=c++20 -O1 -DNDEBUG -fPIC -fvisibility=hidden -fno-strict-aliasing -w \
  "-I$source" "-I$source/include" "-I$headers" \
  "-I$source/nanobind/include" "-I$source/nanobind/ext/robin_map/include" >"$objects/options"
# shellcheck disable=SC2016  # it is the other shell's
printf '%s\0' "$source"/client/python/ext/*.cc "$source/nanobind/src/nb_combined.cpp" |
  xargs -0 -n 1 -P "$(nproc)" sh -c '"$0" @"$1/options" -c "$2" -o "$1/$(basename "$2").o"' "$compiler" "$objects"

# Of the two libraries of C++ the newer one has all that the other has: what is compiled here may need that of the
# compiler, what the bundle brings needs its own.
newest() { grep -aoh 'GLIBCXX_3\.4\.[0-9]*' "$@" | sort -V | tail -n 1; }
compilers=$(realpath "$("$compiler" -print-file-name=libstdc++.so.6)")
mkdir -p "$folder/newer"
if [ -e "$compilers" ] && [ "$(newest "$compilers" "$libraries/libstdc++.so.6")" != "$(newest "$libraries/libstdc++.so.6")" ]; then
  ln -sf "$compilers" "$folder/newer/libstdc++.so.6"
fi
mapfile -t shared < <(find "$libraries" -name '*.so*' ! -name 'libstdc++*' ! -name 'libgcc_s*')
"$compiler" -shared -s -o "$folder/infercache/_core$(ask 'get_config_var("EXT_SUFFIX")')" "$objects"/*.o \
  -Wl,--start-group "$source"/lib/*.a -Wl,--end-group -Wl,--as-needed "${shared[@]}" \
  -Wl,--allow-shlib-undefined -Wl,--exclude-libs,ALL -Wl,--version-script="$source/client/python/ext/exports.map" \
  -Wl,--disable-new-dtags -Wl,-rpath,"$(realpath "$folder")/newer:$libraries"
