/// What the fields of a manifest say of each other, once each of them is right by itself.
///
/// The order is the order of judgement of docs/bundle-format.md and of
/// manifests/vitaie/manifests/checks.py.
#pragma once

#include <string>

#include "manifest.hpp"

namespace vitaie::detail {

/// Checks the bundle's parts: artifacts, references to them, targets, goldens, weights, the model
/// and its input.
///
/// \throws Error The first fault.
void check_structure(const Manifest& manifest, const std::string& where);

/// Checks the measurements: what they are bound to, and their arithmetic.
///
/// \param preprocess_digest The sha256 of the canonical text of the manifest's `preprocess`.
/// \throws Error The first fault.
void check_records(const Manifest& manifest, const std::string& preprocess_digest,
                   const std::string& where);

}  // namespace vitaie::detail
