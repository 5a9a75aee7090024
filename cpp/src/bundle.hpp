/// Opening a bundle: no parser sees a byte before its digest was checked.
///
///     Bundle bundle = Bundle::open("bundles/vit_base_patch16_224");
///     bundle.check();                                  // every file is what the manifest says
///     Memory model = bundle.read("model.ts");          // checked, in private memory
///
/// The order is fixed: the manifest, then the folder against the manifest, then size and digest of
/// every file. Files are opened once, relative to the open folder; what was hashed is what is
/// parsed. The verdicts are those of runtime/vitaie/runtime/_bundle.py.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bytes.hpp"
#include "descriptor.hpp"
#include "manifest.hpp"

namespace vitaie::detail {

inline constexpr std::string_view manifest_name = "manifest.json";

/// Returns the bundle's folder: `path` itself, or the newest version inside it.
///
/// \throws Error There is neither a manifest nor a version here; `E_ARGUMENT`, the path is empty.
std::string locate(const std::string& folder);

/// An open bundle: its manifest, and one open file for each artifact. Every file is there, is
/// regular, has one name and the right size.
class Bundle {
  public:
    /// Opens the manifest and the files; their digests are checked as they are read.
    ///
    /// \param path A version's folder, or the folder of its versions (the newest is taken).
    /// \throws Error Anything missing, extra, linked, of the wrong size or malformed.
    static Bundle open(const std::string& path);

    [[nodiscard]] const std::string& folder() const { return folder_; }
    [[nodiscard]] const Manifest& manifest() const { return *manifest_; }
    /// Returns the bytes of manifest.json, as they were checked.
    [[nodiscard]] const std::string& manifest_text() const { return manifest_text_; }
    /// Returns what errors name an artifact as.
    [[nodiscard]] std::string where(std::string_view path) const;

    /// Starts reading and hashing an artifact, which `Reading::check` and `take(0)` then give.
    /// The bundle must outlive it.
    [[nodiscard]] std::unique_ptr<Reading> begin(std::string_view path) const;

    /// Returns an artifact's bytes, after their digest was checked.
    [[nodiscard]] Memory read(std::string_view path) const;

    /// Checks the digest of every artifact but `others`, in parallel, and keeps nothing.
    void check(const std::vector<std::string>& others = {}) const;

  private:
    Bundle(std::string folder, std::string manifest_text, Manifest manifest,
           std::map<std::string, Descriptor> files);
    [[nodiscard]] OpenFile file(const Artifact& artifact) const;

    std::string folder_;
    std::string manifest_text_;
    std::unique_ptr<const Manifest> manifest_;  // readings point into it while the bundle is moved
    std::map<std::string, Descriptor> files_;
};

}  // namespace vitaie::detail
