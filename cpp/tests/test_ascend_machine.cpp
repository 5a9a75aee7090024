// What the vendor's tools and files say, read as Python reads it.
#include <catch2/catch.hpp>
#include <cstdlib>
#include <string>
#include <vector>

#include "ascend_machine.hpp"
#include "support.hpp"

using namespace vitaie::detail;
using namespace vitaie::detail::test;

TEST_CASE("chips are the names in npu-smi's table") {
    const std::string table =
        "+----------------+\n"
        "| NPU     Name   | Health |\n"
        "| 0       310P3  | OK     |\n"
        "| 0       0      | 0000:01:00.0 |\n"
        "| 32      310P1           | OK |\n"
        "| 1   2   910B3  | OK     |\n";
    CHECK(read_chips(table) ==
          std::vector<std::string>{"Ascend310P3", "Ascend310P1", "Ascend910B3"});
    CHECK(read_chips("").empty());
    CHECK(read_chips(std::string(1 << 16, '|')).empty());
}

TEST_CASE("the version of CANN is in one of its files, in one of three words") {
    CHECK(read_cann("# CANN\nversion=8.0.RC1\n") == "8.0.RC1");
    CHECK(read_cann("Version = [7.0.0]\n") == "7.0.0");
    CHECK(read_cann("toolkit_running_version=[CANN-6.3:6.3.RC2]\n") == "6.3.RC2");
    CHECK(read_cann("package_version=8.0\n").empty());
    const Folder folder;
    ::setenv("ASCEND_TOOLKIT_HOME", folder.path().c_str(), 1);
    CHECK(find_cann() == "unknown");
    write_file(folder.path() / "compiler" / "version.info", "Version=7.1\n");
    CHECK(find_cann() == "7.1");
    write_file(folder.path() / "x86_64-linux" / "ascend_toolkit_install.info", "version=8.0\n");
    CHECK(find_cann() == "8.0");
    ::unsetenv("ASCEND_TOOLKIT_HOME");
}

TEST_CASE("a library's package is the folder that it lies in, and its version is pip's") {
    const Folder folder;
    const auto library = folder.path() / "mindietorch" / "lib" / "libtorch_aie.so";
    CHECK(find_package(library).name == "mindietorch");
    CHECK(find_package(library).version == "unknown");
    write_file(folder.path() / "mindietorch-1.0.rc2.dist-info" / "METADATA",
               "Metadata-Version: 2.1\nName: mindietorch\nVersion: 1.0.rc2\n");
    write_file(folder.path() / "torch_aie-6.3.dist-info" / "METADATA", "Version: 6.3\n");
    CHECK(find_package(library).version == "1.0.rc2");
    CHECK(find_package(folder.path() / "torch_aie" / "libtorch_aie.so").version == "6.3");
    CHECK(find_package("/usr/lib/libtorch_aie.so").name.empty());
    CHECK(find_package("").name.empty());
}

TEST_CASE("chips are those of npu-smi on the path, which ends well") {
    const Folder folder;
    const std::string path = std::getenv("PATH");
    ::setenv("PATH", (folder.path().string() + ":" + path).c_str(), 1);
    const auto tool = folder.path() / "npu-smi";
    const auto says = [&tool](const std::string& script) {
        write_file(tool, "#!/bin/sh\n" + script);
        std::filesystem::permissions(tool, std::filesystem::perms::owner_all);
        return find_chips();
    };
    CHECK(says("[ \"$1\" = info ] && echo '| 0  310P3  | OK |'\n") ==
          std::vector<std::string>{"Ascend310P3"});
    CHECK(says("echo '| 0  310P3  | OK |'; exit 1\n").empty());
    CHECK(says("echo '| 0  310P3  | OK |'; exec >&-; sleep 0.2\n").size() == 1);
    std::filesystem::remove(tool);
    CHECK(find_chips().empty());
    ::setenv("PATH", path.c_str(), 1);
}
