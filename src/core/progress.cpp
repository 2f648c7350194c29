#include "core/progress.h"

namespace nibble {

Progress& no_progress() {
  struct Silent final : Progress {
    void update(size_t, size_t, std::string_view) override {}
  };
  static Silent silent;
  return silent;
}

}  // namespace nibble
