# Everything comes from Debian 12's packages (deploy/install-deps.sh). Debian's Protobuf has no CMake
# config file, so FindProtobuf must run before gRPC's. Imported targets are seen by the folder that finds
# them and those below: a project that embeds this one includes this file itself, before.
include_guard(GLOBAL)
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(absl CONFIG REQUIRED)
find_package(Protobuf REQUIRED)
pkg_check_modules(ISAL REQUIRED IMPORTED_TARGET libisal)

# Header-only (libasio-dev). How it allocates is decided by its configuration header from what happens
# to be included before it, so that two files of one program can disagree: said once, for all.
find_path(ASIO_INCLUDE_DIR asio.hpp REQUIRED)
add_library(infercache_asio INTERFACE)
target_compile_definitions(infercache_asio INTERFACE ASIO_STANDALONE ASIO_HAS_STD_ALIGNED_ALLOC=1)
target_link_libraries(infercache_asio INTERFACE Threads::Threads)
# gcc's ThreadSanitizer knows no fences. Asio's order nothing that its mutexes do not order as well.
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  target_compile_options(infercache_asio INTERFACE -Wno-tsan)
endif()

if(INFERCACHE_WITH_GRPC)
  find_package(gRPC CONFIG REQUIRED)
endif()
if(INFERCACHE_WITH_GRPC AND INFERCACHE_BUILD_PROGRAMS)
  find_package(spdlog REQUIRED)
  find_package(fmt REQUIRED)
  find_package(CLI11 REQUIRED)
  find_package(yaml-cpp REQUIRED)
  find_package(prometheus-cpp CONFIG REQUIRED COMPONENTS core)
  find_package(nlohmann_json REQUIRED)
  pkg_check_modules(SYSTEMD REQUIRED IMPORTED_TARGET libsystemd)
  find_library(CIVETWEB_CPP civetweb-cpp REQUIRED)
  find_library(CIVETWEB civetweb REQUIRED)
endif()
if(INFERCACHE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(INFERCACHE_BUILD_BENCH)
  find_package(benchmark REQUIRED)
endif()
