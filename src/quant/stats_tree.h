#pragma once
#include <cstddef>
#include <map>
#include <utility>
#include <vector>

#include "quant/input_stats.h"

namespace nibble {

// Sums over the tokens of one leaf of a StatsTree.
struct StatsSums {
  size_t tokens = 0;
  std::vector<double> gram;         // x x^T, packed as InputStats::gram; empty: not collected
  std::vector<float> cross;         // (x' - x) x^T, [cols, cols]; see InputStats::cross
  std::vector<double> square, abs;  // [cols]: x^2, |x|
  std::vector<float> max_abs;       // [cols]
};

// Statistics of consecutive leaves of tokens, added up in a tree that the leaves' indices alone decide: neighbours 2k
// and 2k + 1 first, then neighbouring pairs, and so on. Whoever collects a part of the leaves (another file, another
// machine) and merges it later gets the same bits as one who saw them all. Gram matrices of whole subtrees are kept in
// float: as exact as the products of a chunk are. Of n leaves that come in order up to log2(n) + 1 wait.
class StatsTree {
 public:
  // Throws Error(kUsage) for a leaf that is there already, and for sums of another shape.
  void add(size_t leaf, const StatsSums& sums);
  // The leaves of both.
  void merge(StatsTree&& other);
  size_t tokens() const;
  bool empty() const { return nodes_.empty(); }
  // The means over all leaves; `storage` becomes their Gram matrix. Nothing is left.
  InputStats finish(std::vector<double> storage = {});

 private:
  struct Node {
    size_t tokens = 0;
    std::vector<float> gram, cross;
    std::vector<double> square, abs;
    std::vector<float> max_abs;
  };
  using Key = std::pair<size_t, size_t>;  // first leaf, a multiple of 2^level; level

  static Key sibling(const Key& key);
  static void check(const Node& a, const Node& b);
  void insert(Key key, Node&& node);
  void join(Key key);
  static void accumulate(Node& into, const Node& from);

  std::map<Key, Node> nodes_;
};

// How many Gram matrices in float wait at most while `leaves` leaves come in order; 0 for a single one.
size_t waiting_matrices(size_t leaves);

}  // namespace nibble
