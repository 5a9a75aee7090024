/// Memory for pixels, used again by the same thread.
///
/// Pages fresh from the system cost as much as a resize of a photograph: an image of half a
/// megabyte decoded, resized and freed spent a third of its time on them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace vitaie::detail {

/// Bytes that are not initialised.
class Buffer {
  public:
    /// What a thread keeps for itself: so many buffers of at most so many bytes.
    static constexpr std::size_t most_kept = 4;
    static constexpr std::size_t largest_kept = std::size_t{4} << 20;

    explicit Buffer(std::size_t size);
    Buffer(Buffer&&) = default;
    Buffer& operator=(Buffer&&) = default;
    ~Buffer();

    [[nodiscard]] std::uint8_t* data() const { return block_.bytes.get(); }

    struct Block {
        std::unique_ptr<std::uint8_t[]> bytes;
        std::size_t size = 0;
    };

  private:
    Block block_;
};

}  // namespace vitaie::detail
