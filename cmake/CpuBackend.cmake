# Compiler flags and libraries that only the CPU backend needs.
get_target_property(kind nanoflow_backend_cpu TYPE)
if(NOT kind STREQUAL "INTERFACE_LIBRARY")
  target_compile_options(nanoflow_backend_cpu PRIVATE -march=${NANOFLOW_CPU_ARCH}
                         $<$<NOT:$<CONFIG:Debug>>:-O3>)
  if(NANOFLOW_ONEDNN)
    target_link_libraries(nanoflow_backend_cpu PRIVATE DNNL::dnnl)
    target_compile_definitions(nanoflow_backend_cpu PRIVATE NANOFLOW_HAS_ONEDNN=1)
  endif()
  if(NANOFLOW_OPENMP)
    target_link_libraries(nanoflow_backend_cpu PRIVATE OpenMP::OpenMP_CXX)
  endif()
endif()
