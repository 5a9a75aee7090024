# Decoding and preprocessing.
#
# Pillow's coefficients and torchvision's roundings are plain IEEE arithmetic, so no multiply-add
# may be fused in them, as compilers do on ARM unless told otherwise. One file alone is compiled
# for AVX2, and called only where the processor has it.
vitaie_need(JPEG libjpeg62-turbo-dev)
vitaie_need(PNG libpng-dev)
vitaie_need(ZLIB zlib1g-dev)

set(preprocess_sources src/buffer.cpp src/image.cpp src/jpeg.cpp src/png.cpp src/preprocess.cpp src/resample.cpp)
set_source_files_properties(src/preprocess.cpp src/resample.cpp
                            PROPERTIES COMPILE_OPTIONS -ffp-contract=off)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|amd64|AMD64)$")
  list(APPEND preprocess_sources src/resample_avx2.cpp)
  set_source_files_properties(src/resample_avx2.cpp PROPERTIES COMPILE_OPTIONS -mavx2)
  set_property(SOURCE ${preprocess_sources} APPEND PROPERTY COMPILE_DEFINITIONS VITAIE_AVX2)
endif()
list(APPEND VITAIE_SOURCES ${preprocess_sources})
list(APPEND VITAIE_LIBRARIES JPEG::JPEG PNG::PNG ZLIB::ZLIB)

if(VITAIE_BUILD_TESTS)
  list(APPEND VITAIE_TESTS tests/test_preprocess.cpp)
  # What pytest asks for pixels, to compare them with Python's, and for JPEGs to compare them on; and
  # what the benchmark times.
  add_executable(vitaie-preprocess-file tests/preprocess_file.cpp)
  target_link_libraries(vitaie-preprocess-file PRIVATE vitaie_objects vitaie_flags)
  add_executable(vitaie-time-preprocess tests/time_preprocess.cpp)
  target_link_libraries(vitaie-time-preprocess PRIVATE vitaie_objects vitaie_flags)
  add_executable(vitaie-encode-jpeg tests/encode_jpeg.cpp)
  target_link_libraries(vitaie-encode-jpeg PRIVATE JPEG::JPEG vitaie_flags)
  set_target_properties(
    vitaie-preprocess-file vitaie-time-preprocess vitaie-encode-jpeg
    PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/tests" CXX_EXTENSIONS OFF)
endif()
