#include "quant/token_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/half.h"
#include "core/test_errors.h"
#include "core/test_folder.h"

namespace nibble {
namespace {

TEST(TokenStore, GivesBackDocumentsInMemoryAndInAFile) {
  const TestFolder folder;
  for (const bool spilled : {false, true})
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      TokenStore store(10, 7, dtype, spilled ? folder.path() : std::filesystem::path());
      const auto value = [](size_t document, size_t i) { return static_cast<float>(100 * document + i) * 1.001f - 3; };
      const auto write = [&](size_t document, size_t first, size_t rows, size_t cols) {
        std::vector<float> x(rows * cols);
        for (size_t i = 0; i < x.size(); ++i) x[i] = value(document, i);
        store.write(first, matrix<const float>(x.data(), rows, cols));
      };
      const auto check = [&](size_t document, size_t first, size_t rows, size_t cols) {
        std::vector<float> back(rows * cols);
        store.read(first, matrix(back.data(), rows, cols));
        for (size_t i = 0; i < back.size(); ++i) {
          const float want = value(document, i);
          EXPECT_EQ(back[i], dtype == DType::kF32 ? want : bf16_to_f32(f32_to_bf16(want)));
        }
      };
      write(0, 0, 6, 3);
      write(1, 6, 4, 3);
      write(2, 0, 6, 7);  // wider now; the other one is not touched
      check(1, 6, 4, 3);
      check(2, 0, 6, 7);
    }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TokenStore, KeepsANamedFile) {
  const TestFolder folder;
  const std::vector<float> x = {1, 2, 3, 4, 5, 6};
  TokenStore(3, 2, DType::kF32, folder / "hidden").write(0, matrix(x.data(), 3, 2));
  std::vector<float> back(6);
  TokenStore(3, 2, DType::kF32, folder / "hidden").read(0, matrix(back.data(), 3, 2));
  EXPECT_EQ(back, x);
}

TEST(TokenStore, RowsMayLieApart) {
  const TestFolder folder;
  constexpr size_t kRows = 3, kCols = 2, kStride = 5;
  std::vector<float> x(kRows * kStride);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  for (const bool spilled : {false, true}) {
    TokenStore store(kRows, kCols, DType::kF32, spilled ? folder.path() : std::filesystem::path());
    store.write(0, {x.data(), kRows, kCols, kStride});
    std::vector<float> back(x.size(), -1);
    store.read(0, {back.data(), kRows, kCols, kStride});
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(back[i], i % kStride < kCols ? x[i] : -1) << spilled << " " << i;
  }
}

TEST(TokenStore, SaysWhereItCannotWrite) {
  EXPECT_THAT(error_text([] { TokenStore(1, 1, DType::kF32, "/nonexistent/file"); }),
              testing::HasSubstr("/nonexistent/file"));
  EXPECT_EQ(error_kind([] { TokenStore(1, 1, DType::kI8); }), ErrorKind::kUsage);
}

}  // namespace
}  // namespace nibble
