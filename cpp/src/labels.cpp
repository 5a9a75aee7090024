#include "labels.hpp"

#include <algorithm>
#include <cstdint>
#include <string_view>

#include "error.hpp"
#include "utf8.hpp"

namespace vitaie::detail {

std::vector<Label> read_labels(const Bundle& bundle) {
    const std::string where = bundle.where("labels.txt");
    const Memory memory = bundle.read("labels.txt");
    std::string_view text = memory.view();
    if (invalid_utf8(text) != std::string_view::npos) {
        throw Error(Code::E_BUNDLE_LABELS, where)
            .got("invalid UTF-8 at byte " + std::to_string(invalid_utf8(text)));
    }
    const std::int64_t classes = bundle.manifest().model.classes;
    const std::int64_t lines = std::count(text.begin(), text.end(), '\n');
    if (lines != classes || text.back() != '\n') {
        throw Error(Code::E_BUNDLE_LABELS, where)
            .expected(std::to_string(classes) + " lines")
            .got(std::to_string(lines) + " lines");
    }
    std::vector<Label> labels;
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        const std::size_t tab = line.find('\t');
        if (tab == std::string_view::npos || tab == 0 || tab + 1 == line.size()) {
            throw Error(Code::E_BUNDLE_LABELS, where)
                .field("line " + std::to_string(labels.size() + 1))
                .got(line);
        }
        labels.push_back({std::string(line.substr(0, tab)), std::string(line.substr(tab + 1))});
        text.remove_prefix(line.size() + 1);
    }
    return labels;
}

}  // namespace vitaie::detail
