#include "quant/stats_tree.h"

#include <algorithm>
#include <bit>

#include "core/error.h"
#include "core/text.h"

namespace nibble {

size_t waiting_matrices(size_t leaves) { return leaves <= 1 ? 0 : static_cast<size_t>(std::bit_width(leaves)); }

StatsTree::Key StatsTree::sibling(const Key& key) { return {key.first ^ (size_t{1} << key.second), key.second}; }

void StatsTree::check(const Node& a, const Node& b) {
  if (a.square.size() != b.square.size())
    throw Error(ErrorKind::kUsage,
                cat("statistics of ", b.square.size(), " columns cannot be added to those of ", a.square.size()));
  if (a.gram.size() != b.gram.size() || a.cross.size() != b.cross.size())
    throw Error(ErrorKind::kUsage, "statistics with and without a Gram matrix cannot be added");
}

void StatsTree::accumulate(Node& into, const Node& from) {
  into.tokens += from.tokens;
  for (size_t i = 0; i < into.gram.size(); ++i) into.gram[i] += from.gram[i];
  for (size_t i = 0; i < into.cross.size(); ++i) into.cross[i] += from.cross[i];
  for (size_t c = 0; c < into.square.size(); ++c) {
    into.square[c] += from.square[c];
    into.abs[c] += from.abs[c];
    into.max_abs[c] = std::max(into.max_abs[c], from.max_abs[c]);
  }
}

void StatsTree::insert(Key key, Node&& node) {
  const size_t end = key.first + (size_t{1} << key.second);
  for (const auto& [other, present] : nodes_) {
    if (other.first < end && key.first < other.first + (size_t{1} << other.second))
      throw Error(ErrorKind::kUsage, cat("statistics of leaf ", std::max(other.first, key.first), " come twice"));
    check(present, node);
  }
  nodes_.emplace(key, std::move(node));
  // Of two neighbours the left one becomes both.
  for (auto other = nodes_.find(sibling(key)); other != nodes_.end(); other = nodes_.find(sibling(key))) {
    const Key left = std::min(key, other->first), right = std::max(key, other->first);
    auto both = nodes_.extract(left);
    accumulate(both.mapped(), nodes_.find(right)->second);
    nodes_.erase(right);
    key = {left.first, left.second + 1};
    both.key() = key;
    nodes_.insert(std::move(both));
  }
}

void StatsTree::add(size_t leaf, const StatsSums& sums) {
  Node node{sums.tokens, {}, sums.cross, sums.square, sums.abs, sums.max_abs};
  node.gram.reserve(sums.gram.size());
  for (const double sum : sums.gram) node.gram.push_back(static_cast<float>(sum));
  insert({leaf, 0}, std::move(node));
}

void StatsTree::merge(StatsTree&& other) {
  while (!other.nodes_.empty()) {
    auto node = other.nodes_.extract(other.nodes_.begin());
    insert(node.key(), std::move(node.mapped()));
  }
}

size_t StatsTree::tokens() const {
  size_t count = 0;
  for (const auto& [key, node] : nodes_) count += node.tokens;
  return count;
}

InputStats StatsTree::finish(std::vector<double> storage) {
  InputStats stats;
  if (nodes_.empty()) return stats;
  while (nodes_.size() > 1) {  // what has no neighbour, from the last on
    const auto last = std::prev(nodes_.end());
    accumulate(std::prev(last)->second, last->second);
    nodes_.erase(last);
  }
  Node node = std::move(nodes_.begin()->second);
  nodes_.clear();
  const double scale = node.tokens == 0 ? 0 : 1.0 / static_cast<double>(node.tokens);
  stats.cols = node.square.size();
  stats.tokens = node.tokens;
  stats.max_abs = std::move(node.max_abs);
  for (const double sum : node.square) stats.mean_square.push_back(static_cast<float>(sum * scale));
  for (const double sum : node.abs) stats.mean_abs.push_back(static_cast<float>(sum * scale));
  storage.resize(node.gram.size());
  for (size_t i = 0; i < storage.size(); ++i) storage[i] = static_cast<double>(node.gram[i]) * scale;
  stats.gram = std::move(storage);
  for (float& sum : node.cross) sum *= static_cast<float>(scale);
  stats.cross = std::move(node.cross);
  return stats;
}

}  // namespace nibble
