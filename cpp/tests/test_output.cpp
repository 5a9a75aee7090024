// An output is whole or not there, and takes the place of nothing.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>

#include "output.hpp"
#include "support.hpp"

namespace fs = std::filesystem;
using namespace vitaie::detail;
using namespace vitaie::detail::test;

namespace {

std::string written(const fs::path& path) {
    return verdict([&] { write_output(path.string(), "data"); });
}

std::ptrdiff_t names_in(const fs::path& folder) {
    return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

}  // namespace

TEST_CASE("an output is written whole, with the rights of any new file") {
    const Folder folder;
    const mode_t mask = ::umask(0027);
    CHECK(written(folder.path() / "a.npy") == "ok");
    ::umask(mask);
    CHECK(read_file(folder.path() / "a.npy") == "data");
    CHECK(fs::status(folder.path() / "a.npy").permissions() == fs::perms(0640));
    CHECK(names_in(folder.path()) == 1);
}

TEST_CASE("nothing is ever replaced") {
    const Folder folder;
    write_file(folder.path() / "file", "old");
    fs::create_directory(folder.path() / "folder");
    fs::create_symlink("nowhere", folder.path() / "dangling");
    for (const auto* name : {"file", "folder", "dangling"}) {
        CHECK(written(folder.path() / name) == "E_OUTPUT_EXISTS");
        CHECK(verdict([&] { check_output((folder.path() / name).string()); }) == "E_OUTPUT_EXISTS");
    }
    CHECK(read_file(folder.path() / "file") == "old");
    CHECK(names_in(folder.path()) == 3);
}

TEST_CASE("an output's folder must be there") {
    const Folder folder;
    write_file(folder.path() / "file", "");
    CHECK(written(folder.path() / "nowhere" / "a") == "E_OUTPUT_PATH");
    CHECK(written(folder.path() / "file" / "a") == "E_OUTPUT_PATH");
}

TEST_CASE("a disk that refuses is said so, and leaves nothing behind") {
    const Folder folder;
    CHECK(written(folder.path() / std::string(300, 'x')) == "E_DISK");
    CHECK(written("/proc/a.npy") == "E_DISK");
    CHECK(names_in(folder.path()) == 0);
}
