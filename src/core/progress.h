#pragma once
#include <cstddef>
#include <string_view>

namespace nibble {

// Where long work reports how far it is. The library never prints; the CLI draws a bar.
class Progress {
 public:
  virtual ~Progress() = default;
  // `done` of `total` units (bytes, tokens or windows; only their ratio matters); `note` is what is being worked on.
  virtual void update(size_t done, size_t total, std::string_view note) = 0;
};

// Reports to nobody.
Progress& no_progress();

}  // namespace nibble
