// Checkpoints that llm-compressor wrote (tests/data/foreign/make_llm_compressor.py): the weights are those that
// compressed-tensors unpacks, the logits those that transformers computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "formats/safetensors.h"
#include "model/model.h"
#include "model/source.h"

namespace nibble {
namespace {

struct Case {
  const char* name;
  ActivationSpec::Mode inputs;
  bool notes;
  // compressed-tensors rounds a token to max / 127.5, nibble (as vLLM's kernels) to max / 127; and it rounds the cache.
  double cosine = 0.99999;
};

class LlmCompressor : public testing::TestWithParam<Case> {};

TEST_P(LlmCompressor, IsReadAsItsOwnToolsReadIt) {
  const std::filesystem::path folder =
      std::filesystem::path(NIBBLE_TEST_DATA) / "foreign" / cat("llm-compressor-", GetParam().name);
  const auto source = Source::open(folder);
  EXPECT_EQ(!source->notes().empty(), GetParam().notes);
  size_t compared = 0;
  std::vector<TokenId> ids;
  std::vector<float> want;
  for (const SafeTensor& tensor : SafeTensorsFile::open(folder / "expected.safetensors").tensors) {
    std::vector<float> values(tensor.view.bytes.size() / 4);
    std::memcpy(values.data(), tensor.view.bytes.data(), tensor.view.bytes.size());
    if (tensor.name == "input_ids") {
      ids.resize(values.size());
      std::memcpy(ids.data(), values.data(), tensor.view.bytes.size());
    } else if (tensor.name == "logits") {
      want = values;
    } else {
      const StoredTensor& stored = source->get(tensor.name);
      ASSERT_TRUE(stored.spec()) << tensor.name;
      EXPECT_EQ(stored.activations().mode, GetParam().inputs) << tensor.name;
      std::vector<float> got(values.size());
      stored.read_rows(0, stored.rows(), got.data());
      EXPECT_EQ(got, values) << tensor.name;
      ++compared;
    }
  }
  EXPECT_GE(compared, 6u);

  const auto model = Model::load(*source);
  std::vector<float> got(want.size());
  const size_t vocabulary = want.size() / ids.size();
  model->forward(ids, *model->make_cache(ids.size(), CacheType::kF32), matrix(got.data(), ids.size(), vocabulary));
  double dot = 0, a = 0, b = 0;
  for (size_t i = 0; i < got.size(); ++i) dot += got[i] * want[i], a += got[i] * got[i], b += want[i] * want[i];
  EXPECT_GT(dot / std::sqrt(a * b), GetParam().cosine);
}

INSTANTIATE_TEST_SUITE_P(Schemes, LlmCompressor,
                         testing::Values(Case{"w4a16", ActivationSpec::Mode::kNone, false},
                                         Case{"w4a16-asym", ActivationSpec::Mode::kNone, false},
                                         Case{"w4a16-actorder", ActivationSpec::Mode::kNone, false},
                                         Case{"w8a8", ActivationSpec::Mode::kDynamicPerToken, false, 0.999},
                                         Case{"w8a8-static", ActivationSpec::Mode::kStatic, false},
                                         Case{"fp8-static", ActivationSpec::Mode::kStatic, false},
                                         Case{"fp8-dynamic", ActivationSpec::Mode::kDynamicPerToken, false},
                                         Case{"mixed-kv", ActivationSpec::Mode::kNone, true, 0.99}),
                         [](const auto& test) {
                           std::string name = test.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace nibble
