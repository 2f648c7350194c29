#include "model/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "core/random.h"

namespace nibble {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

// Rendered by Python's jinja2 (tests/data/chat/make_goldens.py).
Json goldens() { return read_json_file(std::filesystem::path(NIBBLE_TEST_DATA) / "chat" / "goldens.json"); }

std::vector<ChatMessage> messages_of(const Json& golden) {
  std::vector<ChatMessage> messages;
  for (const Json& message : get(golden, "messages"))
    messages.push_back({get_string(message, "role"), get_string(message, "content")});
  return messages;
}

std::string render_golden(const Json& golden) {
  const bool add = *find_bool(golden, "add_generation_prompt");
  return ChatTemplate(get_string(golden, "template")).render(messages_of(golden), add, get(golden, "variables"));
}

std::string render(const std::string& jinja, const Json& variables = Json::object()) {
  return ChatTemplate(jinja).render({{"user", "Hi"}}, true, variables);
}

std::string failure(const std::string& jinja, ErrorKind kind) {
  try {
    return "rendered: " + render(jinja);
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    return error.what();
  }
}

TEST(ChatTemplate, RendersWhatJinjaRenders) {
  size_t texts = 0;
  for (const Json& golden : goldens()) {
    const auto want = find_string(golden, "text");
    if (!want) continue;
    ++texts;
    try {
      EXPECT_EQ(render_golden(golden), *want) << get_string(golden, "name");
    } catch (const Error& error) {
      ADD_FAILURE() << get_string(golden, "name") << ": " << error.what();
    }
  }
  EXPECT_GE(texts, 100u);
}

TEST(ChatTemplate, FailsWhereJinjaFails) {
  size_t errors = 0;
  for (const Json& golden : goldens()) {
    if (find_string(golden, "text")) continue;
    ++errors;
    EXPECT_THROW(render_golden(golden), Error) << get_string(golden, "name");
  }
  EXPECT_GE(errors, 30u);
}

TEST(ChatTemplate, ErrorsNameThePlace) {
  EXPECT_EQ(failure("a\n  {% frobnicate %}", ErrorKind::kUnsupported),
            "chat template: line 2 column 6: the statement 'frobnicate' is not known");
  EXPECT_EQ(failure("é{{ 1 | nope }}", ErrorKind::kUnsupported),
            "chat template: line 1 column 7: the filter 'nope' is not known");
  EXPECT_EQ(failure("{{ 1 is nope }}", ErrorKind::kUnsupported),
            "chat template: line 1 column 6: the test 'nope' is not known");
  EXPECT_THAT(failure("\n\n{{ nope(1) }}", ErrorKind::kUnsupported),
              StartsWith("chat template: line 3 column 8: 'nope' is called"));
  EXPECT_THAT(failure("{{ x.y }}", ErrorKind::kCorrupt), HasSubstr("'x' is undefined"));
  EXPECT_THAT(failure("{{ raise_exception('no system role') }}", ErrorKind::kUsage), HasSubstr("no system role"));
  EXPECT_THAT(failure("{% for x in y recursive %}{% endfor %}", ErrorKind::kUnsupported), HasSubstr("recursive loops"));
  EXPECT_THAT(failure("{{ f(*a) }}", ErrorKind::kUnsupported), HasSubstr("arguments given by *"));
  EXPECT_THAT(failure("{{ '%s' % 1 }}", ErrorKind::kUnsupported), HasSubstr("formatting with %"));
  EXPECT_THAT(failure("{{ [].append(1) }}", ErrorKind::kUnsupported), HasSubstr("'append'"));
}

TEST(ChatTemplate, RefusesTextThatIsNotUtf8) {
  EXPECT_THROW(ChatTemplate("a\xff"), Error);
  EXPECT_THROW(ChatTemplate("{{ messages[0].content }}").render({{"user", "\xc3"}}, true, Json::object()), Error);
}

TEST(ChatTemplate, KnowsTheDate) {
  const std::string year = render("{{ strftime_now('%Y') }}");
  EXPECT_EQ(year.size(), 4u);
  EXPECT_GE(year, "2024");
}

TEST(ChatTemplate, IsReusable) {
  const ChatTemplate chat(
      "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}");
  EXPECT_EQ(chat.render({{"user", "a"}}, true, Json::object()), "1");
  EXPECT_EQ(chat.render({{"user", "a"}, {"user", "b"}}, true, Json::object()), "2");
}

// Each of these would take for ever, fill the memory or the stack.
TEST(ChatTemplate, LimitsHostileTemplates) {
  const std::string many(100000, '(');
  std::string sum = "{{ 1";
  for (int i = 0; i < 100000; ++i) sum += "+1";
  std::string ifs;
  for (int i = 0; i < 10000; ++i) ifs += "{% if 1 %}";
  const std::string hostile[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
      "{% set ns = namespace(s=['ab']) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{{ 'a' * 1000000000000 }}",
      "{{ ['a'] * 1000000000000 }}",
      "{{ 'a' * 9223372036854775807 }}",
      "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% set ns.l = [ns.l] %}{% endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% for x in [ns.l] %}{% set ns.l = loop %}{% endfor "
      "%}{% endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(90000) %}{% set ns.l = [ns.l].index %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == ns.l "
      "+ [] }}{{ ns.l | tojson }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro m(f) %}{{ f(f) }}{% endmacro %}{{ m(m) }}",
      "{% set x = 'ab' * 1000000 %}{% for i in range(99999) %}{% if x.count('z') %}{% endif %}{% endfor %}",
      "{% set x = 'ab' * 1000000 %}{% for i in range(99999) %}{{ x | replace('a', x) }}{% endfor %}",
      "{{ (range(9999) | join(' ' * 99999)) | length }}",
      "{{ " + many,
      "{{ " + many + "1" + std::string(100000, ')') + " }}",
      "{{ " + std::string(100000, '[') + std::string(100000, ']') + " }}",
      "{{ " + std::string(100000, '-') + "1 }}",
      sum + " }}",
      ifs,
      "{{ 9223372036854775807 + 1 }}",
      "{{ 10 ** 1000 }}",
      "{{ 99999999999999999999 }}",
      std::string(2 << 20, 'a'),
  };
  for (const std::string& jinja : hostile) {
    try {
      render(jinja);
      ADD_FAILURE() << "rendered: " << jinja.substr(0, 200);
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == ErrorKind::kUnsupported || error.kind() == ErrorKind::kCorrupt) << error.what();
    }
  }
}

TEST(ChatTemplate, FreesKnotsOfScopesAndNamespaces) {
  // LeakSanitizer watches: a namespace that holds itself, a macro in its own scope, chains of namespaces.
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.self = ns %}{% macro m(x) %}{{ x }}{% endmacro %}{% set ns.m = "
                   "m %}{{ ns.self.m('k') }}"),
            "k");
  EXPECT_EQ(render("{% set ns = namespace(n=none) %}{% for i in range(20000) %}{% set ns.n = namespace(n=ns.n) %}{% "
                   "endfor %}ok"),
            "ok");
}

TEST(ChatTemplate, RecursesAsDeepAsSchemasDo) {
  EXPECT_EQ(render("{% macro m(n) %}{% if n > 0 %}({{ m(n - 1) }}){% endif %}{% endmacro %}{{ m(30) }}"),
            std::string(30, '(') + std::string(30, ')'));
}

// Whatever the bytes, the result is text or an Error.
void survive(const std::vector<char>& bytes) {
  try {
    const ChatTemplate chat(std::string_view(bytes.data(), bytes.size()));
    chat.render({{"user", "Hi"}, {"assistant", "Yo"}}, true, {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
  } catch (const Error&) {
  }
}

TEST(ChatTemplate, SurvivesTruncation) {
  std::string last;
  for (const Json& golden : goldens()) {
    const std::string jinja = get_string(golden, "template");
    if (jinja == last) continue;
    last = jinja;
    for (size_t n = 0; n < jinja.size(); ++n) survive({jinja.begin(), jinja.begin() + static_cast<std::ptrdiff_t>(n)});
  }
}

TEST(ChatTemplate, SurvivesMutation) {
  std::vector<std::string> corpus;
  for (const Json& golden : goldens()) {
    const std::string jinja = get_string(golden, "template");
    if (corpus.empty() || corpus.back() != jinja) corpus.push_back(jinja);
  }
  Random random(1);
  const auto below = [&](size_t n) { return static_cast<size_t>(random.next() % n); };
  for (int round = 0; round < 4000; ++round) {
    std::string jinja = corpus[below(corpus.size())];
    for (size_t k = 0; k <= below(4); ++k) {
      const std::string& other = corpus[below(corpus.size())];
      const size_t at = below(jinja.size()), from = below(other.size());
      switch (below(4)) {
        case 0:
          jinja[at] = static_cast<char>(below(128));
          break;
        case 1:
          jinja.erase(at, 1 + below(8));
          break;
        case 2:
          jinja.insert(at, other, from, 1 + below(20));
          break;
        default:
          jinja.replace(at, 1 + below(4), other, from, 1 + below(4));
          break;
      }
      if (jinja.empty()) jinja.assign(1, 'x');
    }
    survive({jinja.begin(), jinja.end()});
  }
}

}  // namespace
}  // namespace nibble
