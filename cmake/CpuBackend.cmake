# Compiler flags that only the CPU backend needs, and the benchmark of its ops.
option(NANOFLOW_OP_BENCH "Build bench/op_bench, the CPU backend's op benchmark" OFF)

get_target_property(kind nanoflow_backend_cpu TYPE)
if(NOT kind STREQUAL "INTERFACE_LIBRARY")
  target_compile_options(nanoflow_backend_cpu PRIVATE -march=${NANOFLOW_CPU_ARCH}
                         $<$<NOT:$<CONFIG:Debug>>:-O3>)
  if(NANOFLOW_OP_BENCH)
    add_executable(op_bench ${CMAKE_SOURCE_DIR}/bench/op_bench.cc)
    target_link_libraries(op_bench PRIVATE nanoflow_backend_cpu)
  endif()
endif()
