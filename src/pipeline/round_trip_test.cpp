// Codes -> format -> codes: matrices of random specs that a format's check() lets through come back from its files as
// they went in. Formats of floats give the values. ONNX has a test of its own: it needs a graph.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/random.h"
#include "core/test_errors.h"
#include "core/test_folder.h"
#include "export/exporter.h"
#include "pipeline/tiny_model.h"
#include "quant/sample_blocks.h"
#include "quant/sample_matrices.h"

namespace nibble {
namespace {

using namespace testing_support;

template <class T, size_t n>
T any(Random& random, const T (&choices)[n]) {
  return choices[random.next() % n];
}

QuantSpec random_spec(Random& random) {
  constexpr Grid kGrids[] = {Grid::kInt, Grid::kInt, Grid::kInt,   Grid::kNF4,
                             Grid::kFP4, Grid::kFP8, Grid::kIQ4NL, Grid::kFP4Bnb};
  constexpr size_t kGroups[] = {16, 32, 40, 64, 128, 256, QuantSpec::kWholeRow};
  constexpr DType kScales[] = {DType::kF32, DType::kF16, DType::kBF16};
  QuantSpec spec{.group = any(random, kGroups), .grid = any(random, kGrids), .scale_dtype = any(random, kScales)};
  spec.bits = spec.grid == Grid::kFP8 ? 8 : spec.grid != Grid::kInt ? 4 : 1 + static_cast<int>(random.next() % 8);
  spec.symmetric = spec.grid != Grid::kInt || random.next() % 2 == 0;
  spec.mins = !spec.symmetric && random.next() % 4 == 0;
  spec.full_range = spec.grid == Grid::kInt && spec.symmetric && random.next() % 4 == 0;
  spec.per_tensor = random.next() % 8 == 0;
  if (spec.per_tensor) spec.group = QuantSpec::kWholeRow;
  return spec;
}

ActivationSpec random_activations(Random& random) {
  using Mode = ActivationSpec::Mode;
  constexpr Mode kModes[] = {Mode::kNone, Mode::kNone, Mode::kNone, Mode::kDynamicPerToken, Mode::kStatic};
  ActivationSpec activations{.mode = any(random, kModes), .symmetric = random.next() % 2 == 0};
  if (activations.mode == Mode::kNone) return {};
  if (random.next() % 3 == 0) activations = {.mode = activations.mode, .symmetric = true, .grid = Grid::kFP8};
  if (activations.mode == Mode::kStatic) activations.scale = 0.25f;
  if (activations.mode == Mode::kStatic && !activations.symmetric) activations.zero = 131;
  return activations;
}

// What a code stands for before it is scaled.
int level(const QuantizedMatrix& q, size_t index, size_t group) {
  const int code = q.codes[index];
  if (q.spec.grid != Grid::kInt || q.spec.mins) return code;
  if (!q.spec.symmetric) return code - q.zeros[group];
  return q.spec.bits == 1 ? 2 * code - 1 : code - q.spec.symmetric_zero();
}

// Levels, scales and mins of every element, whatever the width of codes and the groups.
struct Meaning {
  std::vector<int> levels;
  std::vector<float> scales, mins;
  friend bool operator==(const Meaning&, const Meaning&) = default;
};

Meaning meaning_of(const QuantizedMatrix& q) {
  Meaning meaning;
  for (size_t r = 0; r < q.rows; ++r)
    for (size_t c = 0; c < q.cols; ++c) {
      const size_t column_group = q.group_of.empty() ? c / q.spec.group_size(q.cols) : q.group_of[c];
      const size_t group = q.spec.per_tensor ? 0 : r * q.groups() + column_group;
      meaning.levels.push_back(level(q, r * q.cols + c, group));
      meaning.scales.push_back(q.scales[group]);
      if (q.spec.mins) meaning.mins.push_back(q.mins[group]);
    }
  return meaning;
}

struct Piece {
  OutputTensor tensor;
  QuantizedMatrix matrix;
};

class RoundTrip : public testing::Test {
 protected:
  static constexpr size_t kHidden = 256, kWide = 160, kVocab = 64;

  void SetUp() override {
    TinyModel model;
    model.hidden = kHidden;
    model.intermediate = kWide;
    model.layers = 1;
    model.vocab = kVocab;
    model.write(folder_ / "model");
    source_ = Source::open(folder_ / "model");
  }

  // A random matrix that the format holds, or nothing.
  std::optional<Piece> draw(const ExporterEntry& format, OutputTensor tensor) {
    tensor.spec = random_spec(random_);
    std::optional<DType> blocks;
    if (format.blocks && random_.next() % 2 == 0) {
      blocks = any(random_, kBlockTypes);
      if (tensor.cols() % info(*blocks).block != 0) return std::nullopt;
      tensor.spec = ggml_target_spec(*blocks);
    } else if (format.scale_dtype) {
      tensor.spec->scale_dtype = *format.scale_dtype;
    }
    tensor.activations = random_activations(random_);
    tensor.grouped_columns = !tensor.spec->per_tensor && random_.next() % 4 == 0;
    try {
      tensor.spec->validate();
      format.check(tensor);
    } catch (const Error&) {
      return std::nullopt;
    }
    const uint64_t seed = random_.next();
    QuantizedMatrix q = blocks ? random_blocks(*blocks, tensor.rows(), tensor.cols(), static_cast<unsigned>(seed))
                               : random_matrix(*tensor.spec, tensor.rows(), tensor.cols(), seed);
    // Version 1 of GPTQ has no zero points of 0.
    if (format.name == "gptq:v1")
      for (uint8_t& zero : q.zeros) zero = std::max<uint8_t>(zero, 1);
    if (tensor.grouped_columns) {
      q.group_of.resize(q.cols);
      for (size_t c = 0; c < q.cols; ++c) q.group_of[c] = static_cast<uint32_t>(c / q.spec.group_size(q.cols));
      for (size_t c = q.cols; c-- > 1;) std::swap(q.group_of[c], q.group_of[random_.next() % (c + 1)]);
    }
    return Piece{std::move(tensor), std::move(q)};
  }

  // A model of several such matrices.
  std::vector<Piece> draw_model(const ExporterEntry& format) {
    const std::string block = "model.layers.0.";
    const std::pair<const char*, TensorRole> kinds[] = {{"self_attn.q_proj.weight", TensorRole::kLinear},
                                                        {"mlp.up_proj.weight", TensorRole::kLinear},
                                                        {"mlp.down_proj.weight", TensorRole::kLinear},
                                                        {"lm_head.weight", TensorRole::kLmHead},
                                                        {"model.embed_tokens.weight", TensorRole::kEmbedding}};
    std::vector<Piece> pieces;
    for (const auto& [name, role] : kinds) {
      OutputTensor tensor;
      tensor.name = role == TensorRole::kLinear ? block + name : name;
      tensor.shape = source_->get(tensor.name).shape();
      tensor.role = role;
      for (int tries = 0; tries < 300; ++tries)
        if (auto piece = draw(format, tensor)) {
          pieces.push_back(std::move(*piece));
          break;
        }
    }
    return pieces;
  }

  // Writes the pieces, second parts first, and opens what was written.
  std::unique_ptr<Source> written(const ExporterEntry& format, const OutputModel& model,
                                  const std::vector<Piece>& pieces, const std::filesystem::path& out) {
    const auto exporter = format.make(out, /*force=*/true, model);
    for (size_t i = 0; i < pieces.size(); ++i) {
      const QuantizedMatrix& q = pieces[i].matrix;
      const size_t middle = 1 + random_.next() % (q.rows - 1);
      exporter->write(i, middle, rows_of(q, middle, q.rows));
      exporter->write(i, 0, rows_of(q, 0, middle));
    }
    exporter->finish();
    return Source::open(out);
  }

  OutputModel model_of(const std::vector<Piece>& pieces) const {
    OutputModel model{*source_, {}, DType::kF32, false, "model.embed_tokens.weight"};
    for (const Piece& piece : pieces) model.tensors.push_back(piece.tensor);
    return model;
  }

  TestFolder folder_;
  std::unique_ptr<Source> source_;
  Random random_{11};
};

TEST_F(RoundTrip, EveryFormatGivesBackWhatItWasGiven) {
  size_t formats = 0;
  for (const ExporterEntry& format : exporters()) {
    if (format.name.starts_with("onnx")) continue;
    ++formats;
    size_t matrices = 0;
    for (int round = 0; round < 10; ++round) {
      std::vector<Piece> pieces = draw_model(format);
      // AWQ's models have one group size.
      while (!error_text([&] { check_output(format, model_of(pieces)); }).empty()) pieces.pop_back();
      const OutputModel model = model_of(pieces);
      const auto back = written(format, model, pieces, folder_ / "out");
      for (const Piece& piece : pieces) {
        const StoredTensor& stored = back->get(piece.tensor.name);
        const std::string what = cat(format.name, " ", piece.tensor.name, " ", describe(piece.matrix.spec),
                                     piece.tensor.grouped_columns ? " act-order" : "");
        ++matrices;
        std::vector<float> values(piece.matrix.codes.size());
        stored.read_rows(0, stored.rows(), values.data());
        ASSERT_EQ(values, values_of(piece.matrix)) << what;
        if (!format.keeps_codes) continue;
        ASSERT_TRUE(stored.spec()) << what;
        EXPECT_EQ(stored.activations(), piece.tensor.activations) << what;
        const QuantizedMatrix got = stored.read_codes(0, stored.rows());
        ASSERT_TRUE(meaning_of(got) == meaning_of(piece.matrix)) << what;
        if (got.spec.bits == piece.matrix.spec.bits) {
          EXPECT_EQ(got.codes, piece.matrix.codes) << what;
        }
      }
    }
    EXPECT_GE(matrices, 10u) << format.name;
  }
  EXPECT_GE(formats, 8u);
}

}  // namespace
}  // namespace nibble
