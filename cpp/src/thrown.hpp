/// The name of what was thrown, for libraries that document no classes of exceptions.
#pragma once

#include <cxxabi.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <typeinfo>

namespace vitaie::detail {

/// Returns the class of the exception that is being handled, as its source spells it.
inline std::string class_of_exception() {
    const char* name = abi::__cxa_current_exception_type()->name();
    int status = 0;
    const std::unique_ptr<char, void (*)(void*)> plain(
        abi::__cxa_demangle(name, nullptr, nullptr, &status), std::free);
    return plain == nullptr ? name : plain.get();
}

}  // namespace vitaie::detail
