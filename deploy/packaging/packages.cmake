# Debian packages. Configure with -DCMAKE_INSTALL_PREFIX=/usr, build, then `cpack` in the build folder:
#   infercache-server, infercache-cli, libinfercache-client-dev
# What they depend on is found by dpkg-shlibdeps from what the programs link.
if(NOT CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  return()  # the unit would name another prefix than that of packages
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME infercache)
set(CPACK_PACKAGE_VENDOR infercache)
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")  # the first line of each description below is its summary
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_COMPONENTS_ALL server cli client)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_COMPONENTS_GROUPING IGNORE)
set(CPACK_SET_DESTDIR ON)  # there are files in /etc
set(CPACK_STRIP_FILES ON)

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_MAINTAINER "infercache maintainers <maintainers@infercache.invalid>"
    CACHE STRING "Maintainer of the Debian packages, as \"Name <address>\"")
set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_ENABLE_COMPONENT_DEPENDS OFF)

set(packaging ${PROJECT_SOURCE_DIR}/deploy/packaging)
set(CPACK_DEBIAN_SERVER_PACKAGE_NAME infercache-server)
set(CPACK_DEBIAN_SERVER_PACKAGE_SECTION database)
set(CPACK_DEBIAN_SERVER_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_SERVER_PACKAGE_DEPENDS adduser)
set(CPACK_DEBIAN_SERVER_PACKAGE_SUGGESTS "infercache-cli (= ${PROJECT_VERSION}-1)")
set(CPACK_DEBIAN_SERVER_DESCRIPTION "cache daemon for inference workers
infercached runs beside inference workers, one per host or per pod, and
keeps what they computed in memory: key-value blocks, activations,
embeddings, outputs. Every worker of the host shares them: from the daemon's
memory, which workers map, or over gRPC.

This package holds the daemon, which runs as a service under its own user.")
set(CPACK_DEBIAN_SERVER_PACKAGE_CONTROL_EXTRA
    ${packaging}/debian/conffiles ${packaging}/debian/postinst ${packaging}/debian/prerm
    ${packaging}/debian/postrm)

set(CPACK_DEBIAN_CLI_PACKAGE_NAME infercache-cli)
set(CPACK_DEBIAN_CLI_PACKAGE_SECTION database)
set(CPACK_DEBIAN_CLI_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_CLI_DESCRIPTION "command-line tool of the infercached cache daemon
infercachectl reads and stores objects, shows statistics, manages
namespaces, replays request traces and measures latency against an
infercached daemon.")

set(CPACK_DEBIAN_CLIENT_PACKAGE_NAME libinfercache-client-dev)
set(CPACK_DEBIAN_CLIENT_PACKAGE_SECTION libdevel)
# What infercacheConfig.cmake and infercache.pc ask for; gRPC's own CMake file insists on the compilers.
set(CPACK_DEBIAN_CLIENT_PACKAGE_DEPENDS
    "libabsl-dev, libgrpc++-dev, libisal-dev, libprotobuf-dev, pkg-config, protobuf-compiler-grpc")
set(CPACK_DEBIAN_CLIENT_DESCRIPTION "C++ client of the infercached cache daemon
Headers and static libraries to ask an infercached daemon for objects before
they are computed, and to store them after; for CMake's
find_package(infercache) and for pkg-config. Also the protocol's .proto
files, from which clients in other languages are generated.

There is no shared library: before version 1.0 the interface may change with
a minor version.")

# Every package brings its licence and its changes.
find_program(GZIP gzip REQUIRED)
# SOURCE_DATE_EPOCH is heeded.
string(TIMESTAMP changelog_date "%a, %d %b %Y %H:%M:%S +0000" UTC)
configure_file(${packaging}/debian/changelog.in ${PROJECT_BINARY_DIR}/changelog.Debian @ONLY)
foreach(changelog ${PROJECT_SOURCE_DIR}/CHANGELOG.md:changelog
                  ${PROJECT_BINARY_DIR}/changelog.Debian:changelog.Debian)
  string(REPLACE ":" ";" changelog ${changelog})
  list(GET changelog 0 from)
  list(GET changelog 1 to)
  execute_process(COMMAND ${GZIP} -9n INPUT_FILE ${from} OUTPUT_FILE ${PROJECT_BINARY_DIR}/${to}.gz
                  COMMAND_ERROR_IS_FATAL ANY)
endforeach()
set_property(DIRECTORY ${PROJECT_SOURCE_DIR} APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS
             ${PROJECT_SOURCE_DIR}/CHANGELOG.md)
foreach(component server cli client)
  string(TOUPPER ${component} upper)
  set(doc ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME})
  install(FILES ${packaging}/debian/copyright DESTINATION ${doc} COMPONENT ${component})
  install(FILES ${PROJECT_BINARY_DIR}/changelog.gz ${PROJECT_BINARY_DIR}/changelog.Debian.gz
          DESTINATION ${doc} COMPONENT ${component})
endforeach()

include(CPack)
