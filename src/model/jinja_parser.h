#pragma once
#include <string_view>

#include "model/jinja_ast.h"

namespace nibble::jinja {

// The syntax tree of a template. Throws Error(kUnsupported) for statements that are not known and for what is nested
// too deeply, Error(kCorrupt) for what is no template at all, both with line and column. Names of filters, tests and
// functions are looked up when they are reached, so that a branch which is never taken may use what nibble does not
// know.
Body parse(std::string_view source);

}  // namespace nibble::jinja
