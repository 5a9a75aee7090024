# vitaie_need(<package> <Debian package> [arguments of find_package…])
#
# Finds a package, or says in one line what to install.
macro(vitaie_need package debian)
  find_package(${package} QUIET ${ARGN})
  if(NOT ${package}_FOUND)
    message(FATAL_ERROR "vitaie needs ${package}: apt-get install ${debian}")
  endif()
endmacro()
