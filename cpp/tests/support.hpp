// What several tests need: files, expected errors, and a small bundle in a folder of its own.
#pragma once

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <string_view>

#include "digest.hpp"
#include "error.hpp"
#include "manifest.hpp"

namespace vitaie::detail::test {

inline std::string read_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    REQUIRE(file.is_open());
    return {std::istreambuf_iterator<char>(file), {}};
}

inline void write_file(const std::filesystem::path& path, std::string_view data) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << data << std::flush;
    REQUIRE(file.good());
}

/// Returns "code field" of the error that `act` ends with, and "ok" when it ends with none.
template <class Act>
std::string verdict(Act act) {
    try {
        act();
    } catch (const Error& error) {
        return std::string(error.name()).append(error.field().empty() ? "" : " ") + error.field();
    }
    return "ok";
}

/// A folder that is removed in the end.
class Folder {
  public:
    Folder() {
        // mkdtemp puts letters of its own in the place of the six X.
        std::string name = (std::filesystem::temp_directory_path() / "vitaie-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    ~Folder() { std::filesystem::remove_all(path_); }

    [[nodiscard]] const std::filesystem::path& path() const { return path_; }

  private:
    std::filesystem::path path_;
};

inline void replace(std::string& text, std::string_view old, std::string_view fresh) {
    const std::size_t place = text.find(old);
    REQUIRE(place != std::string::npos);
    text.replace(place, old.size(), fresh);
}

/// Returns a manifest with all of its digests right, whatever it was before.
inline std::string sealed(std::string text) {
    const std::string key = "\"manifest_digest\": \"";
    while (true) {
        const std::string digest = manifest_digest(text).value();
        text.replace(text.find(key) + key.size(), digest.size(), digest);
        try {
            parse_manifest(text);
            return text;
        } catch (const Error& error) {
            const bool other_digest = error.code() == Code::E_MANIFEST_TARGET_DIGEST ||
                                      error.code() == Code::E_MANIFEST_CONTENT_DIGEST;
            if (!other_digest) {
                throw;
            }
            replace(text, *error.got(), *error.expected());
        }
    }
}

/// Writes a small bundle: the manifest of a vector, with files of the sizes it gives.
inline void write_bundle(const std::filesystem::path& folder) {
    std::string text =
        read_file(std::filesystem::path(VITAIE_VECTORS) / "002-unmeasured-ok" / "manifest.json");
    const Manifest manifest = parse_manifest(text);
    unsigned seed = 1;
    for (const auto& artifact : manifest.artifacts) {
        std::string data(static_cast<std::size_t>(artifact.size), '\0');
        for (char& byte : data) {
            seed = seed * 1664525 + 1013904223;  // Numerical Recipes' generator
            byte = static_cast<char>(seed >> 24);
        }
        write_file(folder / artifact.path, data);
        replace(text, artifact.sha256, sha256(data));
        for (std::size_t index = 0; index < artifact.chunks.size(); ++index) {
            const auto size = static_cast<std::size_t>(chunk_size);
            const auto chunk = std::string_view(data).substr(index * size, size);
            replace(text, artifact.chunks[index], sha256(chunk));
        }
    }
    write_file(folder / "manifest.json", sealed(text));
}

}  // namespace vitaie::detail::test
