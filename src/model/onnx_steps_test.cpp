#include "model/onnx_steps.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "core/files.h"
#include "formats/onnx_test_model.h"
#include "model/onnx_step_runner.h"

namespace nibble {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

// Two products that read x, what is made of both, a third product, and one behind it; a mask that all need.
struct Sample {
  onnx::ModelProto model = empty_onnx();
  std::shared_ptr<const OnnxModel> parsed;
  std::string bytes;

  Sample() {
    for (const char* input : {"in", "mask"}) model.mutable_graph()->add_input()->set_name(input);
    for (const char* name : {"wq", "wk", "wo", "last"}) add_floats(model, name, {2, 2}, {1, 2, 3, 4});
    add_node(model, "Relu", "relu", {"in"}, {"x"});                  // 0
    add_node(model, "Not", "not", {"mask"}, {"hidden"});             // 1
    add_node(model, "Transpose", "turn", {"wk"}, {"wk_t"});          // 2
    add_node(model, "MatMul", "q", {"x", "wq"}, {"q"});              // 3
    add_node(model, "MatMul", "k", {"x", "wk_t"}, {"k"});            // 4
    add_node(model, "Where", "where", {"hidden", "q", "k"}, {"y"});  // 5
    add_node(model, "MatMul", "o", {"y", "wo"}, {"z"});              // 6
    add_node(model, "Where", "again", {"hidden", "z", "x"}, {"u"});  // 7
    add_node(model, "MatMul", "last", {"u", "last"}, {"out"});       // 8
    model.mutable_graph()->add_output()->set_name("out");
  }

  std::vector<OnnxStep> cut(const std::set<int>& cuts, const std::set<std::string>& wanted) {
    bytes = model.SerializeAsString();
    parsed = OnnxModel::parse(bytes_of(bytes), nullptr);
    return cut_onnx(parsed->graph(), OnnxGraphIndex(parsed->graph()), cuts, wanted);
  }
};

std::vector<std::string> names(const OnnxStep& step) {
  std::vector<std::string> found;
  for (const auto& [name, tensor] : step.constants) found.push_back(name);
  return found;
}

TEST(OnnxSteps, ProductsRunOneStepAfterTheirInputs) {
  Sample sample;
  const auto steps = sample.cut({3, 4, 6, 8}, {"x", "y", "u"});
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_THAT(steps[0].nodes, ElementsAre(0, 1));
  EXPECT_THAT(steps[0].inputs, UnorderedElementsAre("in", "mask"));
  EXPECT_THAT(steps[0].outputs, UnorderedElementsAre("x", "hidden"));
  EXPECT_THAT(steps[0].wanted, ElementsAre("x"));
  EXPECT_THAT(names(steps[0]), IsEmpty());
  // The Transpose of a constant runs where it is read.
  EXPECT_THAT(steps[1].nodes, ElementsAre(2, 3, 4, 5));
  EXPECT_THAT(steps[1].inputs, UnorderedElementsAre("hidden", "x"));
  EXPECT_THAT(steps[1].outputs, ElementsAre("y"));
  EXPECT_THAT(names(steps[1]), UnorderedElementsAre("wk", "wq"));
  EXPECT_THAT(steps[2].nodes, ElementsAre(6, 7));
  EXPECT_THAT(steps[2].inputs, UnorderedElementsAre("hidden", "x", "y"));
  EXPECT_THAT(steps[2].last, UnorderedElementsAre("hidden", "x", "y", "u"));
  EXPECT_THAT(names(steps[2]), ElementsAre("wo"));  // nobody wants what the last product makes
}

TEST(OnnxSteps, WhatNobodyNeedsIsLeftOut) {
  Sample sample;
  const auto steps = sample.cut({3, 4, 6}, {"in"});
  ASSERT_EQ(steps.size(), 1u);
  EXPECT_THAT(steps[0].nodes, IsEmpty());
  EXPECT_THAT(steps[0].wanted, ElementsAre("in"));
}

TEST(OnnxSteps, NodesNeedNotBeInOrder) {
  Sample sample;
  sample.model.mutable_graph()->mutable_node()->SwapElements(0, 7);
  const auto steps = sample.cut({3, 4, 6, 8}, {"u"});
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_THAT(steps[0].nodes, UnorderedElementsAre(7, 1));
  EXPECT_THAT(steps[2].nodes, ElementsAre(6, 0));
}

TEST(OnnxSteps, RandomNodesRunOnce) {
  Sample sample;
  add_node(sample.model, "RandomNormal", "random", {}, {"noise"});
  add_node(sample.model, "Add", "add", {"z", "noise"}, {"noisy"});
  add_node(sample.model, "Add", "before", {"x", "noise"}, {"also"});
  const auto steps = sample.cut({3, 4, 6}, {"noisy", "also"});
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_THAT(steps[0].outputs, testing::Contains("noise"));
  EXPECT_THAT(steps[2].inputs, testing::Contains("noise"));
}

TEST(OnnxSteps, GraphsInsideOfNodesReadValuesToo) {
  Sample sample;
  onnx::GraphProto& inside = add_branch(sample.model, "mask", "chosen");
  add_node(inside, "Add", {"x", "z"}, {"sum"});
  inside.add_output()->set_name("sum");
  const auto steps = sample.cut({3, 4, 6}, {"chosen"});
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_THAT(steps[2].nodes, ElementsAre(6, 9));
  EXPECT_THAT(steps[2].inputs, UnorderedElementsAre("mask", "x", "y"));
}

TEST(OnnxSteps, UnknownValuesAreRefused) {
  Sample sample;
  EXPECT_THROW(sample.cut({}, {"nothing"}), Error);
}

OnnxTensor tensor(const std::vector<float>& values) {
  return {onnx_type::kFloat, {values.size()}, std::as_bytes(std::span(values)), nullptr, false};
}

TEST(OnnxValueStore, WhatDoesNotFitGoesToFiles) {
  const TemporaryFolder folder;
  const auto files = [&] {
    return std::distance(std::filesystem::directory_iterator(folder.path()), std::filesystem::directory_iterator());
  };
  const std::vector<float> first(100, 1.0f), second(100, 2.0f), none;
  {
    OnnxValueStore store(folder.path(), 500);
    store.put(0, "x", tensor(first));
    EXPECT_EQ(files(), 0);
    store.put(1, "x", tensor(second));
    EXPECT_EQ(files(), 1);
    store.put(2, "x", tensor(none));
    EXPECT_EQ(store.memory_used(), 400u);
    for (const auto& [sample, values] : {std::pair(0u, &first), std::pair(1u, &second), std::pair(2u, &none)}) {
      const auto got = store.get(sample, "x");
      ASSERT_TRUE(got);
      EXPECT_THAT(got->shape, ElementsAre(values->size()));
      EXPECT_EQ(got->bytes.size(), values->size() * sizeof(float));
      EXPECT_TRUE(std::equal(got->bytes.begin(), got->bytes.end(), std::as_bytes(std::span(*values)).begin()));
    }
    EXPECT_FALSE(store.get(3, "x"));
    store.drop(0, "x");
    store.drop(1, "x");
    EXPECT_FALSE(store.get(1, "x"));
    EXPECT_EQ(files(), 0);
    store.put(0, "y", tensor(second));
    store.put(0, "z", tensor(second));
    EXPECT_EQ(files(), 1);
  }
  EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace nibble
