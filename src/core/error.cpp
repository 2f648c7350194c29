#include "core/error.h"

#include <system_error>

namespace nibble {

Error io_error(std::string_view what, int errno_value) {
  return {ErrorKind::kIo, cat(what, ": ", std::generic_category().message(errno_value))};
}

}  // namespace nibble
