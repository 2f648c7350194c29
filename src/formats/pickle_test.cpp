#include "formats/pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/random.h"
#include "core/test_errors.h"
#include "formats/test_damage.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using Kind = PickleValue::Kind;
using namespace std::string_literals;

bool known(std::string_view name) { return name == "collections.OrderedDict"; }
Pickle parse(const std::string& text) { return parse_pickle(std::as_bytes(std::span(text)), known); }
std::string error(const std::string& text) {
  return error_text([&] { parse(text); });
}

// pickle.dumps((None, True, False, 1, 300, 70000, -5, 1 << 40, -(1 << 40), 2.5, "a\u00e9"), 2)
const std::string kScalars =
    "\x80\x02(N\x88\x89K\x01M,"
    "\x01Jp\x11\x01\x00J\xfb\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x01\x8a\x06\x00\x00\x00\x00\x00\xff"
    "G@\x04\x00\x00\x00\x00\x00\x00X\x03\x00\x00\x00"
    "a\xc3\xa9"
    "tq\x00."s;

TEST(Pickle, ReadsScalars) {
  const Pickle p = parse(kScalars);
  EXPECT_EQ(p.size, kScalars.size());
  const auto& items = p[p.root].items;
  ASSERT_EQ(items.size(), 11u);
  EXPECT_EQ(p[items[0]].kind, Kind::kNone);
  EXPECT_EQ(p[items[1]].integer, 1);
  EXPECT_EQ(p[items[2]].kind, Kind::kBool);
  const int64_t numbers[] = {1, 300, 70000, -5, int64_t{1} << 40, -(int64_t{1} << 40)};
  for (size_t i = 0; i < 6; ++i) EXPECT_EQ(p[items[3 + i]].integer, numbers[i]) << i;
  EXPECT_EQ(p[items[9]].real, 2.5);
  EXPECT_EQ(p[items[10]].text, "a\xc3\xa9");
}

// pickle.dumps(OrderedDict(a=[1, 1], b=()), 4), and what sets attributes of it.
TEST(Pickle, CallsAreData) {
  const std::string text =
      "\x80\x04\x95\x35\x00\x00\x00\x00\x00\x00\x00\x8c\x0b"
      "collections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94"
      "(\x8c\x01"
      "a\x94]\x94(K\x01K\x01"
      "e\x8c\x01"
      "b\x94)u}b."s;
  const Pickle p = parse(text);
  const PickleValue& root = p[p.root];
  ASSERT_EQ(root.kind, Kind::kCall);
  ASSERT_EQ(root.items.size(), 6u);
  EXPECT_EQ(p[root.items[0]].text, "collections.OrderedDict");
  EXPECT_EQ(p[root.items[2]].text, "a");
  EXPECT_EQ(p[root.items[3]].items.size(), 2u);
  EXPECT_EQ(p[root.items[5]].kind, Kind::kTuple);
}

TEST(Pickle, RefusesGlobalsByName) {
  EXPECT_THAT(error("\x80\x02"
                    "cos\nsystem\nX\x02\x00\x00\x00ls\x85R."s),
              HasSubstr("it asks for 'os.system'"));
  EXPECT_THAT(error("\x80\x04\x8c\x08"
                    "builtins\x8c\x04"
                    "eval\x93."s),
              HasSubstr("it asks for 'builtins.eval'"));
  EXPECT_EQ(error_kind([] {
              parse(
                  "\x80\x02"
                  "cos\nsystem\n."s);
            }),
            ErrorKind::kUnsupported);
}

TEST(Pickle, RefusesWhatIsNoPickle) {
  EXPECT_THAT(error(""), HasSubstr("it ends where 1 bytes should follow"));
  EXPECT_THAT(error("\x80\x01N."s), HasSubstr("protocol 1"));
  EXPECT_THAT(error("\x80\x02i."s), HasSubstr("opcode 0x69"));
  EXPECT_THAT(error("\x80\x02."s), HasSubstr("0 values are left"));
  EXPECT_THAT(error("\x80\x02NN."s), HasSubstr("2 values are left"));
  EXPECT_THAT(error("\x80\x02Nt."s), HasSubstr("a mark is missing"));
  EXPECT_THAT(error("\x80\x02(R."s), HasSubstr("a value is missing"));
  EXPECT_THAT(error("\x80\x02N)R."s), HasSubstr("only a function can be called"));
  EXPECT_THAT(error("\x80\x02NNa."s), HasSubstr("only a list"));
  EXPECT_THAT(error("\x80\x02}(Nu."s), HasSubstr("a key has no value"));
  EXPECT_THAT(error("\x80\x02h\x07."s), HasSubstr("recalls value 7"));
  EXPECT_THAT(error("\x80\x02X\xff\xff\xff\xff"
                    "a"s),
              HasSubstr("it ends where 4294967295 bytes"));
  EXPECT_THAT(error("\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                    "a"s),
              HasSubstr("it ends where"));
  EXPECT_THAT(error("\x80\x02NNb."s), HasSubstr("only an object"));
}

// A list that holds itself is a value like others.
TEST(Pickle, CyclesAreIndices) {
  const Pickle p = parse(
      "\x80\x02]q\x00h\x00"
      "a."s);
  EXPECT_EQ(p[p.root].items, std::vector<uint32_t>{p.root});
}

TEST(Pickle, TruncatedAndRandomInputIsRefused) {
  const auto take = [](std::span<const std::byte> bytes) { parse_pickle(bytes, known); };
  for (size_t size = 0; size < kScalars.size(); ++size)
    EXPECT_FALSE(accepted(take, std::as_bytes(std::span(kScalars)).first(size))) << size;
  accepted_bit_flips(take, std::as_bytes(std::span(kScalars)));
  Random random(3);
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> bytes(40);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random.uniform() * 256);
    accepted(take, bytes);
  }
}

TEST(Pickle, WriterAndReaderAgree) {
  PickleWriter writer;
  writer.opcode('(');
  for (const uint64_t value :
       {uint64_t{0}, uint64_t{255}, uint64_t{256}, uint64_t{0x7fffffff}, uint64_t{0x80000000}, uint64_t{1} << 62})
    writer.integer(value);
  writer.text("name");
  writer.remember(5);
  writer.recall(5);
  writer.boolean(true);
  const size_t extents[] = {2, 3};
  writer.tuple(extents);
  writer.global("collections", "OrderedDict");
  writer.opcode('t');
  const Pickle p = parse(writer.finish());
  const auto& items = p[p.root].items;
  ASSERT_EQ(items.size(), 11u);
  EXPECT_EQ(p[items[4]].integer, 0x80000000);
  EXPECT_EQ(p[items[5]].integer, int64_t{1} << 62);
  EXPECT_EQ(items[6], items[7]);
  EXPECT_EQ(p[items[8]].integer, 1);
  EXPECT_EQ(p[items[9]].items.size(), 2u);
  EXPECT_EQ(p[items[10]].text, "collections.OrderedDict");
}

}  // namespace
}  // namespace nibble
