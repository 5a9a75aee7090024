// The main function of all tests; by itself, since it takes the longest to compile.
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>

#if defined(__SANITIZE_ADDRESS__)
// A test asks for more memory than there is, which AddressSanitizer takes for a fault otherwise.
extern "C" const char* __asan_default_options() {
    return "allocator_may_return_null=1";
}
#endif
