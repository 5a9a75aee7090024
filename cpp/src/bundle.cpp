#include "bundle.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>
#include <stdexcept>
#include <system_error>
#include <tuple>
#include <utility>

#include "error.hpp"
#include "fields.hpp"

namespace vitaie::detail {

namespace {

constexpr int read_flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
constexpr int folder_flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

struct CloseFolder {
    void operator()(DIR* folder) const { ::closedir(folder); }
};
using Listing = std::unique_ptr<DIR, CloseFolder>;

std::string joined(const std::string& folder, std::string_view name) {
    std::string path = folder;
    path.append(path.empty() || path.back() == '/' ? "" : "/").append(name);
    return path;
}

/// Returns the error of a system call that failed on `where`.
Error refused(int number, const std::string& where) {
    if (number == EMFILE || number == ENFILE) {  // this process's limit, no fault of the bundle
        return Error(Code::E_DISK, where)
            .got(std::generic_category().message(number))
            .hint("Check the disk, then run it again.");
    }
    if (number == ELOOP) {  // O_NOFOLLOW met a symbolic link
        return Error(Code::E_BUNDLE_FILE_LINKED, where).got("a symbolic link");
    }
    return Error(Code::E_BUNDLE_FILE_UNREADABLE, where)
        .got(std::generic_category().message(number));
}

Error not_found(const std::string& folder) {
    return Error(Code::E_BUNDLE_NOT_FOUND, folder)
        .hint("Give the folder of a bundle, such as bundles/vit_base_patch16_224.");
}

Error not_found(int number, const std::string& folder) {
    return not_found(folder).got(std::generic_category().message(number));
}

/// Returns the next name in a folder but `.` and `..`, or null at its end.
const dirent* next_entry(DIR* folder, const std::string& where) {
    while (true) {
        errno = 0;
        const dirent* entry = ::readdir(folder);
        if (entry == nullptr && errno != 0) {
            throw refused(errno, where);
        }
        const std::string_view name = entry == nullptr ? std::string_view() : entry->d_name;
        if (name != "." && name != "..") {
            return entry;
        }
    }
}

Listing list(int folder, const std::string& where) {
    Descriptor copy(::fcntl(folder, F_DUPFD_CLOEXEC, 0));
    Listing listing(copy ? ::fdopendir(copy.get()) : nullptr);
    if (!listing) {
        throw refused(errno, where);
    }
    static_cast<void>(copy.release());  // closed with the listing
    return listing;
}

/// A name in an open folder.
struct Entry {
    int folder;
    const char* name;
    std::string where;
};

void check_type(const struct stat& status, const std::string& where, bool is_folder) {
    if (S_ISLNK(status.st_mode)) {
        throw Error(Code::E_BUNDLE_FILE_LINKED, where).got("a symbolic link");
    }
    if (is_folder ? !S_ISDIR(status.st_mode) : !S_ISREG(status.st_mode)) {
        throw Error(Code::E_BUNDLE_FILE_TYPE, where)
            .expected(is_folder ? "a folder" : "a regular file");
    }
}

void check_file(const struct stat& status, const std::string& where) {
    check_type(status, where, false);
    if (status.st_nlink != 1) {
        throw Error(Code::E_BUNDLE_FILE_LINKED, where)
            .expected("1 name")
            .got(std::to_string(status.st_nlink) + " names")
            .hint("Copy the bundle without hard links (cp --no-preserve=links).");
    }
}

Descriptor open_folder(const Entry& entry) {
    struct stat status{};
    if (::fstatat(entry.folder, entry.name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
        throw refused(errno, entry.where);
    }
    check_type(status, entry.where, true);
    Descriptor folder(::openat(entry.folder, entry.name, folder_flags | O_NOFOLLOW));
    if (!folder) {
        throw refused(errno, entry.where);
    }
    return folder;
}

/// Opens a regular file of one name; gives nothing when there is none. Nothing else is even opened:
/// opening a device may act.
std::optional<Descriptor> open_file(const Entry& entry, struct stat& status) {
    if (::fstatat(entry.folder, entry.name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
        check_file(status, entry.where);
        Descriptor file(::openat(entry.folder, entry.name, read_flags));
        if (file && ::fstat(file.get(), &status) == 0) {
            check_file(status, entry.where);  // of what was opened, whatever was there before
            return file;
        }
    }
    if (errno == ENOENT) {
        return std::nullopt;
    }
    throw refused(errno, entry.where);
}

Descriptor open_artifact(const Entry& entry, const Artifact& artifact) {
    struct stat status{};
    auto file = open_file(entry, status);
    if (!file) {
        throw refused(ENOENT, entry.where);  // it was there when the folder was listed
    }
    if (status.st_size != artifact.size) {
        throw wrong_size(entry.where, artifact.size, status.st_size);
    }
    return std::move(*file);
}

/// The walk over a bundle's folder that opens every artifact, and refuses, at the first sight,
/// whatever the manifest does not list.
class Walk {
  public:
    Walk(const std::string& folder, const Manifest& manifest) : folder_(folder) {
        for (const auto& artifact : manifest.artifacts) {
            artifacts_[artifact.path] = &artifact;
            const std::string& path = artifact.path;
            for (auto end = path.find('/'); end != std::string::npos;
                 end = path.find('/', end + 1)) {
                folders_.insert(path.substr(0, end));
            }
        }
    }

    std::map<std::string, Descriptor> open_files(int root) {
        read_folder(root, "");
        while (!pending_.empty()) {
            const auto [prefix, folder] = std::move(pending_.back());
            pending_.pop_back();
            read_folder(folder.get(), prefix);
        }
        return std::move(files_);
    }

  private:
    void read_folder(int folder, const std::string& prefix) {
        const Listing listing = list(folder, joined(folder_, prefix));
        while (const dirent* found = next_entry(listing.get(), joined(folder_, prefix))) {
            const std::string relative = prefix + found->d_name;
            const Entry entry = {folder, found->d_name, joined(folder_, relative)};
            if (folders_.count(relative) != 0) {
                pending_.emplace_back(relative + '/', open_folder(entry));
            } else if (const auto artifact = artifacts_.find(relative);
                       artifact != artifacts_.end()) {
                // A folder being changed may list a name twice: the first one stands.
                if (files_.count(relative) == 0) {
                    files_[relative] = open_artifact(entry, *artifact->second);
                }
            } else if (relative != manifest_name) {
                throw Error(Code::E_BUNDLE_FILE_EXTRA, entry.where)
                    .hint("Remove it; a published version never changes.");
            }
        }
    }

    const std::string& folder_;
    std::map<std::string, const Artifact*> artifacts_;
    std::set<std::string> folders_;
    std::vector<std::pair<std::string, Descriptor>> pending_;
    std::map<std::string, Descriptor> files_;
};

/// Returns the bytes of the manifest, or one more of them than a manifest may have.
std::string read_manifest(int root, const std::string& where) {
    struct stat status{};
    const auto file = open_file({root, manifest_name.data(), where}, status);
    if (!file) {
        throw Error(Code::E_MANIFEST_MISSING, where);
    }
    std::string data(max_manifest_bytes + 1, '\0');  // one more than a manifest may have
    std::size_t size = 0;
    while (size < data.size()) {
        const ssize_t count = ::read(file->get(), data.data() + size, data.size() - size);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            throw refused(errno, where);
        }
        if (count == 0) {
            break;
        }
        size += static_cast<std::size_t>(count);
    }
    data.resize(size);
    return data;
}

bool is_folder(int folder, const dirent& entry) {
    struct stat status{};
    return ::fstatat(folder, entry.d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
           S_ISDIR(status.st_mode);
}

/// Returns the name of the newest version in a folder; empty when there is none.
std::string newest_version(const std::string& folder) {
    const Listing listing(::opendir(folder.c_str()));
    if (!listing) {
        throw not_found(errno, folder);
    }
    std::string newest;
    std::optional<Version> highest;
    while (true) {
        errno = 0;
        const dirent* entry = ::readdir(listing.get());
        if (entry == nullptr && errno != 0) {
            throw not_found(errno, folder);
        }
        if (entry == nullptr) {
            return newest;
        }
        const auto version = parse_version(entry->d_name);
        if (version && (!highest || *version > *highest) &&
            is_folder(::dirfd(listing.get()), *entry)) {
            highest = version;
            newest = entry->d_name;
        }
    }
}

}  // namespace

std::string locate(const std::string& folder) {
    if (folder.empty()) {
        throw Error(Code::E_ARGUMENT, "path").expected("a path").got("");
    }
    if (folder.find('\0') != std::string::npos) {
        throw not_found(folder).got("a NUL in the path");
    }
    struct stat status{};
    if (::lstat(joined(folder, manifest_name).c_str(), &status) == 0) {
        return folder;
    }
    const std::string newest = newest_version(folder);
    if (newest.empty()) {
        throw not_found(folder).expected(std::string(manifest_name) + " or a folder named X.Y.Z");
    }
    return joined(folder, newest);
}

Bundle Bundle::open(const std::string& path) {
    std::string folder = locate(path);
    const Descriptor root(::open(folder.c_str(), folder_flags));
    if (!root) {
        throw not_found(errno, folder);
    }
    const std::string where = joined(folder, manifest_name);
    std::string text = read_manifest(root.get(), where);
    Manifest manifest = parse_manifest(text, where);
    auto files = Walk(folder, manifest).open_files(root.get());
    for (const auto& artifact : manifest.artifacts) {
        if (files.count(artifact.path) == 0) {
            throw Error(Code::E_BUNDLE_FILE_MISSING, joined(folder, artifact.path))
                .hint(fetch_again);
        }
    }
    return Bundle(std::move(folder), std::move(text), std::move(manifest), std::move(files));
}

Bundle::Bundle(std::string folder, std::string manifest_text, Manifest manifest,
               std::map<std::string, Descriptor> files)
    : folder_(std::move(folder)),
      manifest_text_(std::move(manifest_text)),
      manifest_(std::make_unique<Manifest>(std::move(manifest))),
      files_(std::move(files)) {}

std::string Bundle::where(std::string_view path) const {
    return joined(folder_, path);
}

OpenFile Bundle::file(const Artifact& artifact) const {
    return {files_.at(artifact.path).get(), &artifact, where(artifact.path)};
}

std::unique_ptr<Reading> Bundle::begin(std::string_view path) const {
    return std::make_unique<Reading>(std::vector{file(manifest_->artifact(path))}, Keep::yes);
}

Memory Bundle::read(std::string_view path) const {
    const auto reading = begin(path);
    reading->check();
    return reading->take(0);
}

void Bundle::check(const std::vector<std::string>& others) const {
    std::vector<OpenFile> files;
    for (const auto& artifact : manifest_->artifacts) {
        if (std::find(others.begin(), others.end(), artifact.path) == others.end()) {
            files.push_back(file(artifact));
        }
    }
    Reading(std::move(files), Keep::no).check();
}

}  // namespace vitaie::detail
