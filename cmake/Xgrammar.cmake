# xgrammar: the C++ sources of XGrammar's source archive (deps.lock) as a static library; setup.sh fetches them. Its
# Python bindings are not built.
file(STRINGS ${CMAKE_SOURCE_DIR}/deps.lock xgrammar_pin REGEX "^sdist +build +xgrammar ")
string(REGEX REPLACE "^sdist +build +xgrammar +([^ ]+) .*" "\\1" xgrammar_version "${xgrammar_pin}")
if(DEFINED ENV{NANOFLOW_DEPS})
  set(xgrammar_default $ENV{NANOFLOW_DEPS})
else()
  set(xgrammar_default ${CMAKE_SOURCE_DIR}/.deps)
endif()
set(xgrammar_root ${xgrammar_default}/xgrammar-${xgrammar_version})
if(NOT EXISTS ${xgrammar_root}/include/xgrammar/xgrammar.h)
  message(FATAL_ERROR "XGrammar ${xgrammar_version} is not in ${xgrammar_root}: run ./setup.sh once, which fetches it")
endif()

file(GLOB xgrammar_sources ${xgrammar_root}/cpp/*.cc ${xgrammar_root}/cpp/converter_ext/*.cc
     ${xgrammar_root}/cpp/support/*.cc)
add_library(xgrammar STATIC EXCLUDE_FROM_ALL ${xgrammar_sources})
target_include_directories(xgrammar SYSTEM PUBLIC ${xgrammar_root}/include PRIVATE ${xgrammar_root}/3rdparty/picojson
                           PUBLIC ${xgrammar_root}/3rdparty/dlpack/include)
# Its own standard: as C++20, clang 14 asks for types that it declares later.
set_target_properties(xgrammar PROPERTIES CXX_STANDARD 17)
# Its warnings are not ours to mend. What it says goes through src/grammar: it would write what a request sent to stderr.
target_compile_options(xgrammar PRIVATE -w)
target_compile_definitions(xgrammar PRIVATE XGRAMMAR_ENABLE_CPPTRACE=0 XGRAMMAR_LOG_CUSTOMIZE=1)
target_link_libraries(xgrammar PUBLIC Threads::Threads)
# A vector that crosses into code without checks would be misread by those that have them.
if(NANOFLOW_SANITIZE)
  target_compile_options(xgrammar PRIVATE -fsanitize=${NANOFLOW_SANITIZE} -fno-omit-frame-pointer)
elseif(NANOFLOW_FUZZ)
  target_compile_options(xgrammar PRIVATE -fsanitize=address -fno-omit-frame-pointer)
endif()
add_library(xgrammar::xgrammar ALIAS xgrammar)
