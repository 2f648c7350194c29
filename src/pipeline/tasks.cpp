#include "pipeline/tasks.h"

#include <algorithm>
#include <cmath>

#include "core/files.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/text.h"
#include "kernels/kernels.h"

namespace nibble {
namespace {

TaskItem parse_item(const Json& line) {
  TaskItem item;
  item.context = get_string(line, "context");
  for (const Json& choice : get(line, "choices")) {
    if (!choice.is_string()) throw Error(ErrorKind::kCorrupt, "'choices' should hold strings");
    item.choices.push_back(choice.get<std::string>());
  }
  item.label = get_size(line, "label");
  if (item.choices.size() < 2) throw Error(ErrorKind::kCorrupt, "'choices' needs two or more");
  if (item.label >= item.choices.size())
    throw Error(ErrorKind::kCorrupt, cat("'label' ", item.label, " is not one of ", item.choices.size(), " choices"));
  return item;
}

size_t common_prefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  return static_cast<size_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

// Scores token sequences, feeding only what differs from the sequence before.
class Scorer {
 public:
  Scorer(Model& model, size_t ctx)
      : model_(model), cache_(model.make_cache(ctx, CacheType::kF32)), vocab_(model.config().vocab_size) {}

  // Sum of log p over tokens [first, size), first >= 1.
  double score(const std::vector<TokenId>& tokens, size_t first) {
    // The logits of token first-1 are needed, so it is fed again even if the cache has it.
    const size_t keep = std::min(common_prefix(fed_, tokens), first - 1);
    cache_->truncate(keep);
    const size_t count = tokens.size() - 1 - keep;
    logits_.resize(count * vocab_);
    const auto out = matrix(logits_.data(), count, vocab_);
    model_.forward(std::span(tokens).subspan(keep, count), *cache_, out);
    fed_.assign(tokens.begin(), tokens.end() - 1);
    double sum = 0;
    for (size_t i = first; i < tokens.size(); ++i) {
      const float* row = out.row(i - 1 - keep);
      sum += static_cast<double>(row[static_cast<size_t>(tokens[i])]) -
             static_cast<double>(kernels::active().log_sum_exp(row, vocab_));
    }
    return sum;
  }

 private:
  Model& model_;
  std::unique_ptr<KvCache> cache_;
  size_t vocab_;
  std::vector<TokenId> fed_;
  std::vector<float> logits_;
};

}  // namespace

std::vector<TaskItem> read_task(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  std::vector<TaskItem> items;
  size_t number = 0;
  for (const std::string& line : split(text, '\n')) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    with_context([&] { return cat(path.string(), ": line ", number); },
                 [&] { items.push_back(parse_item(parse_json(line, "item"))); });
  }
  if (items.empty())
    throw Error(ErrorKind::kCorrupt,
                cat(path.string(), ": no items; each line is {\"context\", \"choices\", \"label\"}"));
  return items;
}

TaskResult run_task(Model& model, const Tokenizer& tokenizer, const std::string& name,
                    const std::vector<TaskItem>& items, size_t ctx, Progress& progress) {
  Scorer scorer(model, ctx);
  size_t right = 0, right_norm = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    check_interrupted();
    progress.update(i, items.size(), name);
    const TaskItem& item = items[i];
    const std::vector<TokenId> context = tokenizer.encode(item.context, true);
    size_t best = 0, best_norm = 0;
    double top = -INFINITY, top_norm = -INFINITY;
    for (size_t c = 0; c < item.choices.size(); ++c) {
      std::vector<TokenId> tokens = tokenizer.encode(item.context + item.choices[c], true);
      // A choice may merge with the context's last characters: what differs is what is scored.
      size_t first =
          std::max<size_t>(1, std::min(common_prefix(context, tokens), tokens.empty() ? 0 : tokens.size() - 1));
      if (tokens.size() < 2) throw Error(ErrorKind::kUsage, cat(name, ": item ", i + 1, " has fewer than two tokens"));
      if (tokens.size() > ctx) {
        const size_t drop = tokens.size() - ctx;
        if (drop >= first)
          throw Error(ErrorKind::kUsage,
                      cat(name, ": a choice of item ", i + 1, " is longer than ", ctx, " tokens; raise --ctx"));
        tokens.erase(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(drop));
        first -= drop;
      }
      const double score = scorer.score(tokens, first);
      const double norm = score / static_cast<double>(std::max<size_t>(item.choices[c].size(), 1));
      if (score > top) top = score, best = c;
      if (norm > top_norm) top_norm = norm, best_norm = c;
    }
    right += best == item.label ? 1 : 0;
    right_norm += best_norm == item.label ? 1 : 0;
  }
  const auto n = static_cast<double>(items.size());
  TaskResult result{name, static_cast<double>(right) / n, static_cast<double>(right_norm) / n, 0, items.size()};
  if (items.size() > 1) result.std_error = std::sqrt(result.acc * (1 - result.acc) / (n - 1));
  return result;
}

}  // namespace nibble
