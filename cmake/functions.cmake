# infercache_library(NAME SOURCES... [PUBLIC libs...] [PRIVATE libs...]): a static library that is
# compiled with the project's warnings. A target sees only what it links: a wrong arrow between rooms
# is a link error or a missing header.
set(INFERCACHE_WARNINGS -Wall -Wextra)
if(INFERCACHE_WERROR)
  list(APPEND INFERCACHE_WARNINGS -Werror)
endif()
if(CMAKE_CXX_COMPILER_ID MATCHES Clang)
  list(APPEND INFERCACHE_WARNINGS -Wthread-safety)
elseif(CMAKE_UNITY_BUILD)
  # It asks whether a type is defined in the file that is compiled; in a batch none is.
  list(APPEND INFERCACHE_WARNINGS -Wno-subobject-linkage)
endif()

function(infercache_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
  target_compile_options(${name} PRIVATE ${INFERCACHE_WARNINGS})
  target_link_libraries(${name} PUBLIC ${ARG_PUBLIC} PRIVATE ${ARG_PRIVATE})
endfunction()

# infercache_generated(NAME): a library of code that protoc wrote. Its files share their local names; and
# AddressSanitizer in what nobody here wrote takes two thirds of the time that it takes to compile.
function(infercache_generated name)
  set_target_properties(${name} PROPERTIES UNITY_BUILD OFF)
  if(INFERCACHE_SANITIZE MATCHES address)
    target_compile_options(${name} PRIVATE -fno-sanitize=all)
  endif()
endfunction()

function(infercache_executable name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PRIVATE" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(${name} PRIVATE ${INFERCACHE_WARNINGS})
  target_link_libraries(${name} PRIVATE ${ARG_PRIVATE})
endfunction()

# infercache_runs_once(NAME...): code that no test spends its time in, but that takes long to compile
# because of what it includes (CLI11). In builds for tests, optimising it takes half of that.
function(infercache_runs_once)
  if(NOT CMAKE_BUILD_TYPE)
    foreach(name ${ARGN})
      target_compile_options(${name} PRIVATE -O0)
    endforeach()
  endif()
endfunction()

# infercache_runs_long(NAME...): code that tests spend their time in. The preset asan compiles all else
# unoptimised, which takes half as long.
function(infercache_runs_long)
  if(NOT CMAKE_BUILD_TYPE AND INFERCACHE_SANITIZE)
    foreach(name ${ARGN})
      target_compile_options(${name} PRIVATE -O1)
    endforeach()
  endif()
endfunction()

# infercache_test(NAME SOURCES... PRIVATE libs... [LABELS ...]): a GoogleTest program, one ctest entry
# for each program.
function(infercache_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;PRIVATE;LABELS" ${ARGN})
  infercache_executable(${name} SOURCES ${ARG_SOURCES} PRIVATE ${ARG_PRIVATE} GTest::gmock GTest::gtest_main)
  target_precompile_headers(${name} REUSE_FROM infercache_test_headers)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()

# infercache_fuzzer(NAME SOURCES... PRIVATE libs...): a libFuzzer target, which ctest runs for some seconds
# from its seeds, the files of the folder seeds/NAME, and from what earlier runs of this build have found.
function(infercache_fuzzer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;PRIVATE" ${ARGN})
  if(NOT INFERCACHE_BUILD_FUZZERS)
    return()
  endif()
  infercache_executable(${name} SOURCES ${ARG_SOURCES} PRIVATE ${ARG_PRIVATE})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set(corpus ${CMAKE_CURRENT_BINARY_DIR}/corpus/${name})
  file(MAKE_DIRECTORY ${corpus})
  set(seeds ${CMAKE_CURRENT_SOURCE_DIR}/seeds/${name})
  if(NOT EXISTS ${seeds})
    set(seeds)
  endif()
  add_test(NAME ${name} COMMAND ${name} -max_total_time=5 -timeout=10 -rss_limit_mb=2048 ${corpus} ${seeds})
  set_tests_properties(${name} PROPERTIES TIMEOUT 120 LABELS fuzz)
endfunction()
