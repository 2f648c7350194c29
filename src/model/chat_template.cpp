#include "model/chat_template.h"

#include "core/text.h"
#include "model/jinja_interpreter.h"
#include "model/jinja_parser.h"

namespace nibble {
namespace {

// Far above what rendering a conversation takes; about a second of work for a template that would not end.
constexpr size_t kBudget = 30'000'000;

jinja::Value checked_text(const std::string& text, std::string_view what) {
  if (const size_t bad = find_invalid_utf8(text); bad != std::string_view::npos)
    throw Error(ErrorKind::kUsage, cat(what, " is not UTF-8 at byte ", bad));
  return jinja::Value(text);
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::string_view jinja) : impl_(std::make_unique<Impl>()) {
  with_context([] { return "chat template"; }, [&] { impl_->body = jinja::parse(jinja); });
}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::string ChatTemplate::render(const std::vector<ChatMessage>& messages, bool add_generation_prompt,
                                 const Json& variables) const {
  using jinja::Value;
  jinja::Budget budget(kBudget);
  std::vector<Value> list;
  for (const ChatMessage& message : messages) {
    std::vector<std::pair<Value, Value>> entries;
    entries.emplace_back(Value(std::string("role")), checked_text(message.role, "the role of a message"));
    entries.emplace_back(Value(std::string("content")),
                         checked_text(message.content, cat("the ", message.role, "'s message")));
    list.push_back(jinja::make_dict(std::move(entries), budget));
  }
  // The names that transformers always passes, tools and documents included.
  std::map<std::string, Value, std::less<>> names;
  names["messages"] = jinja::make_list(std::move(list));
  names["tools"] = Value(jinja::None{});
  names["documents"] = Value(jinja::None{});
  names["add_generation_prompt"] = Value(add_generation_prompt);
  for (const auto& [name, value] : variables.items()) names[name] = jinja::from_json(value, budget);
  return with_context([] { return "chat template"; },
                      [&] { return jinja::Interpreter(budget, std::move(names)).run(impl_->body); });
}

}  // namespace nibble
