/// The names of the classes, as `labels.txt` gives them.
#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"

namespace vitaie::detail {

/// A class: its id, which is the wnid for ImageNet, and its name.
struct Label {
    std::string id;
    std::string name;
};

/// Returns the label of each class, in output order.
///
/// \throws Error `E_BUNDLE_LABELS`, when `labels.txt` is not one line of id, tab, name for each.
std::vector<Label> read_labels(const Bundle& bundle);

}  // namespace vitaie::detail
