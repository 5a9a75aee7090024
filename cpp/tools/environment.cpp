#include "environment.hpp"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <regex>
#include <set>

#include "bytes.hpp"
#include "error.hpp"

namespace vitaie::edge {

namespace {

/// Above the highest clock of any processor sold; a virtual machine is not told its own.
constexpr double max_ghz = 6.5;

/// At most this many float32 operations for each core and cycle; 0 where that is not known.
struct Width {
    std::array<const char*, 2> features;
    int flop_per_cycle;
};
// The first whose features are there counts.
constexpr std::array<Width, 9> widths = {{
    {{"sme", nullptr}, 0},  // its outer products depend on a vector length not listed
    {{"sve", nullptr}, 64},
    {{"asimd", nullptr}, 32},
    {{"neon", nullptr}, 16},
    {{"avx512f", nullptr}, 64},
    {{"avx2", "fma"}, 32},
    {{"avx", "fma4"}, 32},
    {{"avx", nullptr}, 16},
    {{"sse2", nullptr}, 8},
}};

/// The flags of /proc/cpuinfo, of x86 and ARM, that decide how an engine does its arithmetic.
bool is_arithmetic(const std::string& flag) {
    static const std::regex known(
        "(pni|s?sse|avx|fma|amx|asimd|sve|sme(?!p)|neon|vfp).*|f16c|fp|fphp|bf16|i8mm");
    return std::regex_match(flag, known);
}

std::string read_text(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

std::string_view stripped(std::string_view text) {
    constexpr std::string_view spaces(" \t\r\n\0", 5);
    const std::size_t begin = std::min(text.find_first_not_of(spaces), text.size());
    const std::size_t end = text.find_last_not_of(spaces);
    return text.substr(begin, end == std::string_view::npos ? 0 : end + 1 - begin);
}

using Fields = std::map<std::string, std::string, std::less<>>;

/// The fields of each block, one a processor, and one of the board.
std::vector<Fields> blocks_of(std::string_view text) {
    std::vector<Fields> blocks(1);
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        if (stripped(line).empty()) {
            blocks.emplace_back();
        } else if (const std::size_t colon = line.find(':'); colon != std::string_view::npos) {
            blocks.back()[std::string(stripped(line.substr(0, colon)))] =
                stripped(line.substr(colon + 1));
        }
    }
    blocks.erase(std::remove_if(blocks.begin(), blocks.end(),
                                [](const Fields& block) { return block.empty(); }),
                 blocks.end());
    return blocks;
}

std::string value_of(const Fields& block, std::string_view key) {
    const auto found = block.find(key);
    return found == block.end() ? "" : found->second;
}

void append_new(std::vector<std::string>& names, const std::string& name) {
    if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) {
        names.push_back(name);
    }
}

/// The processor's name; on ARM its cores' parts, which the kernel has no names for.
std::string model_of(const std::vector<Fields>& blocks, std::string_view board) {
    std::vector<std::string> names;
    std::vector<std::string> parts;
    std::vector<std::string> boards;
    for (const Fields& block : blocks) {
        append_new(names, value_of(block, "model name"));
        const std::string implementer = value_of(block, "CPU implementer");
        const std::string part = value_of(block, "CPU part");
        if (!implementer.empty() && !part.empty()) {
            append_new(parts, "ARM implementer " + implementer + " part " + part);
        }
        append_new(boards, value_of(block, "Model"));
        append_new(boards, value_of(block, "Hardware"));
    }
    append_new(boards, std::string(stripped(board)));
    std::vector<std::string> told = names.empty() ? parts : names;
    if (!boards.empty()) {
        told.push_back(boards.front());
    }
    std::string text;
    for (const auto& name : told) {
        text.append(text.empty() ? "" : ", ").append(name);
    }
    return text;
}

}  // namespace

Processor read_processor(std::string_view cpuinfo, std::string_view board) {
    const std::vector<Fields> blocks = blocks_of(cpuinfo);
    Processor found = {detail::printable(model_of(blocks, board), 400), {}};
    if (blocks.empty()) {
        return found;
    }
    std::string flags = value_of(blocks.front(), "flags");
    flags = flags.empty() ? value_of(blocks.front(), "Features") : flags;
    std::set<std::string> features;
    for (std::string_view rest = stripped(flags); !rest.empty(); rest = stripped(rest)) {
        const std::string flag(rest.substr(0, rest.find(' ')));
        rest.remove_prefix(flag.size());
        if (is_arithmetic(flag)) {
            features.insert(flag);
        }
    }
    found.features.assign(features.begin(), features.end());
    return found;
}

Environment environment() {
    Environment here;
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    ::gmtime_r(&now, &utc);
    std::array<char, 32> date{};
    std::strftime(date.data(), date.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
    here.created = date.data();
    utsname system{};
    ::uname(&system);
    here.machine = std::string(system.sysname) + " " + system.release + " " + system.machine;
    Processor processor =
        read_processor(read_text("/proc/cpuinfo"), read_text("/proc/device-tree/model"));
    here.processor = processor.model.empty() ? system.machine : std::move(processor.model);
    here.features = std::move(processor.features);
    here.processors = detail::available_cpus();
    return here;
}

std::optional<double> peak_tflops(const Environment& environment, std::int64_t threads) {
    const auto& features = environment.features;
    const auto has = [&features](const char* name) {
        return name == nullptr ||
               std::find(features.begin(), features.end(), name) != features.end();
    };
    for (const Width& width : widths) {
        if (has(width.features[0]) && has(width.features[1])) {
            const auto cores = static_cast<double>(std::min(threads, environment.processors));
            return width.flop_per_cycle == 0
                       ? std::nullopt
                       : std::optional(cores * width.flop_per_cycle * max_ghz / 1000);
        }
    }
    return std::nullopt;
}

}  // namespace vitaie::edge
