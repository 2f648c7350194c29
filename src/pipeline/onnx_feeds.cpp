#include "pipeline/onnx_feeds.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/checked.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "formats/npz.h"
#include "model/source_floats.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

constexpr int kInt16 = 5, kInt32 = 6, kBool = 9, kDouble = 11;

int type_of(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return onnx_type::kUint8;
    case DType::kI8:
      return onnx_type::kInt8;
    case DType::kU16:
      return 4;
    case DType::kI16:
      return kInt16;
    case DType::kI32:
      return kInt32;
    case DType::kI64:
      return onnx_type::kInt64;
    case DType::kBool:
      return kBool;
    case DType::kF64:
      return kDouble;
    case DType::kU32:
      return 12;
    case DType::kU64:
      return 13;
    default:
      return onnx_type_of(dtype);
  }
}

// What the caller of a graph gives it: initializers among its inputs have a value already.
struct Input {
  std::string name;
  int type = 0;            // 0: the graph does not say
  std::string first_axis;  // what it calls its first dimension, or ""
  Shape no_tokens;         // its shape where each dimension that the graph leaves open is 0, but the first, 1
};

// Keys and values of earlier tokens; a text starts with none.
bool is_past(const Input& input) { return input.name.starts_with("past") && input.no_tokens.size() == 4; }

// The width of a head, which onnxruntime-genai's builder may leave open in the graph; 0: not known.
size_t head_size(const OnnxSource& source) {
  constexpr const char* kFile = "genai_config.json";
  const std::vector<std::string> files = source.side_files();
  if (std::find(files.begin(), files.end(), kFile) == files.end()) return 0;
  return with_context([] { return kFile; },
                      [&] {
                        const Json config = parse_json(source.side_file(kFile), kFile);
                        return get_size(get(get(config, "model"), "decoder"), "head_size");
                      });
}

std::vector<Input> inputs_of(const OnnxSource& source) {
  std::vector<Input> inputs;
  for (const onnx::ValueInfoProto& value : source.model().graph().input()) {
    if (source.index().initializer(value.name())) continue;
    const auto& tensor = value.type().tensor_type();
    Input& input = inputs.emplace_back();
    input.name = value.name();
    input.type = tensor.elem_type();
    for (const auto& dim : tensor.shape().dim()) {
      if (input.no_tokens.empty()) input.first_axis = dim.dim_param();
      const size_t open = input.no_tokens.empty() ? 1 : 0;
      input.no_tokens.push_back(dim.has_dim_value() ? checked_cast<size_t>(dim.dim_value(), "an extent") : open);
    }
    if (is_past(input) && input.no_tokens[3] == 0) input.no_tokens[3] = head_size(source);
  }
  return inputs;
}

std::string input_names(const std::vector<Input>& inputs) {
  std::vector<std::string> names;
  names.reserve(inputs.size());
  for (const Input& input : inputs) names.push_back(input.name);
  return join(names, ", ");
}

template <class T>
int64_t element(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Element i of integers; those of U64 beyond int64 are refused by the caller's range.
std::optional<int64_t> integer_at(const TensorView& view, size_t i) {
  const std::byte* const at = view.bytes.data() + i * byte_size(view.dtype, 1);
  for (const auto& [dtype, read] : {std::pair(DType::kBool, &element<uint8_t>),
                                    {DType::kU8, &element<uint8_t>},
                                    {DType::kI8, &element<int8_t>},
                                    {DType::kU16, &element<uint16_t>},
                                    {DType::kI16, &element<int16_t>},
                                    {DType::kU32, &element<uint32_t>},
                                    {DType::kI32, &element<int32_t>},
                                    {DType::kI64, &element<int64_t>}})
    if (dtype == view.dtype) return read(at);
  return std::nullopt;
}

template <class T>
std::vector<std::byte> to_integers(const TensorView& view, int type) {
  const size_t count = element_count(view.shape);
  std::vector<std::byte> bytes(count * sizeof(T));
  for (size_t i = 0; i < count; ++i) {
    const auto value = integer_at(view, i);
    if (!value || !std::in_range<T>(*value))
      throw Error(ErrorKind::kCorrupt, cat("element ", i, " is ", value ? cat(*value) : "too large", ", which ",
                                           onnx_type_name(type), " does not hold"));
    const auto stored = static_cast<T>(*value);
    std::memcpy(bytes.data() + i * sizeof stored, &stored, sizeof stored);
  }
  return bytes;
}

// The array as the graph's input wants it: between integers, and between floats.
OnnxTensor convert(const TensorView& view, int wanted) {
  const int found = type_of(view.dtype);
  OnnxTensor tensor{wanted == 0 ? found : wanted, view.shape, view.bytes, view.owner, false};
  if (tensor.type == found) return tensor;
  std::vector<std::byte> bytes;
  const bool integers = !is_float(view.dtype) && view.dtype != DType::kU64;
  const auto target = onnx_dtype(wanted);
  if (integers && wanted == onnx_type::kInt64) {
    bytes = to_integers<int64_t>(view, wanted);
  } else if (integers && wanted == kInt32) {
    bytes = to_integers<int32_t>(view, wanted);
  } else if (is_float(view.dtype) && target && is_float(*target) && *target != DType::kF64) {
    std::vector<float> values(element_count(view.shape));
    floats_from_bytes(view.dtype, view.bytes.data(), values.size(), values.data(), "");
    bytes.resize(byte_size(*target, values.size()));
    floats_to_bytes(values.data(), values.size(), *target, bytes.data());
  } else {
    throw Error(ErrorKind::kUsage, cat("holds ", onnx_type_name(found), ", the graph wants ", onnx_type_name(wanted)));
  }
  const auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  tensor.bytes = *owner;
  tensor.owner = owner;
  return tensor;
}

OnnxFeed read_feed(const fs::path& path, const std::vector<Input>& inputs) {
  const auto file = MappedFile::open(path);
  return with_context(
      [&] { return path.string(); },
      [&] {
        OnnxFeed feed;
        for (const auto& array : parse_npz(file->bytes())) {
          const std::string& name = array.first;
          const auto input =
              std::find_if(inputs.begin(), inputs.end(), [&](const Input& each) { return each.name == name; });
          if (input == inputs.end())
            throw Error(ErrorKind::kUsage,
                        cat("holds the array ", quote(name), ", but the graph's inputs are ", input_names(inputs)));
          TensorView owned = array.second;
          owned.owner = file;
          feed.emplace(name, with_context([&] { return quote(name); }, [&] { return convert(owned, input->type); }));
        }
        for (const Input& input : inputs)
          if (!feed.contains(input.name))
            throw Error(ErrorKind::kUsage,
                        cat("has no array ", quote(input.name), "; the graph's inputs are ", input_names(inputs)));
        return feed;
      });
}

// How many samples lie one behind the other in a feed; 1 where the graph does not call its first axis a batch.
size_t batch_of(const OnnxFeed& feed, const std::vector<Input>& inputs) {
  std::optional<size_t> batch;
  for (const Input& input : inputs) {
    const OnnxTensor& tensor = feed.find(input.name)->second;
    const bool batched = lower(input.first_axis).find("batch") != std::string::npos && !tensor.shape.empty() &&
                         onnx_bits(tensor.type) % 8 == 0;
    if (!batched || (batch && *batch != tensor.shape[0])) return 1;
    batch = tensor.shape[0];
  }
  return std::max<size_t>(batch.value_or(1), 1);
}

void append(const OnnxFeed& feed, const std::vector<Input>& inputs, size_t most, std::vector<OnnxFeed>& samples) {
  const size_t batch = batch_of(feed, inputs);
  if (batch == 1) return samples.push_back(feed);
  for (size_t i = 0; i < batch && samples.size() < most; ++i) {
    OnnxFeed& sample = samples.emplace_back();
    for (const auto& [name, tensor] : feed) {
      OnnxTensor part = tensor;
      const size_t bytes = tensor.bytes.size() / batch;
      part.shape[0] = 1;
      part.bytes = tensor.bytes.subspan(i * bytes, bytes);
      sample.emplace(name, std::move(part));
    }
  }
}

std::vector<fs::path> files_of(const fs::path& path) {
  std::error_code failure;
  if (!fs::is_directory(path, failure)) return {path};
  std::vector<fs::path> files;
  for (auto entry = fs::directory_iterator(path, failure); !failure && entry != fs::directory_iterator();
       entry.increment(failure))
    if (lower(entry->path().extension().string()) == ".npz") files.push_back(entry->path());
  if (failure) throw io_error(cat("cannot list ", path.string()), failure.value());
  std::sort(files.begin(), files.end());
  if (files.empty()) throw Error(ErrorKind::kUsage, cat(path.string(), ": holds no .npz files"));
  return files;
}

OnnxTensor integers(const std::vector<int64_t>& values, int type) {
  const TensorView view{DType::kI64, {1, values.size()}, std::as_bytes(std::span(values)), nullptr};
  OnnxTensor tensor = convert(view, type);
  if (tensor.owner) return tensor;
  const auto owner = std::make_shared<const std::vector<std::byte>>(view.bytes.begin(), view.bytes.end());
  tensor.bytes = *owner;
  tensor.owner = owner;
  return tensor;
}

OnnxFeed feed_of(const std::vector<TokenId>& document, const std::vector<Input>& inputs) {
  OnnxFeed feed;
  for (const Input& input : inputs) {
    if (is_past(input)) {
      feed.emplace(input.name, OnnxTensor{input.type, input.no_tokens, {}, nullptr, false});
      continue;
    }
    std::vector<int64_t> values(document.size(), input.name == "attention_mask" ? 1 : 0);
    if (input.name == "input_ids") std::copy(document.begin(), document.end(), values.begin());
    if (input.name == "position_ids") std::iota(values.begin(), values.end(), int64_t{0});
    feed.emplace(input.name, with_context([&] { return cat("the graph's input ", input.name); },
                                          [&] { return integers(values, input.type); }));
  }
  return feed;
}

constexpr const char* kArrays =
    "--calib FILE.npz or a folder of such files, with one array for each input of the graph";

void check_takes_tokens(const std::vector<Input>& inputs) {
  bool ids = false;
  for (const Input& input : inputs) {
    ids |= input.name == "input_ids";
    if (input.name != "input_ids" && input.name != "attention_mask" && input.name != "token_type_ids" &&
        input.name != "position_ids" && !is_past(input))
      throw Error(ErrorKind::kUsage, cat("the graph's input ", input.name, " cannot be made from text; give ", kArrays,
                                         ": ", input_names(inputs)));
  }
  if (!ids)
    throw Error(ErrorKind::kUsage, cat("the graph has no input_ids and cannot be fed with text; give ", kArrays, ": ",
                                       input_names(inputs)));
}

}  // namespace

bool names_feeds(const fs::path& path) {
  std::error_code failure;
  return lower(path.extension().string()) == ".npz" || fs::is_directory(path, failure);
}

void check_onnx_feeds(const OnnxSource& source, const CalibrationChoice& choice) {
  const std::vector<Input> inputs = inputs_of(source);
  if (choice.from == "self")
    throw Error(ErrorKind::kUsage, cat(source.path().string(),
                                       ": is no decoder that nibble knows and makes no text to calibrate on; give ",
                                       kArrays, ": ", input_names(inputs)));
  if (!names_feeds(choice.from)) check_takes_tokens(inputs);
}

OnnxFeeds load_onnx_feeds(const OnnxSource& source, const CalibrationChoice& choice, Progress& progress) {
  const std::vector<Input> inputs = inputs_of(source);
  OnnxFeeds feeds;
  check_onnx_feeds(source, choice);
  if (names_feeds(choice.from)) {
    const std::vector<fs::path> files = files_of(choice.from);
    for (size_t i = 0; i < files.size() && feeds.samples.size() < choice.samples; ++i) {
      check_interrupted();
      progress.update(i, files.size(), "reading calibration data");
      append(read_feed(files[i], inputs), inputs, choice.samples, feeds.samples);
    }
    feeds.data.source = choice.from;
  } else {
    try {
      feeds.data = load_calibration(source, choice, progress);
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kUnsupported && error.kind() != ErrorKind::kUsage) throw;
      throw Error(error.kind(), cat(error.what(), "; or give ", kArrays));
    }
    for (const std::vector<TokenId>& document : feeds.data.documents)
      feeds.samples.push_back(feed_of(document, inputs));
  }
  feeds.data.samples = feeds.samples.size();
  return feeds;
}

}  // namespace nibble
