#include "model/gguf_tokenizer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "core/checked.h"
#include "core/text.h"
#include "model/gguf_pre_tokenizers.h"
#include "model/token_text.h"

namespace nibble {
namespace {

// tokenizer.ggml.token_type
enum TokenType : int64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

constexpr std::string_view kMark = "\xe2\x96\x81";  // U+2581, SentencePiece's space

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<int64_t> types;  // as many as tokens
  std::optional<size_t> bos, eos, unk, pad;
  std::set<size_t> special;  // control and unknown tokens, BOS, EOS and end-of-turn
};

std::optional<size_t> find_id(const Gguf& gguf, std::string_view name, size_t count) {
  const std::string key = cat("tokenizer.ggml.", name, "_token_id");
  const auto id = gguf.find_unsigned(key);
  if (!id) return std::nullopt;
  // Some writers store "none" as 2^32 - 1.
  if (*id == UINT32_MAX) return std::nullopt;
  if (*id >= count) throw Error(ErrorKind::kCorrupt, cat(key, " is ", *id, ", but there are ", count, " tokens"));
  return checked_cast<size_t>(*id, key);
}

Vocabulary read_vocabulary(const Gguf& gguf) {
  Vocabulary vocab;
  const auto* tokens = gguf.find_strings("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty()) throw Error(ErrorKind::kCorrupt, "tokenizer.ggml.tokens is missing or empty");
  std::set<std::string_view> seen;
  for (size_t i = 0; i < tokens->size(); ++i) {
    const std::string_view token = (*tokens)[i];
    if (find_invalid_utf8(token) != std::string_view::npos)
      throw Error(ErrorKind::kCorrupt, cat("tokenizer.ggml.tokens[", i, "] is not UTF-8"));
    if (!token.empty() && !seen.insert(token).second)
      throw Error(ErrorKind::kCorrupt, cat("tokenizer.ggml.tokens[", i, "] '", token, "' is there twice"));
    vocab.tokens.push_back(token.empty() ? cat("[EMPTY_", i, "]") : std::string(token));
  }
  const size_t count = vocab.tokens.size();
  const auto* types = gguf.find_integers("tokenizer.ggml.token_type");
  if (types && types->size() != count)
    throw Error(ErrorKind::kCorrupt,
                cat("tokenizer.ggml.token_type has ", types->size(), " entries for ", count, " tokens"));
  vocab.types = types ? *types : std::vector<int64_t>(count, kNormal);
  vocab.bos = find_id(gguf, "bos", count);
  vocab.eos = find_id(gguf, "eos", count);
  vocab.unk = find_id(gguf, "unknown", count);
  vocab.pad = find_id(gguf, "padding", count);
  for (const auto& id : {vocab.bos, vocab.eos, find_id(gguf, "eot", count)})
    if (id) vocab.special.insert(*id);
  for (size_t i = 0; i < count; ++i)
    if (vocab.types[i] == kControl || vocab.types[i] == kUnknown) vocab.special.insert(i);
  return vocab;
}

Json added_tokens(const Vocabulary& vocab) {
  Json list = Json::array();
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    const bool special = vocab.special.contains(i);
    if (!special && vocab.types[i] != kUserDefined) continue;
    list.push_back({{"id", i},
                    {"content", vocab.tokens[i]},
                    {"single_word", false},
                    {"lstrip", false},
                    {"rstrip", false},
                    {"normalized", false},
                    {"special", special}});
  }
  return list;
}

Json vocab_object(const Vocabulary& vocab) {
  Json object = Json::object();
  for (size_t i = 0; i < vocab.tokens.size(); ++i) object[vocab.tokens[i]] = i;
  return object;
}

// BOS before and EOS after the text, where the model wants them.
Json post_processor(const Vocabulary& vocab, bool add_bos, bool add_eos) {
  Json single = Json::array(), pair = Json::array(), specials = Json::object();
  const auto special = [&](size_t id, int type) {
    specials[vocab.tokens[id]] = {{"id", vocab.tokens[id]}, {"ids", {id}}, {"tokens", {vocab.tokens[id]}}};
    return Json{{"SpecialToken", {{"id", vocab.tokens[id]}, {"type_id", type}}}};
  };
  for (const int type : {0, 1}) {
    const auto add = [&](const Json& piece) {
      if (type == 0) single.push_back(piece);
      pair.push_back(piece);
    };
    if (add_bos && vocab.bos) add(special(*vocab.bos, type));
    add({{"Sequence", {{"id", type == 0 ? "A" : "B"}, {"type_id", type}}}});
    if (add_eos && vocab.eos) add(special(*vocab.eos, type));
  }
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", specials}};
}

Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

Json pre_tokenizer_json(const GgufPreTokenizer& pre) {
  Json steps = Json::array();
  const bool gpt2_last = pre.patterns.back() == kGpt2Pattern;
  for (size_t i = 0; i + (gpt2_last ? 1 : 0) < pre.patterns.size(); ++i)
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pre.patterns[i]}}}, {"behavior", "Isolated"}, {"invert", false}});
  steps.push_back(byte_level(gpt2_last));
  if (steps.size() == 1) return steps[0];
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

// "LEFT RIGHT"; the parts hold no spaces, except that LEFT may begin with one.
Json byte_level_merges(const Gguf& gguf) {
  const auto* merges = gguf.find_strings("tokenizer.ggml.merges");
  if (!merges) throw Error(ErrorKind::kCorrupt, "tokenizer.ggml.merges is missing");
  Json list = Json::array();
  std::set<std::string_view> seen;
  for (size_t i = 0; i < merges->size(); ++i) {
    const std::string_view merge = (*merges)[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size() ||
        find_invalid_utf8(merge) != std::string_view::npos)
      throw Error(ErrorKind::kCorrupt, cat("tokenizer.ggml.merges[", i, "] is not two tokens"));
    // Of a pair listed twice the first counts here; in tokenizer.json it would be the last.
    if (seen.insert(merge).second)
      list.push_back({std::string(merge.substr(0, space)), std::string(merge.substr(space + 1))});
  }
  return list;
}

Json byte_level_tokenizer(const Gguf& gguf, const Vocabulary& vocab) {
  const auto name = gguf.find_string("tokenizer.ggml.pre");
  if (!name)
    throw Error(ErrorKind::kUnsupported,
                "tokenizer.ggml.pre is missing, so how the text is cut into words is unknown; convert the model again");
  const GgufPreTokenizer* pre = find_gguf_pre_tokenizer(*name);
  if (!pre)
    throw Error(ErrorKind::kUnsupported, cat("pre-tokenizer '", *name, "' (tokenizer.ggml.pre) is not supported"));
  const bool add_bos = gguf.find_bool("tokenizer.ggml.add_bos_token").value_or(pre->add_bos);
  const bool add_eos = gguf.find_bool("tokenizer.ggml.add_eos_token").value_or(false);
  return {{"normalizer", nullptr},
          {"pre_tokenizer", pre_tokenizer_json(*pre)},
          {"post_processor", post_processor(vocab, add_bos, add_eos)},
          {"decoder", byte_level(true)},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", pre->ignore_merges},
            {"vocab", vocab_object(vocab)},
            {"merges", byte_level_merges(gguf)}}}};
}

// For readers that merge by rank: every way to put a token together from two, the best score first. Of equal scores the
// longer left part comes first, as in Hugging Face's conversion of the same models.
Json merges_from_scores(const Vocabulary& vocab, const Json& scores) {
  struct Candidate {
    double score;
    size_t left_chars, right_chars, left, right;
  };
  std::map<std::string_view, size_t> ids;
  for (size_t i = 0; i < vocab.tokens.size(); ++i)
    if (!scores[i].is_null()) ids.emplace(vocab.tokens[i], i);
  std::vector<Candidate> all;
  for (size_t i = 0; i < vocab.tokens.size(); ++i) {
    if (scores[i].is_null()) continue;
    const std::string_view token = vocab.tokens[i];
    const size_t first = all.size();
    const size_t chars = count_chars(token);
    size_t left_chars = 0;
    for (size_t at = char_length(token[0]); at < token.size(); at += char_length(token[at])) {
      ++left_chars;
      const auto left = ids.find(token.substr(0, at));
      const auto right = ids.find(token.substr(at));
      if (left != ids.end() && right != ids.end())
        all.push_back({scores[i].get<double>(), left_chars, chars - left_chars, left->second, right->second});
    }
    std::sort(all.begin() + static_cast<std::ptrdiff_t>(first), all.end(), [](const Candidate& a, const Candidate& b) {
      return std::pair(a.left, a.right) < std::pair(b.left, b.right);
    });
  }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return std::tuple(a.score, a.left_chars, a.right_chars) > std::tuple(b.score, b.left_chars, b.right_chars);
  });
  Json list = Json::array();
  for (const Candidate& c : all) list.push_back({vocab.tokens[c.left], vocab.tokens[c.right]});
  return list;
}

Json scores_json(const Gguf& gguf, const Vocabulary& vocab) {
  const auto* scores = gguf.find_numbers("tokenizer.ggml.scores");
  if (!scores || scores->size() != vocab.tokens.size())
    throw Error(ErrorKind::kCorrupt,
                cat("tokenizer.ggml.scores should have ", vocab.tokens.size(), " entries, one for each token"));
  Json list = Json::array();
  for (size_t i = 0; i < scores->size(); ++i) {
    const bool merged = vocab.types[i] != kControl && vocab.types[i] != kUnknown && vocab.types[i] != kByte;
    if (merged && !std::isfinite((*scores)[i]))
      throw Error(ErrorKind::kCorrupt, cat("tokenizer.ggml.scores[", i, "] is not finite"));
    list.push_back(merged ? Json((*scores)[i]) : Json(nullptr));
  }
  return list;
}

Json replace_string(std::string_view from, std::string_view to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

Json sentencepiece_tokenizer(const Gguf& gguf, Vocabulary& vocab) {
  // What SentencePiece's trainer writes unless told otherwise, for files that do not say.
  const auto otherwise = [&](std::optional<size_t>& id, size_t usual) {
    if (!id && usual < vocab.tokens.size() && (vocab.types[usual] == kControl || vocab.types[usual] == kUnknown))
      id = usual;
  };
  otherwise(vocab.unk, 0);
  otherwise(vocab.bos, 1);
  otherwise(vocab.eos, 2);
  const bool prefix = gguf.find_bool("tokenizer.ggml.add_space_prefix").value_or(true);
  const bool add_bos = gguf.find_bool("tokenizer.ggml.add_bos_token").value_or(true);
  const bool add_eos = gguf.find_bool("tokenizer.ggml.add_eos_token").value_or(false);
  const bool byte_fallback = std::find(vocab.types.begin(), vocab.types.end(), kByte) != vocab.types.end();
  Json steps = Json::array();
  if (prefix) steps.push_back({{"type", "Prepend"}, {"prepend", kMark}});
  steps.push_back(replace_string(" ", kMark));
  Json decoders = {replace_string(kMark, " "), {{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  if (prefix) decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  const Json scores = scores_json(gguf, vocab);
  return {{"normalizer", {{"type", "Sequence"}, {"normalizers", steps}}},
          {"pre_tokenizer", nullptr},
          {"post_processor", post_processor(vocab, add_bos, add_eos)},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", vocab.unk ? Json(vocab.tokens[*vocab.unk]) : Json(nullptr)},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", true},
            {"byte_fallback", byte_fallback},
            {"ignore_merges", false},
            {"vocab", vocab_object(vocab)},
            {"merges", merges_from_scores(vocab, scores)},
            {"scores", scores}}}};
}

Json tokenizer_config(const Gguf& gguf, const Vocabulary& vocab, const std::optional<std::string>& chat_template) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"}, {"clean_up_tokenization_spaces", false}};
  const auto name = [&](const char* key, const std::optional<size_t>& id) {
    config[key] = id ? Json(vocab.tokens[*id]) : Json(nullptr);
  };
  name("bos_token", vocab.bos);
  name("eos_token", vocab.eos);
  name("unk_token", vocab.unk);
  name("pad_token", vocab.pad);
  for (const char* key : {"add_bos_token", "add_eos_token"})
    if (const auto flag = gguf.find_bool(cat("tokenizer.ggml.", key))) config[key] = *flag;
  if (const auto architecture = gguf.find_string("general.architecture"))
    if (const auto length = gguf.find_unsigned(cat(*architecture, ".context_length")))
      config["model_max_length"] = *length;
  if (chat_template) config["chat_template"] = *chat_template;
  return config;
}

}  // namespace

bool has_tokenizer(const Gguf& gguf) {
  const auto model = gguf.find_string("tokenizer.ggml.model");
  return model && *model != "none" && *model != "no_vocab";
}

GgufTokenizerFiles tokenizer_from_gguf(const Gguf& gguf) {
  const auto model = gguf.find_string("tokenizer.ggml.model");
  if (!model) throw Error(ErrorKind::kUnsupported, "the file has no tokenizer (tokenizer.ggml.model is missing)");
  if (*model != "gpt2" && *model != "llama")
    throw Error(ErrorKind::kUnsupported,
                cat("tokenizer '", *model, "' (tokenizer.ggml.model) is not supported, only gpt2 and llama"));
  Vocabulary vocab = read_vocabulary(gguf);
  GgufTokenizerFiles files;
  files.tokenizer = *model == "gpt2" ? byte_level_tokenizer(gguf, vocab) : sentencepiece_tokenizer(gguf, vocab);
  files.tokenizer["version"] = "1.0";
  files.tokenizer["truncation"] = nullptr;
  files.tokenizer["padding"] = nullptr;
  files.tokenizer["added_tokens"] = added_tokens(vocab);
  if (const auto text = gguf.find_string("tokenizer.chat_template")) {
    if (find_invalid_utf8(*text) != std::string_view::npos)
      throw Error(ErrorKind::kCorrupt, "tokenizer.chat_template is not UTF-8");
    files.chat_template = std::string(*text);
  }
  files.tokenizer_config = tokenizer_config(gguf, vocab, files.chat_template);
  return files;
}

}  // namespace nibble
