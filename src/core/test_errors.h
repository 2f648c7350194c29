#pragma once
#include <string>

#include "core/error.h"

namespace nibble {

// For tests: the message of the Error that `body` throws, "" when it throws none. Other exceptions pass.
template <class Body>
std::string error_text(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// For tests: the kind of the Error that `body` throws; kGate, which no library code throws, when there is none.
template <class Body>
ErrorKind error_kind(const Body& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.kind();
  }
  return ErrorKind::kGate;
}

}  // namespace nibble
