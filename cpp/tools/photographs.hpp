/// The images of a dataset on disk, in the layouts that Python knows.
///
/// Images lie in class folders or in one folder; either is the folder given, or `val/` in it. What is
/// timed needs no classes, so neither a file of labels is read nor a class folder's name judged; else
/// the rules, and what is passed over, are those of runtime/vitaie/runtime/_dataset.py.
#pragma once

#include <string>
#include <vector>

#include "labels.hpp"

namespace vitaie::edge {

/// Returns the absolute paths of a dataset's images, in the order of their paths inside it.
///
/// \param labels The bundle's: a class may be called `val`.
/// \throws detail::Error `E_DATASET_NOT_FOUND`, `E_DATASET_UNREADABLE`, `E_DATASET_LAYOUT`,
///     `E_DATASET_FILE` or `E_DATASET_EMPTY`, naming the folder or file at fault.
std::vector<std::string> find_photographs(const std::string& folder,
                                          const std::vector<detail::Label>& labels);

}  // namespace vitaie::edge
