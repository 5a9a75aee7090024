// Opening refuses a folder that is not exactly what its manifest says. tests/test_cpp_bundle.py
// compares more cases with Python; these need nothing but this program.
#include <fcntl.h>
#include <sys/stat.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "labels.hpp"
#include "support.hpp"

namespace fs = std::filesystem;
using namespace vitaie::detail;
using namespace vitaie::detail::test;

namespace {

std::string opened(const fs::path& folder) {
    return verdict([&] { Bundle::open(folder.string()).check(); });
}

/// Changes one byte of a file.
void flip(const fs::path& path, std::size_t place) {
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekg(static_cast<std::streamoff>(place));
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(static_cast<std::streamoff>(place));
    file.put(byte);
}

std::size_t open_files() {
    const auto descriptors = fs::directory_iterator("/proc/self/fd");
    return static_cast<std::size_t>(std::distance(begin(descriptors), end(descriptors)));
}

}  // namespace

TEST_CASE("a bundle opens, from its own folder and from that of its versions") {
    const Folder store;
    write_bundle(store.path() / "1.10.0");
    CHECK(opened(store.path() / "1.10.0") == "ok");
    fs::create_directories(store.path() / "1.9.0");
    fs::create_directories(store.path() / "01.11.0");
    fs::create_directory_symlink("1.10.0", store.path() / "1.12.0");
    write_file(store.path() / "1.13.0", "a file");
    CHECK(locate(store.path().string()) == (store.path() / "1.10.0").string());
    CHECK(opened(store.path()) == "ok");
}

TEST_CASE("what is no bundle is said so") {
    const Folder folder;
    write_file(folder.path() / "file", "");
    CHECK(opened(folder.path()) == "E_BUNDLE_NOT_FOUND");
    CHECK(opened(folder.path() / "nowhere") == "E_BUNDLE_NOT_FOUND");
    CHECK(opened(folder.path() / "file") == "E_BUNDLE_NOT_FOUND");
    CHECK(verdict([] { Bundle::open(std::string("a\0b", 3)); }) == "E_BUNDLE_NOT_FOUND");
    CHECK(verdict([] { Bundle::open(""); }) == "E_ARGUMENT");
    CHECK(verdict([&] { Bundle::open(folder.path().string()); }) == "E_BUNDLE_NOT_FOUND");
    fs::create_directories(folder.path() / "1.0.0");
    CHECK(opened(folder.path()) == "E_MANIFEST_MISSING");
}

TEST_CASE("a bundle holds exactly its files, each a regular one of one name") {
    const Folder parent;
    const fs::path folder = parent.path() / "bundle";
    const fs::path labels = folder / "labels.txt";
    write_bundle(folder);
    SECTION("extra file") {
        write_file(folder / "golden" / "extra", "");
        CHECK(opened(folder) == "E_BUNDLE_FILE_EXTRA");
    }
    SECTION("extra folder") {
        fs::create_directories(folder / ".git");
        CHECK(opened(folder) == "E_BUNDLE_FILE_EXTRA");
    }
    SECTION("missing") {
        fs::remove(labels);
        CHECK(opened(folder) == "E_BUNDLE_FILE_MISSING");
    }
    SECTION("missing folder") {
        fs::remove_all(folder / "golden");
        CHECK(opened(folder) == "E_BUNDLE_FILE_MISSING");
    }
    SECTION("symbolic link") {
        fs::rename(labels, parent.path() / "labels");
        fs::create_symlink(parent.path() / "labels", labels);
        CHECK(opened(folder) == "E_BUNDLE_FILE_LINKED");
    }
    SECTION("hard link") {
        fs::create_hard_link(labels, parent.path() / "twin");
        CHECK(opened(folder) == "E_BUNDLE_FILE_LINKED");
    }
    SECTION("FIFO") {
        fs::remove(labels);
        REQUIRE(::mkfifo(labels.c_str(), 0600) == 0);
        CHECK(opened(folder) == "E_BUNDLE_FILE_TYPE");
    }
    SECTION("folder in place of a file") {
        fs::remove(labels);
        fs::create_directory(labels);
        CHECK(opened(folder) == "E_BUNDLE_FILE_TYPE");
    }
    SECTION("link in place of a folder") {
        fs::rename(folder / "golden", parent.path() / "golden");
        fs::create_directory_symlink(parent.path() / "golden", folder / "golden");
        CHECK(opened(folder) == "E_BUNDLE_FILE_LINKED");
    }
    SECTION("manifest is a link") {
        fs::rename(folder / "manifest.json", parent.path() / "manifest");
        fs::create_symlink(parent.path() / "manifest", folder / "manifest.json");
        CHECK(opened(folder) == "E_BUNDLE_FILE_LINKED");
    }
}

TEST_CASE("every file has the size and the bytes that the manifest says") {
    const Folder parent;
    const fs::path folder = parent.path() / "bundle";
    write_bundle(folder);
    SECTION("size") {
        fs::resize_file(folder / "model.ts", fs::file_size(folder / "model.ts") + 1);
        CHECK(opened(folder) == "E_BUNDLE_FILE_SIZE");
    }
    SECTION("a byte of a small file") {
        flip(folder / "golden" / "00.npy", 167);
        CHECK(opened(folder) == "E_BUNDLE_FILE_DIGEST");
    }
    SECTION("a byte of a large file is found in its chunk") {
        flip(folder / "model.ts", (std::size_t{16} << 20) + 5);
        CHECK(opened(folder) == "E_BUNDLE_FILE_DIGEST chunk 1");
        CHECK(verdict([&] { Bundle::open(folder.string()).check({"model.ts"}); }) == "ok");
        CHECK(verdict([&] { static_cast<void>(Bundle::open(folder.string()).read("model.ts")); }) ==
              "E_BUNDLE_FILE_DIGEST chunk 1");
    }
    SECTION("of several files the first in the manifest is named") {
        flip(folder / "golden" / "00.jpg", 0);
        flip(folder / "model.onnx", 0);
        const std::string path = folder.string();
        CHECK_THROWS_WITH(Bundle::open(path).check(),
                          Catch::Contains("model.onnx: the file's bytes"));
    }
}

TEST_CASE("a file that is longer or shorter by the time it is read is refused") {
    const Folder folder;
    const fs::path path = folder.path() / "file";
    write_file(path, "abc");
    const Descriptor file(::open(path.c_str(), O_RDONLY));
    Artifact artifact{"file", "labels", 3, sha256("abc"), {}};
    const auto read = [&] {
        return verdict([&] { Reading({{file.get(), &artifact, "file"}}, Keep::yes).check(); });
    };
    CHECK(read() == "ok");
    for (const std::int64_t size : {0, 2, 4}) {
        artifact.size = size;
        CHECK(read() == "E_BUNDLE_FILE_SIZE");
    }
}

TEST_CASE("a read that fails is said so") {
    const Descriptor folder(::open("/", O_RDONLY | O_DIRECTORY));
    const Artifact artifact{"file", "labels", 3, sha256("abc"), {}};
    Reading reading({{folder.get(), &artifact, "file"}}, Keep::no);
    CHECK_THROWS_WITH(reading.check(), Catch::StartsWith("E_BUNDLE_FILE_UNREADABLE: file"));
}

TEST_CASE("more bytes than there is memory for are an error of memory") {
    CHECK(verdict([] { Memory(std::int64_t{1} << 60, "model.ts"); }) == "E_MEMORY");
}

TEST_CASE("what was hashed is what is given, whatever happens to the names and files later") {
    const Folder parent;
    const fs::path folder = parent.path() / "bundle";
    write_bundle(folder);
    const std::string expected = read_file(folder / "model.ts");
    const Bundle bundle = Bundle::open(folder.string());
    const auto reading = bundle.begin("model.ts");
    fs::rename(folder, parent.path() / "away");
    write_bundle(folder);
    flip(folder / "model.ts", 0);
    reading->check();
    flip(parent.path() / "away" / "model.ts", 0);
    CHECK((reading->take(0).view() == expected));
}

TEST_CASE("a bundle may be moved while it is read") {
    const Folder folder;
    write_bundle(folder.path());
    Bundle bundle = Bundle::open(folder.path().string());
    const auto reading = bundle.begin("model.ts");
    const Bundle moved = std::move(bundle);
    CHECK(verdict([&] { reading->check(); }) == "ok");
}

TEST_CASE("a reading that nobody waits for ends") {
    const Folder folder;
    write_bundle(folder.path());
    const Bundle bundle = Bundle::open(folder.path().string());
    for (int count = 0; count < 20; ++count) {
        CHECK(bundle.begin("model.ts") != nullptr);
    }
}

TEST_CASE("no file stays open, after success and after an error") {
    const Folder folder;
    write_bundle(folder.path());
    const std::size_t before = open_files();
    for (int count = 0; count < 5; ++count) {
        CHECK(opened(folder.path()) == "ok");
    }
    write_file(folder.path() / "golden" / "extra", "");
    for (int count = 0; count < 5; ++count) {
        CHECK(opened(folder.path()) == "E_BUNDLE_FILE_EXTRA");
    }
    CHECK(open_files() == before);
}

TEST_CASE("memory begins where a weight may") {
    const Memory memory(1000, "file");
    CHECK(reinterpret_cast<std::uintptr_t>(memory.data()) % 64 == 0);
}
