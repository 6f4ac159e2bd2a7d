# cmake --install puts the program, the shipped pipelines and prompts, and the documents under a prefix. cpack makes a
# .deb of the same files, with a program for every x86-64 machine since 2013 instead of one for the machine that built it.
if(NOT TARGET nanoflow OR NANOFLOW_FUZZ)
  return()
endif()
include(GNUInstallDirs)

set(documents ${CMAKE_INSTALL_DATADIR}/doc/nanoflow)
install(TARGETS nanoflow RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
install(DIRECTORY specs DESTINATION ${CMAKE_INSTALL_DATADIR}/nanoflow COMPONENT shared FILES_MATCHING PATTERN *.json)
install(FILES data/prompts.jsonl DESTINATION ${CMAKE_INSTALL_DATADIR}/nanoflow/data COMPONENT shared)
install(DIRECTORY bench/traces DESTINATION ${CMAKE_INSTALL_DATADIR}/nanoflow/bench COMPONENT shared
        FILES_MATCHING PATTERN *.csv)
install(FILES LICENSE NOTICE README.md CHANGELOG.md SECURITY.md DESTINATION ${documents} COMPONENT shared)
install(FILES cmake/copyright DESTINATION ${documents} COMPONENT shared)
install(DIRECTORY deploy DESTINATION ${documents} COMPONENT shared)
install(DIRECTORY docs DESTINATION ${documents} COMPONENT shared PATTERN layers.txt EXCLUDE)

# -march= of the program in a package, and of the CPU backend alone: everything else is compiled for the compiler's
# default. AVX2 and FMA are checked at start; kernels for AVX-512 with bf16 are chosen at run time.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(baseline x86-64-v3)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(baseline armv8-a)
else()
  set(baseline ${NANOFLOW_CPU_ARCH})
endif()
set(NANOFLOW_PACKAGE_ARCH ${baseline} CACHE STRING "Value for -march= of the CPU backend in a package")

set(program program)
if(NOT NANOFLOW_PACKAGE_ARCH STREQUAL NANOFLOW_CPU_ARCH)
  set(program portable)
  get_target_property(sources nanoflow_backend_cpu SOURCES)
  get_target_property(libraries nanoflow_backend_cpu LINK_LIBRARIES)
  add_library(nanoflow_backend_cpu_portable STATIC EXCLUDE_FROM_ALL ${sources})
  target_link_libraries(nanoflow_backend_cpu_portable PUBLIC ${libraries})
  nano_cpu_arch(nanoflow_backend_cpu_portable ${NANOFLOW_PACKAGE_ARCH})

  get_target_property(sources nanoflow SOURCES)
  get_target_property(libraries nanoflow LINK_LIBRARIES)
  list(TRANSFORM libraries REPLACE "^nanoflow_(backend_cpu|cpu_features)$" "nanoflow_\\1_portable")
  nano_cpu_features(nanoflow_cpu_features_portable ${NANOFLOW_PACKAGE_ARCH})
  add_executable(nanoflow_portable EXCLUDE_FROM_ALL ${sources})
  target_link_libraries(nanoflow_portable PRIVATE ${libraries})
  set_target_properties(nanoflow_portable PROPERTIES OUTPUT_NAME nanoflow
                        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/portable)
  # Only who makes a package pays for a second build of the kernels.
  install(CODE "execute_process(COMMAND \"${CMAKE_COMMAND}\" --build \"${CMAKE_BINARY_DIR}\" --target nanoflow_portable
                                COMMAND_ERROR_IS_FATAL ANY)" COMPONENT portable EXCLUDE_FROM_ALL)
  install(TARGETS nanoflow_portable RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT portable EXCLUDE_FROM_ALL)
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_INSTALL_CMAKE_PROJECTS
    "${CMAKE_BINARY_DIR};nanoflow;${program};/;${CMAKE_BINARY_DIR};nanoflow;shared;/")
set(CPACK_PACKAGE_NAME nanoflow)
set(CPACK_PACKAGE_VENDOR "NanoFlow maintainers")
set(CPACK_PACKAGE_CONTACT "NanoFlow maintainers <maintainers@nanoflow.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "throughput-oriented LLM serving engine")
set(CPACK_PACKAGE_DESCRIPTION
    "NanoFlow serves large language models from Hugging Face folders and GGUF files.
Requests are batched continuously, and a batch is split into nano-batches
whose compute-, memory- and network-bound work overlaps inside one device.
One program without Python: generate, run-batch, bench, pull, inspect.
On x86-64 the CPU must have AVX2 and FMA (x86-64-v3).")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_RESOURCE_FILE_LICENSE ${CMAKE_SOURCE_DIR}/LICENSE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
include(CPack)
