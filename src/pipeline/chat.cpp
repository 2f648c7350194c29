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

}  // namespace

ChatFormat::ChatFormat(const Source& source, const Tokenizer& tokenizer)
    : tokenizer_(tokenizer),
      template_(
          with_context([&] { return source.path().string(); }, [&] { return ChatTemplate(find_template(source)); })),
      variables_(special_tokens(source, tokenizer)) {}

std::vector<TokenId> ChatFormat::encode(const std::vector<ChatMessage>& messages) const {
  return tokenizer_.encode(template_.render(messages, /*add_generation_prompt=*/true, variables_),
                           /*add_special=*/false);
}

std::vector<TokenId> eos_tokens(const Source& source, const Tokenizer* tokenizer) {
  std::vector<TokenId> ids;
  const std::string path = source.path().string();
  add_ids(source.config(), cat(path, ": config.json"), ids);
  add_ids(side_json(source, "generation_config.json"), cat(path, ": generation_config.json"), ids);
  if (tokenizer)
    if (const Json config = side_json(source, "tokenizer_config.json"); const Json* value = find(config, "eos_token"))
      if (const auto text = token_text(*value))
        if (const auto id = tokenizer->find(*text)) ids.push_back(*id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace nibble
