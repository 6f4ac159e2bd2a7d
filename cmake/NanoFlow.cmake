# nano_library(folder DEPS ...), nano_executable(...), nano_test(...): how every folder of src/ is built.

# Build type of the sanitizer and fuzzing presets: quick to compile, line numbers in reports.
set(CMAKE_CXX_FLAGS_SANITIZED "-O1 -g1 -DNDEBUG")

add_library(nanoflow_flags INTERFACE)
target_include_directories(nanoflow_flags INTERFACE ${CMAKE_SOURCE_DIR}/src)
# For C++ alone: what nvcc hands to its host compiler is generated code.
target_compile_options(nanoflow_flags INTERFACE
                       $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor
                       -Wno-missing-field-initializers>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 sees overlapping copies in its own std::string (GCC bugs 105329 and 105651).
  target_compile_options(nanoflow_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
if(NANOFLOW_WERROR)
  target_compile_options(nanoflow_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(NANOFLOW_SANITIZE)
  target_compile_options(nanoflow_flags INTERFACE -fsanitize=${NANOFLOW_SANITIZE}
                         -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(nanoflow_flags INTERFACE -fsanitize=${NANOFLOW_SANITIZE})
endif()

if(NANOFLOW_FUZZ)
  # Every library is instrumented for libFuzzer; only the targets of tests/fuzz link its main().
  target_compile_options(nanoflow_flags INTERFACE -fsanitize=fuzzer-no-link,address,undefined
                         -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(nanoflow_flags INTERFACE -fsanitize=address,undefined)
endif()

find_program(MOLD_LINKER mold)
if(MOLD_LINKER AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_link_options(nanoflow_flags INTERFACE -fuse-ld=mold)
endif()

# Names of this project become nanoflow_<name>; everything else (fmt::fmt, ...) is passed through.
function(_nano_resolve out)
  set(resolved)
  foreach(dep IN LISTS ARGN)
    if(dep MATCHES "::")
      list(APPEND resolved ${dep})
    elseif(TARGET nanoflow_${dep})
      list(APPEND resolved nanoflow_${dep})
    endif()
  endforeach()
  set(${out} ${resolved} PARENT_SCOPE)
endfunction()

# All *.cc of src/<folder> except *_test.cc; the tests become <name>_test, one binary per folder.
function(nano_library folder)
  cmake_parse_arguments(ARG "" "" "DEPS" ${ARGN})
  string(REPLACE "/" "_" name ${folder})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${folder}/*.cc)
  set(tests ${sources})
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(FILTER tests INCLUDE REGEX "_test\\.cc$")
  _nano_resolve(deps ${ARG_DEPS})
  if(sources)
    add_library(nanoflow_${name} STATIC ${sources})
    target_link_libraries(nanoflow_${name} PUBLIC nanoflow_flags ${deps})
  else()
    add_library(nanoflow_${name} INTERFACE)
    target_link_libraries(nanoflow_${name} INTERFACE nanoflow_flags ${deps})
  endif()
  if(NANOFLOW_FUZZ)
    set_target_properties(nanoflow_${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
  if(NANOFLOW_TESTS AND tests)
    nano_test(${name}_test SOURCES ${tests} DEPS ${name})
  endif()
endfunction()

function(nano_executable target)
  cmake_parse_arguments(ARG "" "SOURCES_IN" "DEPS" ${ARGN})
  get_filename_component(name ${target} NAME)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${ARG_SOURCES_IN}/*.cc)
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  if(NOT sources)
    return()
  endif()
  _nano_resolve(deps ${ARG_DEPS})
  add_executable(${name} ${sources})
  target_link_libraries(${name} PRIVATE ${deps})
  target_link_libraries(${name} PRIVATE nanoflow_version)
  if(NANOFLOW_FUZZ)
    set_target_properties(${name} PROPERTIES EXCLUDE_FROM_ALL ON)
  endif()
endfunction()

# nano_test(name SOURCES ... DEPS ... [LABELS ...]): a GoogleTest binary; paths to fixtures come as defines.
function(nano_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LABELS" ${ARGN})
  _nano_resolve(deps ${ARG_DEPS})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE ${deps} GTest::gtest GTest::gmock GTest::gtest_main)
  # Tests are compiled more often than they run; the code under test keeps the build type's level.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  target_compile_definitions(${name} PRIVATE
                             NANOFLOW_FIXTURES="${CMAKE_SOURCE_DIR}/tests/fixtures"
                             NANOFLOW_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  gtest_discover_tests(${name} DISCOVERY_TIMEOUT 60 PROPERTIES TIMEOUT 600 LABELS "${ARG_LABELS}")
endfunction()

# nano_fuzz(name SOURCES ... DEPS ...): a libFuzzer binary. SOURCES may name files of src/ whose folder needs much more
# than they do, which keeps the fuzz build small.
function(nano_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  _nano_resolve(deps ${ARG_DEPS})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE nanoflow_flags ${deps})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endfunction()
