# The engine, the model, what is checked of a bundle, and the command vitaie-edge.
option(VITAIE_BUILD_TOOLS "Build the command vitaie-edge" ${PROJECT_IS_TOP_LEVEL})

list(APPEND VITAIE_SOURCES src/ascend.cpp src/ascend_machine.cpp src/engine.cpp src/model.cpp
     src/output.cpp src/torch_library.cpp src/torchscript_archive.cpp src/torchscript_classes.cpp
     src/torchscript_pickle.cpp src/verify.cpp)
list(APPEND VITAIE_LIBRARIES ${CMAKE_DL_LIBS})
set_source_files_properties(src/torch_library.cpp PROPERTIES COMPILE_DEFINITIONS
                                                      VITAIE_LIBDIR="${CMAKE_INSTALL_LIBDIR}")

if(VITAIE_BUILD_TOOLS)
  vitaie_need(CLI11 libcli11-dev)
  vitaie_need(nlohmann_json nlohmann-json3-dev)
  # Made of the library's objects: it prints what the C interface does not show.
  add_executable(vitaie-edge tools/bench.cpp tools/commands.cpp tools/console.cpp
                             tools/environment.cpp tools/measurement.cpp
                             tools/photographs.cpp tools/timing.cpp tools/vitaie-edge.cpp)
  target_compile_definitions(vitaie-edge PRIVATE VITAIE_VERSION="${version}")
  target_link_libraries(vitaie-edge PRIVATE vitaie_objects vitaie_flags CLI11::CLI11
                                            nlohmann_json::nlohmann_json)
  set_target_properties(vitaie-edge PROPERTIES CXX_EXTENSIONS OFF)
  if(VITAIE_INSTALL)
    install(TARGETS vitaie-edge RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}")
  endif()
endif()
if(VITAIE_BUILD_TESTS)
  list(APPEND VITAIE_TESTS tests/test_ascend_machine.cpp tests/test_measurement.cpp tests/test_model.cpp tests/test_output.cpp tests/test_verify.cpp
       tools/environment.cpp tools/measurement.cpp)
  # What pytest asks for verdicts on archives, to compare them with Python's; and what it asks for
  # all that the C and C++ interfaces do, linked as a stranger's program is.
  add_executable(vitaie-check-archives tests/check_archives.cpp)
  target_link_libraries(vitaie-check-archives PRIVATE vitaie_objects vitaie_flags)
  # What changes files at random for as long as it is told to; of use in a build with sanitizers.
  add_executable(vitaie-fuzz tests/fuzz.cpp)
  target_link_libraries(vitaie-fuzz PRIVATE vitaie_objects vitaie_flags)
  add_executable(vitaie-use-api tests/use_api.cpp)
  target_link_libraries(vitaie-use-api PRIVATE vitaie::vitaie vitaie_flags Threads::Threads)
  set_target_properties(
    vitaie-check-archives vitaie-fuzz vitaie-use-api
    PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/tests" CXX_EXTENSIONS OFF)
endif()
