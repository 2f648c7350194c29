#pragma once
#include <cstddef>
#include <map>
#include <span>
#include <string>

#include "core/tensor.h"

namespace nibble {

// One array of a .npy file, row-major and little endian; a view of the file's bytes, at any alignment.
// Throws Error(kUnsupported) for big-endian values, column-major order (but of vectors, where it is the same), element
// types without a name in core (strings, objects, complex numbers), Error(kCorrupt) for damage.
// Specification: NumPy's documentation, "numpy.lib.format", versions 1.0 to 3.0.
TensorView parse_npy(std::span<const std::byte> file);

// The arrays of a .npz file by their names, without ".npy". Errors name the array. Throws Error(kUnsupported) for
// compressed ones: numpy.savez stores, numpy.savez_compressed does not.
std::map<std::string, TensorView, std::less<>> parse_npz(std::span<const std::byte> file);

}  // namespace nibble
