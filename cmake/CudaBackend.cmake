# src/backend/cuda as nanoflow_backend_cuda, where the CUDA compiler is found (NANOFLOW_CUDA decides). The library needs
# no driver to link or to start: the runtime is linked statically and looks the driver up when it is first used.
set(NANOFLOW_CUDA AUTO CACHE STRING "CUDA backend: AUTO (when nvcc is found), ON, OFF")
set(NANOFLOW_CUDA_ARCHS "90a" CACHE STRING "GPU architectures to compile for, for example \"80;90a\"")

set(NANOFLOW_HAS_CUDA OFF)
if(NANOFLOW_CUDA)
  find_program(NANOFLOW_NVCC nvcc HINTS ENV CUDACXX ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NANOFLOW_NVCC)
    set(NANOFLOW_HAS_CUDA ON)
  elseif(NOT NANOFLOW_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "NANOFLOW_CUDA is ${NANOFLOW_CUDA}, but nvcc was not found: put it on PATH, set CUDA_HOME, or "
                        "configure with -DNANOFLOW_CUDA=OFF")
  endif()
endif()
if(NOT NANOFLOW_HAS_CUDA)
  return()
endif()

set(CMAKE_CUDA_COMPILER ${NANOFLOW_NVCC})
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT CMAKE_CUDA_HOST_COMPILER)
  set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
endif()
if(CMAKE_CXX_COMPILER_LAUNCHER AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
list(TRANSFORM NANOFLOW_CUDA_ARCHS APPEND "-real" OUTPUT_VARIABLE CMAKE_CUDA_ARCHITECTURES)
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
if(NOT DEFINED CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()
find_package(CUDAToolkit REQUIRED)

file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.cc
     ${CMAKE_SOURCE_DIR}/src/backend/cuda/*.cu)
set(cuda_tests ${cuda_sources})
list(FILTER cuda_sources EXCLUDE REGEX "_(test|bench)\\.(cc|cu)$")
list(FILTER cuda_tests INCLUDE REGEX "_test\\.(cc|cu)$")

# The tables of measured algorithms travel in the program.
file(GLOB gemm_tables CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/specs/gemm/*.json)
set(gemm_table_text "")
foreach(table IN LISTS gemm_tables)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${table})
  file(READ ${table} text)
  get_filename_component(name ${table} NAME)
  string(APPEND gemm_table_text "    {R\"json(${text})json\", \"${name}\"},\n")
endforeach()
configure_file(${CMAKE_SOURCE_DIR}/cmake/gemm_tables.cc.in ${CMAKE_BINARY_DIR}/generated/cuda/gemm_tables.cc @ONLY)

add_library(nanoflow_backend_cuda STATIC ${cuda_sources} ${CMAKE_BINARY_DIR}/generated/cuda/gemm_tables.cc)
target_link_libraries(nanoflow_backend_cuda
                      PUBLIC nanoflow_flags nanoflow_base nanoflow_tensor nanoflow_ops nanoflow_comm
                      PRIVATE CUDA::cudart_static CUDA::cublasLt)
# For the few files that name both backends.
target_compile_definitions(nanoflow_backend_cuda INTERFACE NANOFLOW_HAS_CUDA)
# NDEBUG: a device-side assert keeps ptxas from pipelining tensor core instructions.
target_compile_definitions(nanoflow_backend_cuda PRIVATE NDEBUG)
# FMT_USE_CONSTEXPR: fmt 9 turns it off under nvcc, and then its own checked format strings do not compile.
target_compile_definitions(nanoflow_backend_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:FMT_USE_CONSTEXPR=1>)
target_compile_options(nanoflow_backend_cuda PRIVATE
                       $<$<COMPILE_LANGUAGE:CUDA>:--expt-relaxed-constexpr -Xcompiler=-Wall>)
# Which architectures the kernels were built for, for the message about a GPU that is none of them.
string(REPLACE ";" " " cuda_archs "${NANOFLOW_CUDA_ARCHS}")
set_property(SOURCE ${CMAKE_SOURCE_DIR}/src/backend/cuda/device.cc APPEND PROPERTY COMPILE_DEFINITIONS
             NANOFLOW_CUDA_ARCHS="${cuda_archs}")
if(NANOFLOW_TESTS AND cuda_tests)
  nano_test(backend_cuda_test SOURCES ${cuda_tests} DEPS backend_cuda LABELS gpu)
  target_link_libraries(backend_cuda_test PRIVATE CUDA::cudart_static)
endif()
if(NANOFLOW_OP_BENCH)
  add_executable(cuda_op_bench ${CMAKE_SOURCE_DIR}/bench/cuda_op_bench.cc)
  target_link_libraries(cuda_op_bench PRIVATE nanoflow_backend_cuda)
  add_executable(cuda_gemm_bench ${CMAKE_SOURCE_DIR}/bench/cuda_gemm_bench.cc)
  target_link_libraries(cuda_gemm_bench PRIVATE nanoflow_backend_cuda CUDA::cudart_static CUDA::cublasLt)
  add_executable(cuda_moe_bench ${CMAKE_SOURCE_DIR}/bench/cuda_moe_bench.cc)
  target_link_libraries(cuda_moe_bench PRIVATE nanoflow_backend_cuda CUDA::cudart_static CUDA::cublasLt)
  add_executable(cuda_gemm_tune ${CMAKE_SOURCE_DIR}/bench/cuda_gemm_tune.cc)
  target_link_libraries(cuda_gemm_tune PRIVATE nanoflow_backend_cuda CUDA::cudart_static CUDA::cublasLt)
  add_executable(cuda_attention_bench ${CMAKE_SOURCE_DIR}/bench/cuda_attention_bench.cc
                 ${CMAKE_SOURCE_DIR}/bench/cuda_attention_check.cc)
  target_link_libraries(cuda_attention_bench PRIVATE nanoflow_backend_cuda CUDA::cudart_static CUDA::cublasLt)
endif()
