# The TorchScript engine: libvitaie_torch.so, a library of its own that libvitaie.so loads when a
# model is loaded. So one build of libvitaie.so serves hosts with torch and hosts without, what
# needs no engine starts without torch's half second, and torch's C++ ABI, its standard and its
# warnings stay inside one file.
#
#   VITAIE_WITH_TORCH   ON: needed; OFF: not built; AUTO (the default): built where torch is found
#   VITAIE_TORCH_ROOT   torch's folder, the one with include/ and lib/
#   VITAIE_PYTHON       else, the Python whose torch to take: that of `make setup`, or python3
#
# find_package(Torch) is not used: that of a CUDA wheel needs the whole toolkit, and nothing here
# touches a GPU. libtorch_cpu.so and libc10.so of any wheel are enough.
set(VITAIE_WITH_TORCH AUTO CACHE STRING "Build the TorchScript engine: ON, OFF or AUTO")
set(VITAIE_TORCH_ROOT "" CACHE PATH "The folder of torch, with include/ and lib/")
set(VITAIE_PYTHON "" CACHE STRING "The Python whose torch is taken, without VITAIE_TORCH_ROOT")

string(TOUPPER "${VITAIE_WITH_TORCH}" wanted)
if(NOT wanted MATCHES "^(AUTO|ON|TRUE|YES|1|OFF|FALSE|NO|0)$")
  message(FATAL_ERROR "VITAIE_WITH_TORCH is ${VITAIE_WITH_TORCH}: it must be ON, OFF or AUTO")
endif()

# Sets TORCH_ROOT to torch's folder, or to nothing.
function(vitaie_find_torch)
  set(root "${VITAIE_TORCH_ROOT}")
  if(NOT root)
    set(python "${CMAKE_CURRENT_SOURCE_DIR}/../.venv/bin/python")
    if(VITAIE_PYTHON)
      set(python "${VITAIE_PYTHON}")
    elseif(NOT EXISTS "${python}")
      set(python python3)
    endif()
    # torch is found, not imported: it need not run on this machine to be linked.
    execute_process(
      COMMAND "${python}" -c [[
import importlib.util
spec = importlib.util.find_spec("torch")
print(spec.submodule_search_locations[0] if spec else "")]]
      OUTPUT_VARIABLE root
      OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(VITAIE_PYTHON AND NOT failed EQUAL 0)
      message(FATAL_ERROR "VITAIE_PYTHON is ${VITAIE_PYTHON}, which does not run: ${failed}")
    elseif(VITAIE_PYTHON AND NOT root)
      message(FATAL_ERROR "VITAIE_PYTHON is ${VITAIE_PYTHON}, which has no torch")
    endif()
  endif()
  if(root AND NOT EXISTS "${root}/lib/libtorch_cpu.so")
    message(FATAL_ERROR "there is no torch in ${root}: it has no lib/libtorch_cpu.so")
  endif()
  set(TORCH_ROOT "${root}" PARENT_SCOPE)
endfunction()

# Sets TORCH_VERSION to X.Y.Z, and TORCH_ABI to the value of _GLIBCXX_USE_CXX11_ABI torch was
# built with: wheels up to 2.6 have the old one, and say so.
function(vitaie_read_torch)
  set(header "${TORCH_ROOT}/include/torch/headeronly/version.h")
  if(NOT EXISTS "${header}")
    set(header "${TORCH_ROOT}/include/torch/csrc/api/include/torch/version.h")
  endif()
  file(READ "${header}" text)
  set(version "")
  foreach(part MAJOR MINOR PATCH)
    string(REGEX MATCH "define TORCH_VERSION_${part} ([0-9]+)" found "${text}")
    list(APPEND version "${CMAKE_MATCH_1}")
  endforeach()
  list(JOIN version "." version)
  set(TORCH_VERSION "${version}" PARENT_SCOPE)
  file(READ "${TORCH_ROOT}/share/cmake/Torch/TorchConfig.cmake" text)
  if(text MATCHES "_GLIBCXX_USE_CXX11_ABI=([01])")
    set(TORCH_ABI "${CMAKE_MATCH_1}" PARENT_SCOPE)
  else()
    set(TORCH_ABI 1 PARENT_SCOPE)
  endif()
endfunction()

set(TORCH_ROOT "")
if(VITAIE_WITH_TORCH)
  vitaie_find_torch()
endif()
if(TORCH_ROOT)
  vitaie_read_torch()
  message(STATUS "vitaie: torch ${TORCH_VERSION} in ${TORCH_ROOT}, C++ ABI flag ${TORCH_ABI}")
elseif(wanted STREQUAL "AUTO")
  message(NOTICE "-- vitaie: found no torch, so this build has NO ENGINE: it opens, verifies files and \
preprocesses, and classifies nothing. For one that does: make setup cpp, or -DVITAIE_TORCH_ROOT=FOLDER, \
torch's with include/ and lib/.")
elseif(NOT VITAIE_WITH_TORCH)
  message(STATUS "vitaie: built without torch, so without an engine")
else()
  message(FATAL_ERROR "vitaie needs torch: give VITAIE_TORCH_ROOT or VITAIE_PYTHON")
endif()

if(TORCH_ROOT)
  add_library(vitaie_torch MODULE src/torchscript.cpp)
  target_include_directories(vitaie_torch PRIVATE src)
  target_include_directories(
    vitaie_torch SYSTEM PRIVATE "${TORCH_ROOT}/include"
                                "${TORCH_ROOT}/include/torch/csrc/api/include")
  target_compile_definitions(vitaie_torch PRIVATE _GLIBCXX_USE_CXX11_ABI=${TORCH_ABI}
                                                  VITAIE_TORCH_VERSION="${TORCH_VERSION}")
  target_link_libraries(vitaie_torch PRIVATE vitaie_flags "${TORCH_ROOT}/lib/libtorch_cpu.so"
                                             "${TORCH_ROOT}/lib/libc10.so")
  if(TORCH_VERSION VERSION_GREATER_EQUAL 2.13)
    target_compile_features(vitaie_torch PRIVATE cxx_std_20)
  endif()
  set_target_properties(
    vitaie_torch
    PROPERTIES CXX_EXTENSIONS OFF
               CXX_VISIBILITY_PRESET hidden
               VISIBILITY_INLINES_HIDDEN ON
               LIBRARY_OUTPUT_DIRECTORY "$<TARGET_FILE_DIR:vitaie>"
               BUILD_RPATH "${TORCH_ROOT}/lib"
               INSTALL_RPATH "${TORCH_ROOT}/lib")
  if(VITAIE_BUILD_BENCHMARKS)
    # Model.logits beside a bare loop on the same module, in one process: the only program with both.
    add_executable(vitaie-time-engine tests/time_engine.cpp)
    target_include_directories(
      vitaie-time-engine SYSTEM PRIVATE "${TORCH_ROOT}/include"
                                        "${TORCH_ROOT}/include/torch/csrc/api/include")
    target_compile_definitions(vitaie-time-engine PRIVATE _GLIBCXX_USE_CXX11_ABI=${TORCH_ABI})
    target_link_libraries(vitaie-time-engine PRIVATE vitaie::vitaie "${TORCH_ROOT}/lib/libtorch_cpu.so"
                                                     "${TORCH_ROOT}/lib/libc10.so")
    target_compile_features(vitaie-time-engine PRIVATE cxx_std_20)
    set_target_properties(
      vitaie-time-engine PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/tests"
                                    BUILD_RPATH "${TORCH_ROOT}/lib")
  endif()
  if(VITAIE_BUILD_TESTS)
    # The tests' double of the vendor's library, and a program that breaks the rules which it keeps.
    string(REPLACE "." ";" parts "${TORCH_VERSION}")
    list(GET parts 0 major)
    list(GET parts 1 minor)
    math(EXPR number "${major} * 100 + ${minor}")
    add_library(vitaie_ascend_double SHARED tests/ascend_double.cpp)
    add_executable(vitaie-use-double tests/use_double.cpp)
    foreach(each vitaie_ascend_double vitaie-use-double)
      target_include_directories(
        ${each} SYSTEM PRIVATE "${TORCH_ROOT}/include"
                               "${TORCH_ROOT}/include/torch/csrc/api/include")
      target_compile_definitions(${each} PRIVATE _GLIBCXX_USE_CXX11_ABI=${TORCH_ABI}
                                                 VITAIE_TORCH_NUMBER=${number})
      target_link_libraries(${each} PRIVATE vitaie_flags ${CMAKE_DL_LIBS}
                                            "${TORCH_ROOT}/lib/libtorch_cpu.so"
                                            "${TORCH_ROOT}/lib/libc10.so")
      target_compile_options(${each} PRIVATE -O0) # it computes with torch alone
      if(TORCH_VERSION VERSION_GREATER_EQUAL 2.13)
        target_compile_features(${each} PRIVATE cxx_std_20)
      endif()
      set_target_properties(
        ${each}
        PROPERTIES CXX_EXTENSIONS OFF
                   CXX_VISIBILITY_PRESET hidden
                   VISIBILITY_INLINES_HIDDEN ON
                   BUILD_RPATH "${TORCH_ROOT}/lib"
                   LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/tests/ascend-double"
                   RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/tests")
    endforeach()
    set_target_properties(vitaie_ascend_double PROPERTIES OUTPUT_NAME torch_aie)
  endif()
  # Whoever builds the library builds its engine.
  cmake_language(DEFER CALL add_dependencies vitaie vitaie_torch)
  if(VITAIE_INSTALL)
    install(TARGETS vitaie_torch LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  endif()
endif()
