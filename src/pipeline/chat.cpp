#include "pipeline/chat.h"

#include <algorithm>

#include "core/checked.h"

namespace nibble {
namespace {

// A side file as JSON; an empty object when the model has no such file.
Json side_json(const Source& source, std::string_view name) {
  const std::vector<std::string> files = source.side_files();
  if (std::find(files.begin(), files.end(), name) == files.end()) return Json::object();
  const std::string where = cat(source.path().string(), ": ", name);
  Json json = parse_json(source.side_file(name), where);
  if (!json.is_object())
    throw Error(ErrorKind::kCorrupt, cat(where, ": should be a JSON object, found ", json.type_name()));
  return json;
}

// A special token as tokenizer_config.json writes it: its text, or an object with the text as "content".
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object()) return find_string(value, "content");
  return std::nullopt;
}

std::string find_template(const Source& source) {
  const std::vector<std::string> files = source.side_files();
  if (std::find(files.begin(), files.end(), "chat_template.jinja") != files.end())
    return source.side_file("chat_template.jinja");
  const Json config = side_json(source, "tokenizer_config.json");
  const Json* found = find(config, "chat_template");
  if (found && found->is_string()) return found->get<std::string>();
  if (found && found->is_array())
    for (const Json& entry : *found)
      if (get_string(entry, "name") == "default") return get_string(entry, "template");
  throw Error(ErrorKind::kUsage,
              cat(source.path().string(),
                  ": the model has no chat template, so it was not made for --chat; give a plain prompt with -p"));
}

Json special_tokens(const Source& source, const Tokenizer& tokenizer) {
  Json variables = Json::object();
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const Json config = side_json(source, file);
    for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
      if (const Json* value = find(config, key))
        if (const auto text = token_text(*value)) variables[key] = *text;
  }
  // Models without these names still have numbers.
  for (const auto& [key, id_key] : {std::pair("bos_token", "bos_token_id"), std::pair("eos_token", "eos_token_id")}) {
    if (variables.contains(key)) continue;
    const Json* value = find(source.config(), id_key);
    if (!value || value->is_array()) continue;  // of several end tokens none is the template's
    const auto id = find_size(source.config(), id_key);
    if (id && *id < tokenizer.vocab_size()) variables[key] = tokenizer.token(static_cast<TokenId>(*id));
  }
  return variables;
}

void add_ids(const Json& config, const std::string& where, std::vector<TokenId>& out) {
  const Json* value = find(config, "eos_token_id");
  if (!value) return;
  const auto add = [&](const Json& id) {
    if (!id.is_number_integer())
      throw Error(ErrorKind::kCorrupt,
                  cat(where, ": 'eos_token_id' should be an integer or a list of them, found ", id.type_name()));
    out.push_back(checked_cast<TokenId>(id.get<int64_t>(), cat(where, ": eos_token_id")));
  };
  if (value->is_array())
    for (const Json& id : *value) add(id);
  else
    add(*value);
}

std::optional<TokenId> tokenizer_eos(const Source& source, const Tokenizer& tokenizer) {
  const Json config = side_json(source, "tokenizer_config.json");
  const Json* value = find(config, "eos_token");
  const auto text = value ? token_text(*value) : std::nullopt;
  return text ? tokenizer.find(*text) : std::nullopt;
}

}  // namespace

ChatFormat::ChatFormat(const Source& source, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      template_(
          with_context([&] { return source.path().string(); }, [&] { return ChatTemplate(find_template(source)); })),
      variables_(special_tokens(source, tokenizer)) {}

std::vector<TokenId> ChatFormat::encode(const std::vector<ChatMessage>& messages, bool for_answer) const {
  return tokenizer_.encode(template_.render(messages, /*add_generation_prompt=*/for_answer, variables_),
                           /*add_special=*/false);
}

std::vector<TokenId> eos_tokens(const Source& source, const Tokenizer* tokenizer) {
  std::vector<TokenId> ids;
  const std::string path = source.path().string();
  add_ids(source.config(), cat(path, ": config.json"), ids);
  add_ids(side_json(source, "generation_config.json"), cat(path, ": generation_config.json"), ids);
  if (tokenizer)
    if (const auto id = tokenizer_eos(source, *tokenizer)) ids.push_back(*id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::optional<TokenId> text_end(const Source& source, const Tokenizer& tokenizer) {
  if (const auto id = tokenizer_eos(source, tokenizer)) return id;
  const std::string path = source.path().string();
  std::vector<TokenId> ids;
  if (!source.config().is_null()) add_ids(source.config(), cat(path, ": config.json"), ids);
  add_ids(side_json(source, "generation_config.json"), cat(path, ": generation_config.json"), ids);
  return ids.empty() ? std::nullopt : std::optional(ids.front());
}

BosChoice parse_bos_choice(std::string_view text) {
  if (text == "no") return BosChoice::kNo;
  if (text == "auto") return BosChoice::kAuto;
  if (text == "yes") return BosChoice::kYes;
  throw Error(ErrorKind::kUsage, cat("'", text, "' is not auto, yes or no"));
}

std::optional<TokenId> bos_token(BosChoice choice, const Source& source, const Tokenizer* tokenizer) {
  if (choice == BosChoice::kNo) return std::nullopt;
  if (tokenizer) {
    const std::vector<TokenId> with = tokenizer->encode("a", true), without = tokenizer->encode("a", false);
    if (!with.empty() && !without.empty() && with.front() != without.front()) return with.front();
  }
  if (choice == BosChoice::kAuto) return std::nullopt;
  if (const auto id = find_size(source.config(), "bos_token_id"))
    return checked_cast<TokenId>(*id, "config.json: bos_token_id");
  throw Error(ErrorKind::kUsage, "neither the tokenizer nor config.json names a BOS token");
}

}  // namespace nibble
