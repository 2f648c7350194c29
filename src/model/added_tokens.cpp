#include "model/added_tokens.h"

#include <algorithm>

#include "model/token_text.h"

namespace nibble {
namespace {

// Where the character before byte `at` > 0 begins.
size_t previous_char(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80);
  return at;
}

bool word_before(std::string_view text, size_t at) {
  if (at == 0) return false;
  size_t begin = previous_char(text, at);
  return is_word(next_char(text, begin));
}

bool word_at(std::string_view text, size_t at) { return at < text.size() && is_word(next_char(text, at)); }

}  // namespace

void AddedTokenMatcher::add(const AddedToken& token) {
  if (token.content.empty()) return;
  uint32_t node = 0;
  for (const char c : token.content) {
    const auto byte = static_cast<unsigned char>(c);
    auto& children = nodes_[node].children;
    const auto it = std::lower_bound(children.begin(), children.end(), std::pair{byte, uint32_t{0}});
    if (it != children.end() && it->first == byte) {
      node = it->second;
      continue;
    }
    const auto next = static_cast<uint32_t>(nodes_.size());
    children.insert(it, {byte, next});
    if (node == 0) first_[byte] = next;
    nodes_.emplace_back();
    node = next;
  }
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

int32_t AddedTokenMatcher::longest(std::string_view text, size_t at) const {
  int32_t best = -1;
  for (uint32_t node = first_[static_cast<unsigned char>(text[at])]; node != 0;) {
    if (nodes_[node].token >= 0) best = nodes_[node].token;
    if (++at == text.size()) break;
    const auto byte = static_cast<unsigned char>(text[at]);
    const auto& children = nodes_[node].children;
    const auto it = std::lower_bound(children.begin(), children.end(), std::pair{byte, uint32_t{0}});
    node = it != children.end() && it->first == byte ? it->second : 0;
  }
  return best;
}

void AddedTokenMatcher::split(std::string_view text, std::vector<Part>& parts) const {
  parts.clear();
  size_t done = 0;
  for (size_t at = 0; !tokens_.empty() && at < text.size();) {
    const int32_t found = longest(text, at);
    if (found < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(found)];
    size_t begin = at;
    size_t end = at + token.content.size();
    at = end;
    if (token.single_word && (word_before(text, begin) || word_at(text, end))) continue;
    if (token.lstrip) {
      size_t left = begin;
      while (left > done) {
        const size_t before = previous_char(text, left);
        size_t next = before;
        if (!is_white_space(next_char(text, next))) break;
        left = before;
      }
      begin = std::max(left, done);
    }
    if (token.rstrip) {
      while (end < text.size()) {
        size_t next = end;
        if (!is_white_space(next_char(text, next))) break;
        end = next;
      }
    }
    if (done < begin) parts.push_back({done, begin, -1});
    parts.push_back({begin, end, token.id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), -1});
}

}  // namespace nibble
