#include "model/bpe_from_json.h"

#include <cmath>
#include <limits>

namespace nibble {
namespace {

Bpe::Merge parse_merge(const Json& merge, size_t index) {
  const auto wrong = [&] {
    return Error(ErrorKind::kCorrupt, cat("merges[", index, "] should be \"LEFT RIGHT\" or [LEFT, RIGHT]"));
  };
  if (merge.is_array()) {
    if (merge.size() != 2 || !merge[0].is_string() || !merge[1].is_string()) throw wrong();
    return {merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>()};
  }
  if (!merge.is_string()) throw wrong();
  const std::string_view text = merge.get_ref<const std::string&>();
  const size_t space = text.find(' ');
  if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) throw wrong();
  return {text.substr(0, space), text.substr(space + 1)};
}

std::vector<float> parse_scores(const Json& scores, size_t size) {
  if (!scores.is_array() || scores.size() != size)
    throw Error(ErrorKind::kCorrupt, cat("'scores' should be an array of ", size, " numbers, one for each id"));
  std::vector<float> out;
  out.reserve(size);
  for (const Json& score : scores) {
    if (!score.is_number() && !score.is_null())
      throw Error(ErrorKind::kCorrupt, "'scores' should hold numbers or null");
    out.push_back(score.is_null() ? std::numeric_limits<float>::quiet_NaN() : score.get<float>());
  }
  return out;
}

}  // namespace

TokenTable vocabulary_from_json(const Json& model) {
  // Files older than the field are BPE if they have merges.
  const std::string type = find_string(model, "type").value_or(find(model, "merges") ? "BPE" : "without a type");
  if (type != "BPE")
    throw Error(
        ErrorKind::kUnsupported,
        cat("tokenizer model ", type, " is not supported, only BPE; use the model's tokenizer.model if it has one"));
  const Json& vocab = get(model, "vocab");
  if (!vocab.is_object())
    throw Error(ErrorKind::kCorrupt, cat("'vocab' should be an object, found ", vocab.type_name()));
  TokenTable table(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    if (!id.is_number_integer() || (id.is_number_unsigned() && id.get<uint64_t>() > INT64_MAX))
      throw Error(ErrorKind::kCorrupt, cat("the id of token '", token, "' should be an integer"));
    table.add(token, id.get<int64_t>());
  }
  return table;
}

Bpe bpe_from_json(const Json& model, const TokenTable& vocab) {
  if (find_number(model, "dropout").value_or(0) != 0)
    throw Error(ErrorKind::kUnsupported, "BPE dropout is not supported: it makes the tokens random");
  BpeOptions options;
  options.unk_token = find_string(model, "unk_token");
  options.fuse_unk = find_bool(model, "fuse_unk").value_or(false);
  options.byte_fallback = find_bool(model, "byte_fallback").value_or(false);
  options.ignore_merges = find_bool(model, "ignore_merges").value_or(false);
  options.continuing_subword_prefix = find_string(model, "continuing_subword_prefix").value_or("");
  options.end_of_word_suffix = find_string(model, "end_of_word_suffix").value_or("");
  if (const Json* scores = find(model, "scores"))
    return Bpe::from_scores(vocab, parse_scores(*scores, vocab.size()), std::move(options));

  const Json& list = get(model, "merges");
  if (!list.is_array()) throw Error(ErrorKind::kCorrupt, cat("'merges' should be an array, found ", list.type_name()));
  std::vector<Bpe::Merge> merges;
  merges.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const bool header = list[i].is_string() && list[i].get_ref<const std::string&>().starts_with("#version");
    if (!header) merges.push_back(parse_merge(list[i], i));
  }
  return Bpe::from_merges(vocab, merges, std::move(options));
}

}  // namespace nibble
