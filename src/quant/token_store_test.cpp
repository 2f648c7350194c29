#include "quant/token_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/half.h"
#include "core/test_errors.h"
#include "core/test_folder.h"

namespace nibble {
namespace {

TEST(TokenStore, GivesBackWhatWasWrittenInMemoryAndInAFile) {
  const TestFolder folder;
  for (const bool spilled : {false, true})
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      TokenStore store(10, 7, dtype, spilled ? folder.path() : std::filesystem::path());
      for (const size_t cols : {size_t{7}, size_t{3}}) {
        store.reshape(cols);
        std::vector<float> x(10 * cols), back(4 * cols);
        for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i) * 1.001f - 3;
        store.write(6, matrix<const float>(x.data() + 6 * cols, 4, cols));
        store.write(0, matrix<const float>(x.data(), 6, cols));
        store.read(3, matrix(back.data(), 4, cols));
        for (size_t i = 0; i < back.size(); ++i) {
          const float want = x[3 * cols + i];
          EXPECT_EQ(back[i], dtype == DType::kF32 ? want : bf16_to_f32(f32_to_bf16(want)));
        }
      }
    }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TokenStore, SaysWhereItCannotWrite) {
  EXPECT_THAT(error_text([] { TokenStore(1, 1, DType::kF32, "/nonexistent"); }), testing::HasSubstr("/nonexistent"));
  EXPECT_EQ(error_kind([] { TokenStore(1, 1, DType::kI8); }), ErrorKind::kUsage);
}

}  // namespace
}  // namespace nibble
