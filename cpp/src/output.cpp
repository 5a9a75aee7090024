#include "output.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <random>
#include <system_error>

#include "descriptor.hpp"
#include "error.hpp"

namespace vitaie::detail {

namespace {

namespace fs = std::filesystem;

/// What open and linkat say where a file system has no unnamed files.
bool has_no_unnamed_files(int number) {
    return number == EOPNOTSUPP || number == EISDIR || number == EINVAL || number == ENOENT;
}

Error disk_error(const std::string& where, int number) {
    const bool is_full = number == ENOSPC || number == EDQUOT || number == EFBIG;
    const bool is_closed = number == EROFS || number == EACCES || number == EPERM;
    return Error(Code::E_DISK, where)
        .got(std::generic_category().message(number))
        .hint(is_full     ? "Free some space or name another place, then run it again."
              : is_closed ? "Name a place that you may write to."
                          : "Check the disk, then run it again.");
}

Error exists(const std::string& path) {
    return Error(Code::E_OUTPUT_EXISTS, path)
        .hint("Nothing is ever replaced: remove it or name another file.");
}

std::string folder_of(const std::string& path) {
    const std::string folder = fs::path(path).parent_path().string();
    return folder.empty() ? "." : folder;
}

std::string name_of(const std::string& path) {
    return fs::path(path).filename().string();
}

/// A new file in an open folder, which is unlinked again unless it is given its name.
class NewFile {
  public:
    NewFile(int folder, const std::string& where) : folder_(folder), where_(where) {
        file_ = Descriptor(::openat(folder, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666));
        if (!file_ && has_no_unnamed_files(errno)) {
            hidden_ = ".vitaie-" + std::to_string(std::random_device()());
            file_ = Descriptor(
                ::openat(folder, hidden_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666));
        }
        if (!file_) {
            hidden_.clear();
            throw disk_error(where, errno);
        }
    }
    NewFile(const NewFile&) = delete;
    NewFile& operator=(const NewFile&) = delete;
    ~NewFile() {
        if (!hidden_.empty()) {
            ::unlinkat(folder_, hidden_.c_str(), 0);
        }
    }

    void write(std::string_view data) {
        while (!data.empty()) {
            const ssize_t count = ::write(file_.get(), data.data(), data.size());
            if (count < 0 && errno != EINTR) {
                throw disk_error(where_, errno);
            }
            data.remove_prefix(count < 0 ? 0 : static_cast<std::size_t>(count));
        }
        if (::fsync(file_.get()) != 0) {
            throw disk_error(where_, errno);
        }
    }

    /// Links the file to its name; link never replaces what is there.
    void place(const std::string& path) {
        const std::string name = name_of(path);
        const std::string self = "/proc/self/fd/" + std::to_string(file_.get());
        const int linked =
            hidden_.empty()
                ? ::linkat(AT_FDCWD, self.c_str(), folder_, name.c_str(), AT_SYMLINK_FOLLOW)
                : ::linkat(folder_, hidden_.c_str(), folder_, name.c_str(), 0);
        if (linked != 0) {
            throw errno == EEXIST ? exists(path) : disk_error(where_, errno);
        }
        if (::fsync(folder_) != 0) {
            const int number = errno;
            ::unlinkat(folder_, name.c_str(), 0);
            throw disk_error(where_, number);
        }
    }

  private:
    int folder_;
    std::string where_;
    std::string hidden_;
    Descriptor file_;
};

}  // namespace

void check_output(const std::string& path) {
    struct stat status{};
    const std::string folder = folder_of(path);
    if (::stat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
        throw Error(Code::E_OUTPUT_PATH, path)
            .expected("a folder at " + folder)
            .hint("Make the folder, or name another.");
    }
    if (::lstat(path.c_str(), &status) == 0) {
        throw exists(path);
    }
    if (errno != ENOENT) {
        throw disk_error(path, errno);
    }
}

void write_output(const std::string& path, std::string_view data) {
    check_output(path);
    const std::string where = folder_of(path);
    const Descriptor folder(::open(where.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folder) {
        throw disk_error(where, errno);
    }
    NewFile file(folder.get(), where);
    file.write(data);
    file.place(path);
}

}  // namespace vitaie::detail
