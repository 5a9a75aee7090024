/// The digests that bind a bundle together, and the canonical text that two of them are taken of.
///
/// docs/bundle-format.md states both; manifests/vitaie/manifests/digests.py is the same in Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "json.hpp"

struct evp_md_ctx_st;

namespace vitaie::detail {

/// Bytes of one chunk of a large artifact; the last one may be shorter.
inline constexpr std::int64_t chunk_size = std::int64_t{16} << 20;

/// Artifacts larger than this, in bytes, list the digest of each chunk.
inline constexpr std::int64_t chunked_above = std::int64_t{8} << 20;

/// A sha256 that is being taken.
///
///     Sha256 hash;
///     hash.update(data, size);
///     std::string digits = hash.hexadecimal();  // ends it
class Sha256 {
  public:
    Sha256();
    void update(const void* data, std::size_t size);
    /// Returns the digest as 64 lower-case hexadecimal digits.
    std::string hexadecimal();

  private:
    struct Free {
        void operator()(evp_md_ctx_st* context) const;
    };
    std::unique_ptr<evp_md_ctx_st, Free> context_;
};

/// Returns the sha256 of `data` as 64 lower-case hexadecimal digits.
std::string sha256(std::string_view data);

/// Returns the canonical text of a JSON value: keys sorted by code point, every number as the 16
/// hexadecimal digits of its IEEE-754 double, 0 and -0.0 alike.
std::string canonical(const json::Value& value);

/// Returns the sha256 of a manifest's bytes with its own digest's 64 digits read as zeros.
///
/// None when the bytes do not hold `"manifest_digest"` exactly once, with a string of 64 lower-case
/// hexadecimal digits as its value.
std::optional<std::string> manifest_digest(std::string_view data);

}  // namespace vitaie::detail
