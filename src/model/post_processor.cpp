#include "model/post_processor.h"

#include "core/checked.h"

namespace nibble {
namespace {

std::vector<TokenId> template_ids(const Json& special_tokens, const std::string& name) {
  return with_context([&] { return cat("special_tokens['", name, "']"); },
                      [&] {
                        const Json& ids = get(get(special_tokens, name), "ids");
                        if (!ids.is_array()) throw Error(ErrorKind::kCorrupt, "'ids' should be an array");
                        std::vector<TokenId> out;
                        for (const Json& id : ids) {
                          if (!id.is_number_integer()) throw Error(ErrorKind::kCorrupt, "'ids' should hold integers");
                          out.push_back(checked_cast<TokenId>(id.get<int64_t>(), "id"));
                        }
                        return out;
                      });
}

PostProcessor make_template(const Json& description) {
  const Json& pieces = get(description, "single");
  if (!pieces.is_array()) throw Error(ErrorKind::kCorrupt, "'single' should be an array");
  PostProcessor result;
  bool seen_text = false;
  for (const Json& piece : pieces) {
    if (const Json* sequence = find(piece, "Sequence")) {
      if (seen_text || get_string(*sequence, "id") != "A")
        throw Error(ErrorKind::kUnsupported, "a template that does not hold sequence A exactly once is not supported");
      seen_text = true;
    } else {
      const auto ids = template_ids(get(description, "special_tokens"), get_string(get(piece, "SpecialToken"), "id"));
      auto& side = seen_text ? result.after : result.before;
      side.insert(side.end(), ids.begin(), ids.end());
    }
  }
  if (!seen_text) throw Error(ErrorKind::kUnsupported, "a template without sequence A is not supported");
  return result;
}

// ["[SEP]", 102]
TokenId pair_id(const Json& description, std::string_view key) {
  const Json& pair = get(description, key);
  if (!pair.is_array() || pair.size() != 2 || !pair[1].is_number_integer())
    throw Error(ErrorKind::kCorrupt, cat("'", key, "' should be [token, id]"));
  return checked_cast<TokenId>(pair[1].get<int64_t>(), key);
}

}  // namespace

PostProcessor make_post_processor(const Json& description) {
  const std::string type = get_string(description, "type");
  return with_context([&] { return cat("post_processor ", type); },
                      [&]() -> PostProcessor {
                        if (type == "ByteLevel") return {};
                        if (type == "TemplateProcessing") return make_template(description);
                        if (type == "BertProcessing" || type == "RobertaProcessing")
                          return {{pair_id(description, "cls")}, {pair_id(description, "sep")}};
                        if (type == "Sequence") {
                          const Json& steps = get(description, "processors");
                          if (!steps.is_array()) throw Error(ErrorKind::kCorrupt, "'processors' should be an array");
                          PostProcessor all;
                          for (const Json& step : steps) {
                            const PostProcessor one = make_post_processor(step);
                            all.before.insert(all.before.begin(), one.before.begin(), one.before.end());
                            all.after.insert(all.after.end(), one.after.begin(), one.after.end());
                          }
                          return all;
                        }
                        throw Error(ErrorKind::kUnsupported, "this type is not supported");
                      });
}

}  // namespace nibble
