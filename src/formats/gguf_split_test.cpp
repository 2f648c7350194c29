#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "formats/gguf.h"
#include "formats/test_gguf.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

using testing::HasSubstr;
using Type = TestGguf::Type;

class GgufSplit : public testing::Test {
 protected:
  static TestGguf part(uint16_t number, uint16_t count, int32_t tensors = 3) {
    TestGguf out;
    if (number == 0) out.key("general.architecture", "llama");
    out.key("split.no", Type::kU16, number)
        .key("split.count", Type::kU16, count)
        .key("split.tensors.count", Type::kI32, tensors);
    return out;
  }
  static TestGguf with_tensor(TestGguf out, const char* name, uint8_t fill) {
    return out.tensor(name, {8}, 24, std::vector<uint8_t>(8, fill));
  }
  void write(const char* name, const TestGguf& file) {
    const auto bytes = file.build();
    write_text_file(folder_ / name, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  void write_three() {
    write("m-00001-of-00003.gguf", with_tensor(part(0, 3), "a", 1));
    write("m-00002-of-00003.gguf", with_tensor(part(1, 3), "b", 2));
    write("m-00003-of-00003.gguf", with_tensor(part(2, 3), "c", 3));
  }
  std::string error(const char* name) {
    return error_text([&] { Gguf::open(folder_ / name); });
  }

  TestFolder folder_;
};

TEST_F(GgufSplit, AnyPartOpensAll) {
  write_three();
  for (const char* name : {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}) {
    const auto gguf = Gguf::open(folder_ / name);
    ASSERT_EQ(gguf->tensors().size(), 3u) << name;
    EXPECT_EQ(gguf->find_string("general.architecture"), "llama");
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(gguf->tensors()[i].name, std::string(1, static_cast<char>('a' + i)));
      EXPECT_EQ(gguf->tensors()[i].view.bytes[7], static_cast<std::byte>(i + 1));
    }
  }
}

TEST_F(GgufSplit, MissingPartsAreNamed) {
  write_three();
  fs::remove(folder_ / "m-00002-of-00003.gguf");
  EXPECT_THAT(error("m-00001-of-00003.gguf"), HasSubstr("1 of 3 parts are missing: m-00002-of-00003.gguf"));
  write("big-00001-of-00100.gguf", part(0, 100));
  EXPECT_THAT(error("big-00001-of-00100.gguf"), HasSubstr("99 of 100 parts are missing: big-00002-of-00100.gguf, "));
}

TEST_F(GgufSplit, RenamedPartsAreExplained) {
  write("renamed.gguf", part(1, 3));
  EXPECT_THAT(error("renamed.gguf"), HasSubstr("part 2 of 3: its name should end in -00002-of-00003.gguf"));
}

TEST_F(GgufSplit, PartsThatDoNotBelongTogetherAreRefused) {
  write_three();
  write("m-00003-of-00003.gguf", with_tensor(part(1, 3), "c", 3));
  EXPECT_THAT(error("m-00001-of-00003.gguf"), HasSubstr("m-00003-of-00003.gguf: its metadata says part 2 of 3"));
  write("m-00003-of-00003.gguf", with_tensor(part(2, 3), "a", 3));
  EXPECT_THAT(error("m-00001-of-00003.gguf"), HasSubstr("two parts have the tensor 'a'"));
  write("m-00003-of-00003.gguf", part(2, 3));
  EXPECT_THAT(error("m-00001-of-00003.gguf"), HasSubstr("have 2 tensors together, 3 are announced"));
  write("m-00003-of-00003.gguf", with_tensor(part(3, 3), "c", 3));
  EXPECT_THAT(error("m-00001-of-00003.gguf"), HasSubstr("part 3 (counted from 0) of 3"));
  write_text_file(folder_ / "m-00003-of-00003.gguf", "GGUF");
  EXPECT_THAT(error("m-00001-of-00003.gguf"), HasSubstr("m-00003-of-00003.gguf: the version at offset 4"));
}

TEST_F(GgufSplit, ACountOfOneIsNoSplit) {
  write("one.gguf", with_tensor(part(0, 1, 1), "a", 1));
  EXPECT_EQ(Gguf::open(folder_ / "one.gguf")->tensors().size(), 1u);
}

}  // namespace
}  // namespace nibble
