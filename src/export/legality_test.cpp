// The table of docs/formats.md that says what each format holds, made from the exporters' check().
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <functional>

#include "core/files.h"
#include "core/text.h"
#include "export/exporter.h"

namespace nibble {
namespace {

constexpr std::string_view kBegin = "<!-- legality: written by export_test, do not edit -->\n",
                           kEnd = "<!-- end of legality -->";

// Rows and columns that every group below divides.
OutputTensor linear(const ExporterEntry& format, const QuantSpec& spec) {
  OutputTensor tensor;
  tensor.name = "model.layers.0.mlp.up_proj.weight";
  tensor.shape = {256, 2048};
  tensor.spec = spec;
  tensor.spec->scale_dtype = format.scale_dtype.value_or(DType::kF32);
  tensor.role = TensorRole::kLinear;
  return tensor;
}

bool holds(const ExporterEntry& format, const OutputTensor& tensor) {
  try {
    tensor.spec->validate();
    format.check(tensor);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string row(const ExporterEntry& format) {
  const auto fits = [&](const QuantSpec& spec) { return holds(format, linear(format, spec)); };
  const auto list = [](const std::vector<std::string>& items) { return items.empty() ? "-" : join(items, " "); };
  const auto bits = [&](bool symmetric) {
    std::vector<std::string> items;
    for (int count = QuantSpec::kMinBits; count <= QuantSpec::kMaxBits; ++count)
      for (const size_t group : {size_t{32}, size_t{16}, size_t{256}, QuantSpec::kWholeRow})
        if (fits({.bits = count, .group = group, .symmetric = symmetric})) {
          items.push_back(cat(count));
          break;
        }
    return list(items);
  };
  // The first form that fits stands for the rest of the row.
  QuantSpec base{.bits = 4, .group = 32};
  for (const QuantSpec& candidate :
       {base, QuantSpec{.bits = 8, .group = 32}, QuantSpec{.bits = 4, .group = 32, .symmetric = false}})
    if (fits(candidate)) {
      base = candidate;
      break;
    }
  std::vector<std::string> groups, grids;
  for (size_t group = 1; group <= 1024; group *= 2)
    if (QuantSpec spec = base; spec.group = group, fits(spec)) groups.push_back(cat(group));
  if (groups.size() == 11) groups = {"any"};
  if (QuantSpec spec = base; spec.group = 40, fits(spec)) groups = {"any, the last may be short"};
  if (QuantSpec spec = base; spec.group = QuantSpec::kWholeRow, fits(spec)) groups.emplace_back("row");
  if (QuantSpec spec = base; spec.group = QuantSpec::kWholeRow, spec.per_tensor = true, fits(spec))
    groups.emplace_back("tensor");
  for (const Grid grid : {Grid::kNF4, Grid::kFP4, Grid::kFP4Bnb}) {
    if (fits({.bits = 4, .group = 64, .grid = grid})) grids.push_back(cat(name(grid)));
  }
  if (fits({.bits = 8, .group = QuantSpec::kWholeRow, .grid = Grid::kFP8})) grids.push_back("fp8");
  if (fits({.bits = 4, .group = 32, .symmetric = false, .mins = true})) grids.push_back("minima");
  const auto mark = [&](const std::function<void(OutputTensor&)>& change) {
    for (const QuantSpec& spec : {base, QuantSpec{.bits = 8, .group = QuantSpec::kWholeRow}}) {
      OutputTensor tensor = linear(format, spec);
      change(tensor);
      if (holds(format, tensor)) return "yes";
    }
    return "no";
  };
  std::string inputs;
  for (const auto& [mode, word] : {std::pair(ActivationSpec::Mode::kDynamicPerToken, "dynamic"),
                                   std::pair(ActivationSpec::Mode::kStatic, "static")})
    if (mark([&, mode = mode](OutputTensor& tensor) { tensor.activations.mode = mode; }) == std::string("yes"))
      inputs += cat(inputs.empty() ? "" : " ", word);
  if (inputs.empty()) inputs = "no";
  const auto table = [](std::string tensor_name, TensorRole role) {
    return [=](OutputTensor& tensor) { tensor.name = tensor_name, tensor.role = role; };
  };
  return cat("| `", format.name, "` | ", bits(true), " | ", bits(false), " | ", list(groups), " | ", list(grids), " | ",
             inputs, " | ", mark([](OutputTensor& tensor) { tensor.grouped_columns = true; }), " | ",
             mark(table("model.embed_tokens.weight", TensorRole::kEmbedding)), " | ",
             mark(table("lm_head.weight", TensorRole::kLmHead)), " |\n");
}

std::string legality_table() {
  std::string text =
      "| format | bits, symmetric | bits, asymmetric | groups | other grids | quantized inputs | act-order | embedding "
      "| "
      "lm_head |\n|---|---|---|---|---|---|---|---|---|\n";
  for (const ExporterEntry& format : exporters())
    if (format.keeps_codes) text += row(format);
  return text;
}

TEST(Legality, DocsSayWhatTheExportersCheck) {
  const std::filesystem::path file = std::filesystem::path(NIBBLE_TEST_DATA) / "../../docs/formats.md";
  std::string docs = read_text_file(file);
  const size_t begin = docs.find(kBegin), end = docs.find(kEnd);
  ASSERT_NE(begin, std::string::npos) << "docs/formats.md has lost its marker: " << kBegin;
  ASSERT_NE(end, std::string::npos) << "docs/formats.md has lost its marker: " << kEnd;
  const size_t from = begin + kBegin.size();
  const std::string table = legality_table();
  if (std::getenv("NIBBLE_UPDATE_DOCS") != nullptr) {
    docs.replace(from, end - from, table);
    std::ofstream(file, std::ios::binary) << docs;
    return;
  }
  EXPECT_EQ(docs.substr(from, end - from), table)
      << "docs/formats.md is stale: run NIBBLE_UPDATE_DOCS=1 export_test --gtest_filter='Legality.*'";
}

TEST(Legality, RefusalsNameTheTensorAndAWayOut) {
  for (const ExporterEntry& format : exporters())
    for (const QuantSpec& spec :
         {QuantSpec{.bits = 5, .group = 32}, QuantSpec{.bits = 4, .group = 40},
          QuantSpec{.bits = 4, .grid = Grid::kNF4}, QuantSpec{.bits = 8, .group = 0, .per_tensor = true},
          QuantSpec{.bits = 1, .group = 64}}) {
      try {
        format.check(linear(format, spec));
      } catch (const Error& error) {
        const std::string text = error.what();
        EXPECT_EQ(error.kind(), ErrorKind::kUsage) << text;
        EXPECT_TRUE(text.starts_with("model.layers.0.mlp.up_proj.weight: ")) << text;
        EXPECT_NE(text.find("try "), std::string::npos) << text;
      }
    }
}

}  // namespace
}  // namespace nibble
