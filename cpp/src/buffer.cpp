#include "buffer.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace vitaie::detail {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr bool keeps = false;  // or it would not see what is used after it was freed
#else
constexpr bool keeps = true;
#endif

/// False once the thread's blocks are gone, which a buffer that is freed even later must know.
thread_local bool alive = true;

/// The blocks that a thread keeps.
class Kept {
  public:
    Kept() = default;
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;
    ~Kept() { alive = false; }

    /// Returns a block of at least that size and at most four times it, or an empty one.
    Buffer::Block take(std::size_t size) {
        const auto fits = [size](const Buffer::Block& block) {
            return block.size >= size && block.size / 4 <= size;
        };
        const auto found = std::find_if(blocks_.begin(), blocks_.end(), fits);
        return found == blocks_.end() ? Buffer::Block{} : std::exchange(*found, {});
    }

    /// Keeps a block, in an empty place or else in that of the block kept longest.
    void keep(Buffer::Block block) {
        const auto empty = std::find_if(blocks_.begin(), blocks_.end(),
                                        [](const auto& kept) { return kept.bytes == nullptr; });
        if (empty != blocks_.end()) {
            *empty = std::move(block);
        } else {
            blocks_[oldest_] = std::move(block);
            oldest_ = (oldest_ + 1) % blocks_.size();
        }
    }

  private:
    std::array<Buffer::Block, Buffer::most_kept> blocks_;
    std::size_t oldest_ = 0;
};

thread_local Kept kept_here;

}  // namespace

Buffer::Buffer(std::size_t size) {
    if (keeps && alive && size <= largest_kept) {
        block_ = kept_here.take(size);
    }
    if (block_.bytes == nullptr) {
        block_ = {std::unique_ptr<std::uint8_t[]>(new std::uint8_t[size]), size};
    }
}

Buffer::~Buffer() {
    if (keeps && alive && block_.bytes != nullptr && block_.size <= largest_kept) {
        kept_here.keep(std::move(block_));
    }
}

}  // namespace vitaie::detail
