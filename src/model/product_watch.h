#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/model.h"

namespace nibble {

// Compares products of int8 weights with the same in float, as they happen.
class ProductWatch {
 public:
  // Weights that are not named are not watched.
  void name(const WeightMatrix& w, std::string name);
  // `products` of x have been computed.
  void compare(std::span<const Product> products, MatrixView<const float> x);
  // In the order in which they were named; weights that were never multiplied are left out.
  struct Found {
    const WeightMatrix* w;
    ProductCheck check;
  };
  std::vector<Found> found() const;

 private:
  struct Sums {
    std::string name;
    double difference = 0, reference = 0;  // of squares
    bool seen = false;
  };
  std::map<const WeightMatrix*, size_t> index_;
  std::vector<const WeightMatrix*> weights_;
  std::vector<Sums> sums_;
};

}  // namespace nibble
