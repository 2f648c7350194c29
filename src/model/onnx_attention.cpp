#include "model/onnx_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/checked.h"
#include "core/error.h"

namespace nibble {
namespace {

[[noreturn]] void corrupt(const std::string& why) { throw Error(ErrorKind::kCorrupt, why); }

// [batch, heads, tokens, size], or [batch, tokens, heads * size] as an attribute says how many heads there are.
struct Heads {
  size_t batch = 0, heads = 0, tokens = 0, size = 0;
  bool apart = false;

  Heads(const OnnxArray& array, const onnx::NodeProto& node, const char* count) {
    const Shape& shape = array.shape;
    apart = shape.size() == 4;
    if (apart) {
      batch = shape[0], heads = shape[1], tokens = shape[2], size = shape[3];
    } else {
      heads = checked_cast<size_t>(int_attribute(node, count, 0), count);
      if (shape.size() != 3 || heads == 0 || shape[2] % heads != 0)
        corrupt(cat("heads of shape ", shape_text(shape), ", ", heads, " of them"));
      batch = shape[0], tokens = shape[1], size = shape[2] / heads;
    }
    if (array.v.size() != batch * heads * tokens * size) corrupt("heads of a shape without such elements");
  }

  size_t at(size_t b, size_t h, size_t t) const {
    return (apart ? (b * heads + h) * tokens + t : (b * tokens + t) * heads + h) * size;
  }
  Shape shape(size_t width) const {
    return apart ? Shape{batch, heads, tokens, width} : Shape{batch, tokens, heads * width};
  }

 private:
  static std::string shape_text(const Shape& shape) {
    std::string text;
    for (const size_t extent : shape) text += cat(text.empty() ? "" : "x", extent);
    return text;
  }
};

// [batch, heads, tokens, keys] to be added to the scores.
OnnxArray added(const OnnxCall& call, const Heads& q, const Heads& k) {
  const Shape shape{q.batch, q.heads, q.tokens, k.tokens};
  OnnxArray mask{{1}, {0}, false};
  if (const OnnxArray* given = call.find(3)) {
    mask = *given;
    // Truth values say what takes part.
    if (mask.integer)
      mask = each_element(mask, [](double seen) { return seen != 0 ? 0.0 : -std::numeric_limits<double>::infinity(); });
  }
  if (broadcast_shape(mask.shape, shape) != shape) corrupt("a mask of another shape than the scores");
  mask = broadcast_to(mask, shape);
  if (int_attribute(call.node, "is_causal", 0) == 0) return mask;
  for (size_t i = 0; i < mask.v.size(); ++i)
    if (i % k.tokens > i / k.tokens % q.tokens) mask.v[i] = -std::numeric_limits<double>::infinity();
  return mask;
}

}  // namespace

OnnxArray onnx_attention(const OnnxCall& call) {
  if (call.find(4) || call.find(5)) throw Error(ErrorKind::kUnsupported, "is an Attention behind earlier keys");
  if (float_attribute(call.node, "softcap", 0.0f) != 0.0f)
    throw Error(ErrorKind::kUnsupported, "is an Attention that caps scores");
  const OnnxArray &queries = call.in(0), &keys = call.in(1), &values = call.in(2);
  const Heads q(queries, call.node, "q_num_heads"), k(keys, call.node, "kv_num_heads"),
      v(values, call.node, "kv_num_heads");
  if (k.heads == 0 || q.heads % k.heads != 0 || k.size != q.size || k.batch != q.batch || v.batch != q.batch ||
      v.heads != k.heads || v.tokens != k.tokens)
    corrupt("queries, keys and values that do not belong together");
  const double usual = 1 / std::sqrt(static_cast<double>(q.size));
  const double scale =
      find_attribute(call.node, "scale") ? static_cast<double>(float_attribute(call.node, "scale", 0)) : usual;
  const OnnxArray mask = added(call, q, k);
  const Heads& out = q;
  OnnxArray result{out.shape(v.size), {}, false};
  if (q.batch * q.heads * q.tokens > kMostElements / std::max<size_t>(v.size, 1))
    throw Error(ErrorKind::kUnsupported, "is too large to be looked at");
  result.v.assign(q.batch * q.heads * q.tokens * v.size, 0.0);
  std::vector<double> weights(k.tokens);
  for (size_t b = 0; b < q.batch; ++b)
    for (size_t h = 0; h < q.heads; ++h)
      for (size_t t = 0; t < q.tokens; ++t) {
        const size_t shared = h / (q.heads / k.heads);  // queries share keys in runs
        const double* const own = mask.v.data() + ((b * q.heads + h) * q.tokens + t) * k.tokens;
        double largest = -std::numeric_limits<double>::infinity(), sum = 0;
        for (size_t j = 0; j < k.tokens; ++j) {
          double dot = 0;
          for (size_t i = 0; i < q.size; ++i) dot += queries.v[q.at(b, h, t) + i] * keys.v[k.at(b, shared, j) + i];
          largest = std::max(largest, weights[j] = scale * dot + own[j]);
        }
        for (double& weight : weights) sum += weight = std::exp(weight - largest);
        const size_t row = q.at(b, h, t) / std::max<size_t>(q.size, 1) * v.size;
        for (size_t j = 0; j < k.tokens; ++j)
          for (size_t i = 0; i < v.size; ++i) result.v[row + i] += weights[j] / sum * values.v[v.at(b, shared, j) + i];
      }
  return result;
}

OnnxArray onnx_rotary_embedding(const OnnxCall& call) {
  OnnxArray out = call.in(0);
  const Heads x(out, call.node, "num_heads");
  const int64_t turned = int_attribute(call.node, "rotary_embedding_dim", 0);
  const size_t size = turned == 0 ? x.size : checked_cast<size_t>(turned, "rotary_embedding_dim"), half = size / 2;
  const OnnxArray &cosines = call.in(1), &sines = call.in(2), *positions = call.find(3);
  const bool pairs = int_attribute(call.node, "interleaved", 0) != 0;
  if (size > x.size || size % 2 != 0 || half == 0 || cosines.v.size() != sines.v.size() ||
      cosines.v.size() % half != 0 || cosines.v.empty())
    corrupt("a rotation of other widths than its angles");
  const size_t rows = cosines.v.size() / half;
  if (positions ? positions->v.size() != x.batch * x.tokens : rows != x.tokens && rows != x.batch * x.tokens)
    corrupt("a rotation of other positions than its heads");
  for (size_t b = 0; b < x.batch; ++b)
    for (size_t t = 0; t < x.tokens; ++t) {
      const double at = positions ? positions->v[b * x.tokens + t] : static_cast<double>((b * x.tokens + t) % rows);
      if (!(at >= 0 && at < static_cast<double>(rows))) corrupt(cat("position ", at, " of ", rows));
      const size_t angles = static_cast<size_t>(at) * half;
      for (size_t h = 0; h < x.heads; ++h)
        for (size_t i = 0; i < half; ++i) {
          double& first = out.v[x.at(b, h, t) + (pairs ? 2 * i : i)];
          double& second = out.v[x.at(b, h, t) + (pairs ? 2 * i + 1 : half + i)];
          const double cosine = cosines.v[angles + i], sine = sines.v[angles + i], before = first;
          first = cosine * before - sine * second;
          second = sine * before + cosine * second;
        }
    }
  return out;
}

}  // namespace nibble
