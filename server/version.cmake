# Run at every build: writes version.cc, whose content, and so whose compilation, changes with the
# revision only.
set(INFERCACHE_REVISION unknown)
find_package(Git QUIET)
if(Git_FOUND)
  execute_process(COMMAND ${GIT_EXECUTABLE} -C ${SOURCE_DIR} describe --always --dirty --abbrev=12 --exclude=*
                  OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET
                  RESULT_VARIABLE result)
  if(result EQUAL 0)
    set(INFERCACHE_REVISION ${described})
  endif()
endif()
configure_file(${SOURCE_DIR}/server/version.cc.in ${OUTPUT} @ONLY)
