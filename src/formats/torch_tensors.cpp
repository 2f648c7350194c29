#include "formats/torch_tensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <utility>

#include "core/checked.h"
#include "core/text.h"
#include "formats/damage.h"

namespace nibble {
namespace {

using Kind = PickleValue::Kind;

// Classes of storages, and the element types that stand beside untyped ones.
constexpr std::pair<std::string_view, DType> kTypes[] = {
    {"torch.DoubleStorage", DType::kF64},
    {"torch.FloatStorage", DType::kF32},
    {"torch.HalfStorage", DType::kF16},
    {"torch.BFloat16Storage", DType::kBF16},
    {"torch.LongStorage", DType::kI64},
    {"torch.IntStorage", DType::kI32},
    {"torch.ShortStorage", DType::kI16},
    {"torch.CharStorage", DType::kI8},
    {"torch.ByteStorage", DType::kU8},
    {"torch.BoolStorage", DType::kBool},
    {"torch.UntypedStorage", DType::kU8},
    {"torch.storage.UntypedStorage", DType::kU8},
    {"torch.float64", DType::kF64},
    {"torch.float32", DType::kF32},
    {"torch.float16", DType::kF16},
    {"torch.bfloat16", DType::kBF16},
    {"torch.float8_e4m3fn", DType::kF8E4M3},
    {"torch.float8_e5m2", DType::kF8E5M2},
    {"torch.int64", DType::kI64},
    {"torch.int32", DType::kI32},
    {"torch.int16", DType::kI16},
    {"torch.int8", DType::kI8},
    {"torch.uint64", DType::kU64},
    {"torch.uint32", DType::kU32},
    {"torch.uint16", DType::kU16},
    {"torch.uint8", DType::kU8},
    {"torch.bool", DType::kBool},
};

constexpr std::string_view kOrderedDict = "collections.OrderedDict", kTensor = "torch._utils._rebuild_tensor",
                           kTensor2 = "torch._utils._rebuild_tensor_v2", kTensor3 = "torch._utils._rebuild_tensor_v3",
                           kParameter = "torch._utils._rebuild_parameter",
                           kParameterWithState = "torch._utils._rebuild_parameter_with_state", kSize = "torch.Size",
                           kDevice = "torch.device";
constexpr std::string_view kFunctions[] = {kOrderedDict,        kTensor, kTensor2, kTensor3, kParameter,
                                           kParameterWithState, kSize,   kDevice};

std::optional<DType> find_type(std::string_view name) {
  for (const auto& [known, dtype] : kTypes)
    if (known == name) return dtype;
  return std::nullopt;
}

[[noreturn]] void corrupt(const std::string& what) { throw Error(ErrorKind::kCorrupt, cat(what, "; ", kDamaged)); }

class Describer {
 public:
  explicit Describer(const Pickle& pickle) : pickle_(pickle) {}

  // ('storage', class, key, location, elements[, view]).
  TorchStorage storage(const PickleValue& value) const {
    if (value.kind != Kind::kPersistent) corrupt("a tensor's storage is not one");
    const PickleValue& id = pickle_[value.items[0]];
    if (id.kind != Kind::kTuple || id.items.size() < 5 || !is_text(id.items[0], "storage"))
      corrupt("a storage should be described by a tuple of five");
    if (id.items.size() > 5 && pickle_[id.items[5]].kind != Kind::kNone)
      throw Error(ErrorKind::kUnsupported, "storages that are parts of others, as PyTorch wrote them before 0.4");
    const PickleValue &type = pickle_[id.items[1]], &key = pickle_[id.items[2]];
    if (type.kind != Kind::kGlobal || key.kind != Kind::kText) corrupt("a storage has no class or no key");
    const auto dtype = find_type(type.text);
    if (!dtype) corrupt(cat(quote(type.text), " is no class of storages"));
    return {key.text, *dtype, size(id.items[4], "the size of a storage")};
  }

  size_t size(uint32_t index, std::string_view what) const {
    const PickleValue& value = pickle_[index];
    if (value.kind != Kind::kInteger || value.integer < 0) corrupt(cat(what, " should be a number, not negative"));
    return static_cast<size_t>(value.integer);
  }

  Shape sizes(uint32_t index, std::string_view what) const {
    const PickleValue* value = &pickle_[index];
    if (function(*value) == kSize) value = &argument(*value, 0);
    if (value->kind != Kind::kTuple && value->kind != Kind::kList) corrupt(cat(what, " should be a tuple"));
    Shape out;
    for (const uint32_t item : value->items) out.push_back(size(item, what));
    return out;
  }

  // Of a call; otherwise nothing.
  std::string_view function(const PickleValue& value) const {
    return value.kind == Kind::kCall ? std::string_view(pickle_[value.items[0]].text) : std::string_view();
  }
  const std::vector<uint32_t>& arguments(const PickleValue& call) const { return pickle_[call.items[1]].items; }
  const PickleValue& argument(const PickleValue& call, size_t i) const {
    if (i >= arguments(call).size()) corrupt(cat(function(call), " needs more arguments"));
    return pickle_[arguments(call)[i]];
  }

 private:
  bool is_text(uint32_t index, std::string_view text) const {
    return pickle_[index].kind == Kind::kText && pickle_[index].text == text;
  }
  const Pickle& pickle_;
};

// Does a tensor of that shape lie dense and row-major? Strides of extents of one say nothing.
bool is_dense(const Shape& shape, const Shape& strides) {
  size_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] != 1 && strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

// Gathers tensors that do not lie dense.
class Gatherer {
 public:
  explicit Gatherer(size_t limit) : limit_(limit) {}

  // `bytes`: the storage from the tensor's first element on, which holds all of it.
  TensorView gather(DType dtype, const Shape& shape, const Shape& strides, std::span<const std::byte> bytes) {
    if (!distinct(shape, strides))
      throw Error(ErrorKind::kUnsupported, "its elements overlap (an expanded tensor); save it after .contiguous()");
    const size_t element = info(dtype).block_bytes, count = element_count(shape);
    // Copies of one storage could be many: together they stay below what the file holds.
    if (count * element > limit_ - copied_)
      throw Error(ErrorKind::kUnsupported, "too many transposed tensors of one storage; save them after .contiguous()");
    copied_ += count * element;
    const auto storage = std::make_shared<std::vector<std::byte>>(count * element);
    std::vector<size_t> index(shape.size(), 0);
    size_t from = 0;
    for (size_t i = 0; i < count; ++i) {
      std::memcpy(storage->data() + i * element, bytes.data() + from * element, element);
      for (size_t d = shape.size(); d-- > 0;) {
        from += strides[d];
        if (++index[d] < shape[d]) break;
        from -= strides[d] * shape[d];
        index[d] = 0;
      }
    }
    return {dtype, shape, *storage, storage};
  }

 private:
  // Ordered by stride, every dimension steps over all that the ones before it reach.
  static bool distinct(const Shape& shape, const Shape& strides) {
    std::vector<size_t> order(shape.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return strides[a] < strides[b]; });
    size_t reach = 0;  // of the elements so far, from the first to the last
    for (const size_t d : order) {
      if (shape[d] == 1) continue;
      if (strides[d] <= reach) return false;
      reach += strides[d] * (shape[d] - 1);
    }
    return true;
  }

  size_t limit_, copied_ = 0;
};

using BytesOf = std::function<std::span<const std::byte>(const TorchStorage&)>;

// A tensor or a parameter around one; nothing for values that are no tensor.
std::optional<TensorView> tensor_view(const Describer& describer, const PickleValue* value, const BytesOf& bytes_of,
                                      Gatherer& gatherer, const std::shared_ptr<const void>& owner) {
  if (const auto function = describer.function(*value); function == kParameter || function == kParameterWithState)
    value = &describer.argument(*value, 0);
  const auto function = describer.function(*value);
  if (function != kTensor && function != kTensor2 && function != kTensor3) return std::nullopt;
  const auto& arguments = describer.arguments(*value);
  if (arguments.size() < (function == kTensor ? 4u : function == kTensor2 ? 6u : 7u))
    corrupt(cat(function, " needs more arguments"));
  const TorchStorage storage = describer.storage(describer.argument(*value, 0));
  DType dtype = storage.dtype;
  if (function == kTensor3) {
    const PickleValue& type = describer.argument(*value, 6);
    const auto found = type.kind == Kind::kGlobal ? find_type(type.text) : std::nullopt;
    if (!found) corrupt("its element type is none");
    dtype = *found;
  }
  const size_t offset = describer.size(arguments[1], "the offset of a tensor");
  const Shape shape = describer.sizes(arguments[2], "the shape of a tensor");
  const Shape strides = describer.sizes(arguments[3], "the strides of a tensor");
  if (shape.size() != strides.size())
    corrupt(cat("it has ", shape.size(), " extents and ", strides.size(), " strides"));

  const auto bytes = bytes_of(storage);
  const size_t element = info(dtype).block_bytes;
  const size_t count = element_count(shape), begin = checked_mul(offset, element, "the offset of a tensor");
  if (begin > bytes.size()) corrupt(cat("it begins at element ", offset, " of a storage of ", bytes.size() / element));
  if (count == 0) return TensorView{dtype, shape, bytes.subspan(begin, 0), owner};
  size_t last = 0;
  for (size_t i = 0; i < shape.size(); ++i)
    last = checked_add(last, checked_mul(shape[i] - 1, strides[i], "a stride"), "the reach of a tensor");
  if (checked_mul(checked_add(last, 1, "the reach of a tensor"), element, "the reach of a tensor") >
      bytes.size() - begin)
    corrupt(cat("it reaches element ", checked_add(offset, last, "the reach of a tensor"), " of a storage of ",
                bytes.size() / element));
  if (!is_dense(shape, strides)) return gatherer.gather(dtype, shape, strides, bytes.subspan(begin));
  return TensorView{dtype, shape, bytes.subspan(begin, count * element), owner};
}

}  // namespace

bool torch_global(std::string_view name) {
  return find_type(name) || std::find(std::begin(kFunctions), std::end(kFunctions), name) != std::end(kFunctions);
}

std::map<std::string, TorchStorage, std::less<>> torch_storages(const Pickle& pickle) {
  const Describer describer(pickle);
  std::map<std::string, TorchStorage, std::less<>> storages;
  for (const PickleValue& value : pickle.values) {
    if (value.kind != Kind::kPersistent) continue;
    TorchStorage storage = describer.storage(value);
    const auto [known, fresh] = storages.emplace(storage.key, storage);
    if (!fresh && (known->second.dtype != storage.dtype || known->second.elements != storage.elements))
      corrupt(cat("storage ", quote(storage.key), " is described in two ways"));
  }
  return storages;
}

std::vector<NamedTensor> torch_state_dict(const Pickle& pickle, const BytesOf& bytes_of,
                                          const std::shared_ptr<const void>& owner) {
  const Describer describer(pickle);
  const PickleValue& root = pickle[pickle.root];
  const bool ordered = describer.function(root) == kOrderedDict;
  if (root.kind != Kind::kDict && !ordered)
    throw Error(ErrorKind::kUnsupported, "it holds no dict; save the model's state_dict()");
  size_t limit = 0;
  for (const auto& [key, storage] : torch_storages(pickle))
    limit = checked_add(limit, byte_size(storage.dtype, storage.elements), "the storages");
  Gatherer gatherer(limit);
  std::vector<NamedTensor> tensors;
  std::map<std::string_view, size_t> names;
  for (size_t i = ordered ? 2 : 0; i + 1 < root.items.size(); i += 2) {
    const PickleValue &key = pickle[root.items[i]], &value = pickle[root.items[i + 1]];
    if (key.kind != Kind::kText || find_invalid_utf8(key.text) != std::string::npos)
      throw Error(ErrorKind::kUnsupported, "a key of its dict is not text; save the model's state_dict()");
    if (!names.emplace(key.text, i).second) corrupt(cat("tensor ", quote(key.text), " is there twice"));
    auto view = with_context([&] { return cat("tensor ", quote(key.text)); },
                             [&] { return tensor_view(describer, &value, bytes_of, gatherer, owner); });
    if (view)
      tensors.push_back({key.text, *std::move(view)});
    else if (value.kind == Kind::kDict || value.kind == Kind::kCall)
      throw Error(ErrorKind::kUnsupported,
                  cat("entry ", quote(key.text), " is no tensor; save the model's state_dict() alone"));
  }
  return tensors;
}

}  // namespace nibble
