# What a build can be told, and the flags that follow from it.
option(INFERCACHE_WITH_GRPC "Build what links gRPC: daemon, client, CLI" ON)
option(INFERCACHE_BUILD_PROGRAMS "Build daemon, CLI and examples; without them only the client's libraries" ON)
option(INFERCACHE_BUILD_TESTS "Build the tests" ON)
option(INFERCACHE_BUILD_BENCH "Build the micro benchmarks" ON)
option(INFERCACHE_BUILD_FUZZERS "Build the fuzz targets (clang with libFuzzer)" OFF)
option(INFERCACHE_WERROR "Treat warnings as errors" OFF)
set(INFERCACHE_SANITIZE "" CACHE STRING "Comma-separated list for -fsanitize=")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
if(NOT DEFINED CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo)
endif()

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  # Else it stores nothing that uses a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
  if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    set(INFERCACHE_PRECOMPILED_OPTIONS "SHELL:-Xclang -fno-pch-timestamp")
  else()
    set(INFERCACHE_PRECOMPILED_OPTIONS -fpch-preprocess)
  endif()
endif()
find_program(LLD ld.lld)
if(LLD)
  add_link_options(-fuse-ld=lld)
endif()

if(INFERCACHE_SANITIZE)
  add_compile_options(-fsanitize=${INFERCACHE_SANITIZE} -fno-omit-frame-pointer
                      -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${INFERCACHE_SANITIZE})
  # To read an object's type this check opens a pipe. A process that is out of descriptors, as some tests
  # are on purpose, cannot, and every object is then said to be none.
  if(INFERCACHE_SANITIZE MATCHES undefined)
    add_compile_options(-fno-sanitize=vptr)
  endif()
endif()
