#include "ascend_machine.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <regex>
#include <system_error>
#include <thread>

#include "descriptor.hpp"

namespace vitaie::detail {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::array<const char*, 2> package_names = {"mindietorch", "torch_aie"};
constexpr std::array<const char*, 2> toolkit_variables = {"ASCEND_TOOLKIT_HOME",
                                                          "ASCEND_HOME_PATH"};
constexpr const char* default_toolkit = "/usr/local/Ascend/ascend-toolkit/latest";
constexpr std::chrono::seconds patience{20};
constexpr std::size_t most_text = 1 << 16;
constexpr std::size_t longest_line = 256;  // std::regex takes stack for each character

/// Returns a file's first bytes; nothing where it cannot be read.
std::string read_start(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::string text(most_text, '\0');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(std::max<std::streamsize>(file.gcount(), 0)));
    return text;
}

/// Returns what a pattern captures first in each line that it matches from its beginning.
std::vector<std::string> captured(std::string_view text, const std::regex& pattern) {
    std::vector<std::string> found;
    while (!text.empty()) {
        const std::string_view line = text.substr(0, text.find('\n'));
        text.remove_prefix(std::min(line.size() + 1, text.size()));
        std::cmatch match;
        const char* end = line.data() + std::min(line.size(), longest_line);
        if (std::regex_search(line.data(), end, match, pattern,
                              std::regex_constants::match_continuous)) {
            found.push_back(match[1].str());
        }
    }
    return found;
}

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

/// Returns the path of a program on $PATH; empty where there is none.
fs::path which(const std::string& program) {
    std::string folders = environment("PATH");
    for (std::size_t begin = 0; begin <= folders.size();) {
        const std::size_t end = std::min(folders.find(':', begin), folders.size());
        const fs::path path = fs::path(folders.substr(begin, end - begin)) / program;
        std::error_code failed;
        if (path.is_absolute() && fs::is_regular_file(path, failed) &&
            ::access(path.c_str(), X_OK) == 0) {
            return path;
        }
        begin = end + 1;
    }
    return {};
}

/// Reads until the other end is closed, the text is long enough or the time has come.
std::string read_until(int descriptor, Clock::time_point end) {
    std::string text;
    std::array<char, 4096> piece{};
    while (text.size() < most_text) {
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
        pollfd waited{descriptor, POLLIN, 0};
        const int ready = left <= 0 ? 0 : ::poll(&waited, 1, static_cast<int>(left));
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        const ssize_t count = ready <= 0 ? 0 : ::read(descriptor, piece.data(), piece.size());
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count <= 0) {
            break;
        }
        text.append(piece.data(), static_cast<std::size_t>(count));
    }
    return text;
}

/// Waits for a process, and ends it when the time has come; says whether it ended well.
bool ends_well(pid_t child, Clock::time_point end) {
    int status = 0;
    while (::waitpid(child, &status, WNOHANG) == 0) {
        if (Clock::now() > end) {
            ::kill(child, SIGKILL);
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/// Returns what a program prints; nothing where it cannot be run or does not end with 0 in time.
std::string ask(const fs::path& program, const char* argument) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
        return "";
    }
    const Descriptor reader(ends[0]);
    Descriptor writer(ends[1]);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    ::posix_spawn_file_actions_adddup2(&actions, writer.get(), 1);
    ::posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
    std::string path = program.string();
    std::string word = argument;
    const std::array<char*, 3> words = {path.data(), word.data(), nullptr};
    pid_t child = 0;
    const int failed =
        ::posix_spawn(&child, path.c_str(), &actions, nullptr, words.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    writer = Descriptor();
    if (failed != 0) {
        return "";
    }
    const auto end = Clock::now() + patience;
    std::string text = read_until(reader.get(), end);
    return ends_well(child, end) ? text : "";
}

/// Returns CANN's folder.
std::optional<fs::path> toolkit() {
    std::vector<fs::path> folders;
    for (const char* name : toolkit_variables) {
        if (const std::string folder = environment(name); !folder.empty()) {
            folders.emplace_back(folder);
        }
    }
    folders.emplace_back(default_toolkit);
    for (const auto& folder : folders) {
        if (std::error_code failed; fs::is_directory(folder, failed)) {
            return folder;
        }
    }
    return std::nullopt;
}

/// Returns the entries of a folder, sorted; none where it cannot be read.
std::vector<fs::path> entries(const fs::path& folder) {
    std::vector<fs::path> found;
    std::error_code failed;
    for (fs::directory_iterator entry(folder, failed), end; !failed && entry != end;
         entry.increment(failed)) {
        found.push_back(entry->path());
    }
    std::sort(found.begin(), found.end());
    return found;
}

/// Returns where CANN may say its version: which file does changed between releases.
std::vector<fs::path> version_files(const fs::path& folder) {
    std::vector<fs::path> files = {folder / "version.cfg"};
    for (const auto& inner : entries(folder)) {
        files.push_back(inner / "ascend_toolkit_install.info");
    }
    files.push_back(folder / "compiler" / "version.info");
    return files;
}

/// Returns the version in pip's metadata of a package, whose folder lies in `site`.
std::string version_of(const std::string& name, const fs::path& site) {
    static const std::regex line("Version:\\s*(\\S+)");
    for (const auto& entry : entries(site)) {
        std::string folder = entry.filename().string();
        std::replace(folder.begin(), folder.end(), '-', '_');
        if (folder.rfind(name + "_", 0) == 0 && entry.extension() == ".dist-info") {
            const auto found = captured(read_start(entry / "METADATA"), line);
            return found.empty() ? std::string(unknown) : found.front();
        }
    }
    return std::string(unknown);
}

}  // namespace

std::vector<std::string> read_chips(std::string_view table) {
    static const std::regex row("\\|\\s*[0-9]+\\s+(?:[0-9]+\\s+)?([0-9]{3}[A-Z0-9]+)\\s*\\|");
    std::vector<std::string> chips = captured(table, row);
    for (auto& chip : chips) {
        chip.insert(0, "Ascend");
    }
    return chips;
}

std::string read_cann(std::string_view text) {
    static const std::regex line(
        "\\s*(?:version|Version|toolkit_running_version)\\s*=\\s*\\[?([A-Za-z0-9_.:-]+)");
    const auto found = captured(text, line);
    return found.empty() ? "" : found.front().substr(found.front().rfind(':') + 1);
}

std::vector<std::string> find_chips() {
    const fs::path tool = which("npu-smi");
    return tool.empty() ? std::vector<std::string>() : read_chips(ask(tool, "info"));
}

std::string find_cann() {
    if (const auto folder = toolkit()) {
        for (const auto& file : version_files(*folder)) {
            if (std::string version = read_cann(read_start(file)); !version.empty()) {
                return version;
            }
        }
    }
    return std::string(unknown);
}

Package find_package(const fs::path& library) {
    for (fs::path folder = library.parent_path(); folder.has_relative_path();
         folder = folder.parent_path()) {
        for (const std::string name : package_names) {
            if (folder.filename() == name) {
                return {name, version_of(name, folder.parent_path())};
            }
        }
    }
    return {};
}

}  // namespace vitaie::detail
