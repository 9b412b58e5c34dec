# What `cmake --install` puts where, and the Debian packages (cpack). Components:
#   server   infercached, its systemd unit, sample configuration, man page and completion
#   cli      infercachectl, its man page and completion
#   client   the C++ client: headers, static libraries, CMake and pkg-config files, .proto files
#   demo     prefill_demo
# The libraries are static only: before 1.0 the interface may change with a minor version, and a
# shared library without a stable interface has no name to promise. See docs/install.md.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# /etc for the prefix /usr, below the prefix for any other.
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
  set(INFERCACHE_CONFIG_DIR ${CMAKE_INSTALL_FULL_SYSCONFDIR}/infercache)
  set(config_destination ${INFERCACHE_CONFIG_DIR})
else()
  set(INFERCACHE_CONFIG_DIR ${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_SYSCONFDIR}/infercache)
  set(config_destination ${CMAKE_INSTALL_SYSCONFDIR}/infercache)
endif()
set(INFERCACHE_BIN_DIR ${CMAKE_INSTALL_FULL_BINDIR})
set(completion_destination ${CMAKE_INSTALL_DATADIR}/bash-completion/completions)

# --- server, cli, demo ---

set(INFERCACHE_REFERENCE_DIR ${PROJECT_BINARY_DIR}/reference)
add_subdirectory(deploy/packaging/reference)
foreach(program infercached:server:8 infercachectl:cli:1)
  string(REPLACE ":" ";" program ${program})
  list(GET program 0 name)
  list(GET program 1 component)
  list(GET program 2 section)
  install(TARGETS ${name} RUNTIME COMPONENT ${component})
  install(FILES ${INFERCACHE_REFERENCE_DIR}/${name}.${section}.gz
          DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section} COMPONENT ${component})
  install(FILES ${INFERCACHE_REFERENCE_DIR}/${name}.bash
          DESTINATION ${completion_destination} RENAME ${name} COMPONENT ${component})
endforeach()
install(TARGETS prefill_demo RUNTIME COMPONENT demo)

# The sample is the daemon's own print of its defaults, whatever the environment of the build says.
# As a service it does not run as root, so that the place of its socket is not the default one.
set(sample ${PROJECT_BINARY_DIR}/infercached.yaml)
add_custom_command(
  OUTPUT ${sample}
  COMMAND env -i $<TARGET_FILE:infercached> --socket /run/infercache/infercached.sock --print-config
          > ${sample}.new
  COMMAND ${CMAKE_COMMAND} -E rename ${sample}.new ${sample}
  DEPENDS infercached VERBATIM)
add_custom_target(infercache_sample_config ALL DEPENDS ${sample})
install(FILES ${sample} DESTINATION ${config_destination} COMPONENT server)

configure_file(deploy/systemd/infercached.service.in ${PROJECT_BINARY_DIR}/infercached.service @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/infercached.service
        DESTINATION lib/systemd/system COMPONENT server)

# --- client ---

set(client_targets infercache_client infercache_client_local infercache_common infercache_convert infercache_cuda infercache_proto
    infercache_messages)
foreach(target ${client_targets})
  string(REPLACE infercache_ "" export_name ${target})
  set_target_properties(${target} PROPERTIES EXPORT_NAME ${export_name})
endforeach()
# The public headers are C++20, so what includes them has to be.
target_compile_features(infercache_client INTERFACE cxx_std_20)
install(TARGETS ${client_targets} EXPORT infercache
        ARCHIVE COMPONENT client
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES client/include/infercache/claim.h client/include/infercache/client.h client/include/infercache/device.h common/include/infercache/types.h
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/infercache COMPONENT client)
install(DIRECTORY proto/infercache DESTINATION ${CMAKE_INSTALL_DATADIR}/infercache/proto
        COMPONENT client FILES_MATCHING PATTERN "*.proto")

set(cmake_destination ${CMAKE_INSTALL_LIBDIR}/cmake/infercache)
install(EXPORT infercache NAMESPACE infercache:: FILE infercacheTargets.cmake
        DESTINATION ${cmake_destination} COMPONENT client)
configure_package_config_file(cmake/infercacheConfig.cmake.in
  ${PROJECT_BINARY_DIR}/infercacheConfig.cmake INSTALL_DESTINATION ${cmake_destination})
# A minor version may break the interface while the major version is 0.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/infercacheConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/infercacheConfig.cmake
              ${PROJECT_BINARY_DIR}/infercacheConfigVersion.cmake
        DESTINATION ${cmake_destination} COMPONENT client)

# pkg-config's words for what a target links.
set(pkg_config_of_gRPC::grpc++ grpc++)
set(pkg_config_of_protobuf::libprotobuf protobuf)
set(pkg_config_of_PkgConfig::ISAL libisal)
set(pkg_requires)
foreach(target ${client_targets})
  get_target_property(linked ${target} LINK_LIBRARIES)
  foreach(library ${linked})
    if(library IN_LIST client_targets)
      continue()
    elseif(library MATCHES "^absl::(.+)$")
      list(APPEND pkg_requires absl_${CMAKE_MATCH_1})
    elseif(library STREQUAL Threads::Threads)
      continue()  # -pthread is in infercache.pc.in
    elseif(DEFINED pkg_config_of_${library})
      list(APPEND pkg_requires ${pkg_config_of_${library}})
    else()
      message(FATAL_ERROR "${target} links ${library}: what is that for pkg-config?")
    endif()
  endforeach()
endforeach()
list(REMOVE_DUPLICATES pkg_requires)
list(SORT pkg_requires)
list(JOIN pkg_requires " " INFERCACHE_PKG_REQUIRES)
# Relative, so that the installed tree can be moved.
file(RELATIVE_PATH INFERCACHE_PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" INFERCACHE_PC_UP ${INFERCACHE_PC_UP})
configure_file(cmake/infercache.pc.in ${PROJECT_BINARY_DIR}/infercache.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/infercache.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT client)

include(deploy/packaging/packages.cmake)
