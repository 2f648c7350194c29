#pragma once
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quant/stored_parts.h"

namespace nibble {

// For tests: the tensors of one module, by suffix, in buffers of exactly their size.
class SampleParts {
 public:
  template <class T>
  void set(const std::string& suffix, DType dtype, Shape shape, const std::vector<T>& values) {
    const auto storage = std::make_shared<std::vector<std::byte>>(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(storage->data(), values.data(), storage->size());
    views_[suffix] = {dtype, std::move(shape), *storage, storage};
  }
  void set_text(const std::string& suffix, const std::string& text) {
    set(suffix, DType::kU8, {text.size()}, std::vector<char>(text.begin(), text.end()));
  }
  void erase(const std::string& suffix) { views_.erase(suffix); }
  StoredParts parts() const { return {"m", find_}; }

 private:
  std::map<std::string, TensorView, std::less<>> views_;
  std::function<const TensorView*(std::string_view)> find_ = [this](std::string_view suffix) -> const TensorView* {
    const auto it = views_.find(suffix);
    return it == views_.end() ? nullptr : &it->second;
  };
};

}  // namespace nibble
