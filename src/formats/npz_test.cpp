#include "formats/npz.h"

#include <gmock/gmock.h>

#include <cstring>

#include "core/error.h"
#include "core/files.h"
#include "core/mapped_file.h"
#include "formats/test_damage.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

// A .npy file of version 1.0, as its specification lays it out.
std::string npy(std::string header, const std::string& values) {
  header.resize((header.size() + 10 + 1 + 63) / 64 * 64 - 11, ' ');
  header += '\n';
  return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(header.size() % 256) +
         static_cast<char>(header.size() / 256) + header + values;
}

std::string npy(const std::string& descr, const std::string& shape, size_t bytes, const char* order = "False") {
  return npy("{'descr': '" + descr + "', 'fortran_order': " + order + ", 'shape': " + shape + ", }",
             std::string(bytes, '\1'));
}

std::string error(const std::string& file) {
  try {
    parse_npy(bytes_of(file));
  } catch (const Error& failure) {
    return failure.what();
  }
  return "";
}

std::shared_ptr<const MappedFile> sample() {
  return MappedFile::open(std::filesystem::path(NIBBLE_TEST_DATA) / "small.npz");
}

TEST(Npz, ReadsWhatNumPyWrites) {
  const auto file = sample();
  const auto arrays = parse_npz(file->bytes());
  ASSERT_EQ(arrays.size(), 1u);
  const TensorView& ids = arrays.at("ids");
  EXPECT_EQ(ids.dtype, DType::kI64);
  EXPECT_THAT(ids.shape, ElementsAre(6, 8));
  std::vector<int64_t> values(48);
  ASSERT_EQ(ids.bytes.size(), values.size() * sizeof values[0]);
  std::memcpy(values.data(), ids.bytes.data(), ids.bytes.size());
  EXPECT_THAT(std::vector<int64_t>(values.begin(), values.begin() + 4), ElementsAre(16, 5, 2, 5));
  EXPECT_EQ(values.back(), 15);
}

TEST(Npz, KnowsTypesAndShapes) {
  for (const auto& [descr, dtype] : std::vector<std::pair<std::string, DType>>{{"<f8", DType::kF64},
                                                                               {"<f4", DType::kF32},
                                                                               {"<f2", DType::kF16},
                                                                               {"<i4", DType::kI32},
                                                                               {"|i1", DType::kI8},
                                                                               {"|u1", DType::kU8},
                                                                               {"<u2", DType::kU16},
                                                                               {"|b1", DType::kBool}}) {
    const TensorView view = parse_npy(bytes_of(npy(descr, "(2, 3)", 6 * byte_size(dtype, 1))));
    EXPECT_EQ(view.dtype, dtype);
    EXPECT_THAT(view.shape, ElementsAre(2, 3));
  }
  EXPECT_THAT(parse_npy(bytes_of(npy("<f4", "()", 4))).shape, ElementsAre());
  EXPECT_THAT(parse_npy(bytes_of(npy("<f4", "(5,)", 20, "True"))).shape, ElementsAre(5));
  EXPECT_THAT(parse_npy(bytes_of(npy("<f4", "(0, 7)", 0))).shape, ElementsAre(0, 7));
}

TEST(Npz, SaysWhatItCannotRead) {
  EXPECT_THAT(error(npy(">f4", "(2,)", 8)), HasSubstr("big-endian"));
  EXPECT_THAT(error(npy("<U5", "(2,)", 40)), HasSubstr("'<U5'"));
  EXPECT_THAT(error(npy("|O", "(2,)", 16)), HasSubstr("neither an integer nor a float"));
  EXPECT_THAT(error(npy("<f4", "(2, 2)", 16, "True")), HasSubstr("ascontiguousarray"));
  EXPECT_THAT(error(npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "....")),
              HasSubstr("records"));
}

TEST(Npz, NoticesDamage) {
  EXPECT_THAT(error(npy("<f4", "(3,)", 8)), HasSubstr("holds 8 bytes, but its type and shape need 12"));
  EXPECT_THAT(error(npy("<f4", "(1,)", 8)), HasSubstr("holds 8 bytes"));
  EXPECT_THAT(error(npy("<f4", "(99999999999, 99999999999)", 8)), HasSubstr("too large"));
  EXPECT_THAT(error(npy("<f4", "(-1,)", 4)), HasSubstr("expected an extent"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'shape': (1,), }", "....")), HasSubstr("lacks"));
  EXPECT_THAT(error(npy("{'descr': '<f4', 'fortran_order': Maybe, 'shape': (1,), }", "....")),
              HasSubstr("True or False"));
  EXPECT_THAT(error(npy("{'other': '<f4'}", "....")), HasSubstr("unexpected key 'other'"));
  EXPECT_THAT(error("PK not an array"), HasSubstr("does not start"));
  const auto parse = [](std::span<const std::byte> bytes) { parse_npy(bytes); };
  const std::string whole = npy("<i4", "(3, 2)", 24);
  EXPECT_TRUE(accepted(parse, bytes_of(whole)));
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_FALSE(accepted(parse, bytes_of(whole).first(size))) << size;
  accepted_bit_flips(parse, bytes_of(whole));
}

TEST(Npz, TruncatedArchivesAreRefused) {
  const auto file = sample();
  const auto parse = [](std::span<const std::byte> bytes) { parse_npz(bytes); };
  EXPECT_TRUE(accepted(parse, file->bytes()));
  for (size_t size = 0; size < file->bytes().size(); ++size)
    EXPECT_FALSE(accepted(parse, file->bytes().first(size))) << size;
  accepted_bit_flips(parse, file->bytes());
}

}  // namespace
}  // namespace nibble
