# Installs the library, its headers and the package that find_package(vitaie) finds.
include(CMakePackageConfigHelpers)

set(package "${CMAKE_INSTALL_LIBDIR}/cmake/vitaie")
# Only the shared library is exported: what it links is its own affair, so a user needs none of it.
install(
  TARGETS vitaie
  EXPORT vitaie
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY include/vitaie DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(
  EXPORT vitaie
  NAMESPACE vitaie::
  FILE vitaieTargets.cmake
  DESTINATION "${package}")
file(WRITE "${CMAKE_CURRENT_BINARY_DIR}/vitaieConfig.cmake"
     "include(\"\${CMAKE_CURRENT_LIST_DIR}/vitaieTargets.cmake\")\n")
write_basic_package_version_file("${CMAKE_CURRENT_BINARY_DIR}/vitaieConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/vitaieConfig.cmake"
              "${CMAKE_CURRENT_BINARY_DIR}/vitaieConfigVersion.cmake" DESTINATION "${package}")
