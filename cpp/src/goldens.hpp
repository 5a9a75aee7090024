/// The logits that ship with a bundle, for a device to compare its own with.
#pragma once

#include <vector>

#include "bundle.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

/// Returns a golden's logits, float32 [classes], checked against its own fields.
///
/// \throws Error `E_BUNDLE_GOLDEN`, when the file is not what the golden says.
std::vector<float> golden_logits(const Bundle& bundle, const Golden& golden);

}  // namespace vitaie::detail
