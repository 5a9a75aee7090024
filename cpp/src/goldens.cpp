#include "goldens.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "digest.hpp"
#include "error.hpp"
#include "npy.hpp"

namespace vitaie::detail {

namespace {

static_assert(sizeof(float) == 4 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "the numbers of a .npy are taken as they lie");

/// Returns the class of the largest logit but `except`: NaN counts as the least, and of equal ones
/// the first is taken, as numpy.argsort(-logits, kind="stable") orders them.
std::int64_t largest(const std::vector<float>& logits, std::int64_t except) {
    std::int64_t best = -1;
    for (std::int64_t index = 0; index < static_cast<std::int64_t>(logits.size()); ++index) {
        const auto better = [&] {
            const float logit = logits[static_cast<std::size_t>(index)];
            const float held = logits[static_cast<std::size_t>(best)];
            return std::isnan(held) ? !std::isnan(logit) : logit > held;
        };
        if (index != except && (best < 0 || better())) {
            best = index;
        }
    }
    return best;
}

}  // namespace

std::vector<float> golden_logits(const Bundle& bundle, const Golden& golden) {
    const auto classes = static_cast<std::size_t>(bundle.manifest().model.classes);
    const Memory memory = bundle.read(golden.logits);
    const auto begin = npy_numbers(memory.view(), classes);
    const Error error(Code::E_BUNDLE_GOLDEN, bundle.where(golden.logits));
    if (!begin) {
        throw Error(error)
            .expected(".npy of float32 [" + std::to_string(classes) + "]")
            .got(std::to_string(memory.view().size()) + " bytes of something else");
    }
    const std::string_view numbers = memory.view().substr(*begin);
    std::vector<float> logits(classes);
    std::memcpy(logits.data(), numbers.data(), numbers.size());
    const auto compare = [&error](const char* field, const auto& expected, const auto& got,
                                  const auto& told) {
        if (!(got == expected)) {
            throw Error(error).field(field).expected(told(expected)).got(told(got));
        }
    };
    const auto as_is = [](const std::string& text) { return text; };
    const auto number = [](auto value) { return std::to_string(value); };
    compare("logits_sha256", golden.logits_sha256, sha256(numbers), as_is);
    const std::int64_t top1 = largest(logits, -1);
    const std::int64_t top2 = largest(logits, top1);
    compare("top1", golden.top1, top1, number);
    compare("top2", golden.top2, top2, number);
    const double margin = static_cast<double>(logits[static_cast<std::size_t>(top1)]) -
                          static_cast<double>(logits[static_cast<std::size_t>(top2)]);
    compare("margin", golden.margin, margin, number);
    return logits;
}

}  // namespace vitaie::detail
