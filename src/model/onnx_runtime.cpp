#include "model/onnx_runtime.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "core/checked.h"
#include "core/error.h"
#include "core/mapped_file.h"
#include "core/text.h"
#include "core/threads.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

// What of the C API is used. Objects are opaque; functions return a status, null for success. Numbers are positions in
// the table. Source: onnxruntime_c_api.h of the ONNX Runtime project.
using Status = void*;
enum Slot : size_t {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSessionFromArray = 8,
  kRun = 9,
  kCreateSessionOptions = 10,
  kDisableMemPattern = 17,
  kDisableCpuMemArena = 19,
  kSetGraphOptimizationLevel = 23,
  kSetIntraOpNumThreads = 24,
  kCreateTensorWithData = 49,
  kIsTensor = 50,
  kGetTensorMutableData = 51,
  kGetTensorElementType = 60,
  kGetDimensionsCount = 61,
  kGetDimensions = 62,
  kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kReleaseStatus = 93,
  kReleaseMemoryInfo = 94,
  kReleaseSession = 95,
  kReleaseValue = 96,
  kReleaseTensorTypeAndShape = 99,
  kReleaseSessionOptions = 100,
  kAddSessionConfigEntry = 130,
};
using Function = void (*)();
struct ApiBase {
  const Function* (*api)(uint32_t version);
  const char* (*version)();
};
constexpr uint32_t kApiVersion = 11;
constexpr const char* kOldest = "1.11";
constexpr int kLogFatal = 4, kBasicOptimizations = 1, kDeviceAllocator = 0, kDefaultMemory = 0;

// The table, with its calling conventions.
class Api {
 public:
  explicit Api(const Function* table) : table_(table) {}

  template <class Result, class... Arguments>
  Result plain(Slot slot, Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(table_[slot])(arguments...);
  }
  template <class... Arguments>
  void call(Slot slot, Arguments... arguments) const {
    const Status status = plain<Status>(slot, arguments...);
    if (!status) return;
    std::string text = plain<const char*>(kGetErrorMessage, static_cast<const void*>(status));
    plain<void>(kReleaseStatus, status);
    std::replace(text.begin(), text.end(), '\n', ' ');
    throw Error(ErrorKind::kUnsupported, cat("ONNX Runtime: ", text));
  }
  // An object that is released by itself.
  std::shared_ptr<void> own(void* object, Slot release) const {
    return {object, [api = *this, release](void* it) {
              if (it) api.plain<void>(release, it);
            }};
  }

 private:
  const Function* table_;
};

bool is_aligned(std::span<const std::byte> bytes) {
  constexpr uintptr_t kAlignment = 16;  // more than any element has
  return reinterpret_cast<uintptr_t>(bytes.data()) % kAlignment == 0;
}

size_t tensor_bytes(int type, const Shape& shape) {
  return ceil_div(checked_mul(element_count(shape), onnx_bits(type), "size"), 8);
}

class Session final : public OnnxSession {
 public:
  Session(Api api, std::shared_ptr<void> session, std::shared_ptr<void> memory)
      : api_(api), session_(std::move(session)), memory_(std::move(memory)) {}

  std::vector<OnnxTensor> run(const std::vector<std::pair<std::string, OnnxTensor>>& inputs,
                              const std::vector<std::string>& outputs) override {
    std::vector<std::shared_ptr<void>> owned;
    std::vector<const char*> input_names, output_names;
    std::vector<const void*> values;
    for (const auto& [name, tensor] : inputs) {
      input_names.push_back(name.c_str());
      owned.push_back(value_of(tensor));
      values.push_back(owned.back().get());
    }
    for (const std::string& name : outputs) output_names.push_back(name.c_str());
    std::vector<void*> made(outputs.size());
    api_.call(kRun, session_.get(), static_cast<const void*>(nullptr),
              static_cast<const char* const*>(input_names.data()), static_cast<const void* const*>(values.data()),
              values.size(), static_cast<const char* const*>(output_names.data()), output_names.size(), made.data());
    owned.clear();
    for (void* value : made) owned.push_back(api_.own(value, kReleaseValue));
    std::vector<OnnxTensor> results;
    for (size_t i = 0; i < made.size(); ++i)
      results.push_back(with_context([&] { return cat("value ", outputs[i]); }, [&] { return tensor_of(owned[i]); }));
    return results;
  }

 private:
  std::shared_ptr<void> value_of(const OnnxTensor& tensor) const {
    std::vector<int64_t> shape;
    for (const size_t extent : tensor.shape) shape.push_back(checked_cast<int64_t>(extent, "an extent"));
    const std::byte* data = tensor.bytes.data();
    auto copy = std::make_shared<std::vector<std::byte>>();
    if (!is_aligned(tensor.bytes) || tensor.bytes.empty()) {
      copy->assign(tensor.bytes.begin(), tensor.bytes.end());
      copy->resize(std::max<size_t>(copy->size(), 1));  // an address, even for no elements
      data = copy->data();
    }
    void* value = nullptr;
    api_.call(kCreateTensorWithData, static_cast<const void*>(memory_.get()),
              const_cast<void*>(static_cast<const void*>(data)), tensor.bytes.size(),
              static_cast<const int64_t*>(shape.data()), shape.size(), tensor.type, &value);
    return {value, [owner = api_.own(value, kReleaseValue), copy, bytes = tensor.owner](void*) {}};
  }

  OnnxTensor tensor_of(const std::shared_ptr<void>& value) const {
    int is_tensor = 0;
    if (value) api_.call(kIsTensor, static_cast<const void*>(value.get()), &is_tensor);
    if (is_tensor == 0) throw Error(ErrorKind::kUnsupported, "is no tensor");
    void* raw_info = nullptr;
    api_.call(kGetTensorTypeAndShape, static_cast<const void*>(value.get()), &raw_info);
    const auto info = api_.own(raw_info, kReleaseTensorTypeAndShape);
    OnnxTensor tensor;
    size_t rank = 0;
    api_.call(kGetTensorElementType, static_cast<const void*>(raw_info), &tensor.type);
    api_.call(kGetDimensionsCount, static_cast<const void*>(raw_info), &rank);
    std::vector<int64_t> shape(rank);
    api_.call(kGetDimensions, static_cast<const void*>(raw_info), shape.data(), rank);
    for (const int64_t extent : shape) tensor.shape.push_back(checked_cast<size_t>(extent, "an extent"));
    if (onnx_bits(tensor.type) == 0)
      throw Error(ErrorKind::kUnsupported, cat("has elements of type ", onnx_type_name(tensor.type)));
    void* data = nullptr;
    api_.call(kGetTensorMutableData, value.get(), &data);
    tensor.bytes = {static_cast<const std::byte*>(data), tensor_bytes(tensor.type, tensor.shape)};
    tensor.owner = value;
    return tensor;
  }

  Api api_;
  std::shared_ptr<void> session_, memory_;
};

class Runtime final : public OnnxRuntime {
 public:
  // The library stays open until the process ends: its threads and its singletons outlive any session.
  Runtime(fs::path path, const Function* table, std::string version)
      : api_(table), path_(std::move(path)), version_(std::move(version)) {
    void* memory = nullptr;
    api_.call(kCreateEnv, kLogFatal, "nibble", &environment_);
    api_.call(kCreateCpuMemoryInfo, kDeviceAllocator, kDefaultMemory, &memory);
    memory_ = api_.own(memory, kReleaseMemoryInfo);
  }

  const std::string& version() const override { return version_; }
  const fs::path& path() const override { return path_; }

  std::unique_ptr<OnnxSession> load(const std::string& model) const override {
    void *raw_options = nullptr, *session = nullptr;
    api_.call(kCreateSessionOptions, &raw_options);
    const auto options = api_.own(raw_options, kReleaseSessionOptions);
    api_.call(kSetIntraOpNumThreads, raw_options, static_cast<int>(thread_count()));
    api_.call(kSetGraphOptimizationLevel, raw_options, kBasicOptimizations);
    // Its threads would wait for work beside those that collect statistics.
    api_.call(kAddSessionConfigEntry, raw_options, "session.intra_op.allow_spinning", "0");
    // Memory that a session keeps for its next run would be held beside the statistics.
    api_.call(kDisableMemPattern, raw_options);
    api_.call(kDisableCpuMemArena, raw_options);
    api_.call(kCreateSessionFromArray, static_cast<const void*>(environment_), static_cast<const void*>(model.data()),
              model.size(), static_cast<const void*>(raw_options), &session);
    return std::make_unique<Session>(api_, api_.own(session, kReleaseSession), memory_);
  }

 private:
  Api api_;
  fs::path path_;
  std::string version_;
  void* environment_ = nullptr;  // one for the process, never released
  std::shared_ptr<void> memory_;
};

std::vector<fs::path> entries(const fs::path& folder) {
  std::vector<fs::path> paths;
  std::error_code failure;
  for (auto entry = fs::directory_iterator(folder, failure); !failure && entry != fs::directory_iterator();
       entry.increment(failure))
    paths.push_back(entry->path());
  std::sort(paths.begin(), paths.end());
  return paths;
}

// libonnxruntime.so, or libonnxruntime.so.1.22.0; not libonnxruntime_providers_shared.so.
std::optional<fs::path> library_in(const fs::path& folder) {
  for (const fs::path& path : entries(folder))
    if (const std::string name = path.filename().string();
        name == "libonnxruntime.so" || name.starts_with("libonnxruntime.so."))
      return path;
  return std::nullopt;
}

// The folders of Python packages below PREFIX.
std::vector<fs::path> python_folders(const fs::path& prefix) {
  std::vector<fs::path> folders;
  for (const char* lib : {"lib", "lib64"})
    for (const fs::path& python : entries(prefix / lib))
      if (python.filename().string().starts_with("python3"))
        for (const char* packages : {"site-packages", "dist-packages"}) folders.push_back(python / packages);
  return folders;
}

std::optional<fs::path> library_of_package(const fs::path& packages) {
  return library_in(packages / "onnxruntime" / "capi");
}

std::optional<fs::path> library_below(const fs::path& folder) {
  for (const fs::path& place : {folder, folder / "lib", folder / "lib64", folder / "capi"})
    if (auto found = library_in(place)) return found;
  if (auto found = library_of_package(folder)) return found;
  for (const fs::path& packages : python_folders(folder))
    if (auto found = library_of_package(packages)) return found;
  return std::nullopt;
}

std::string variable(const char* name) {
  const char* const value = std::getenv(name);
  return value ? value : "";
}

std::optional<fs::path> installed_library() {
  std::vector<fs::path> prefixes;
  if (const std::string venv = variable("VIRTUAL_ENV"); !venv.empty()) prefixes.emplace_back(venv);
  for (const std::string& folder : split(variable("PYTHONPATH"), ':'))
    if (auto found = folder.empty() ? std::nullopt : library_of_package(folder)) return found;
  for (const std::string& folder : split(variable("PATH"), ':'))
    if (std::error_code failure; !folder.empty() && fs::exists(fs::path(folder) / "python3", failure))
      prefixes.push_back(fs::path(folder).parent_path());
  if (const std::string home = variable("HOME"); !home.empty()) prefixes.push_back(fs::path(home) / ".local");
  prefixes.emplace_back("/usr/local");
  prefixes.emplace_back("/usr");
  for (const fs::path& prefix : prefixes)
    for (const fs::path& packages : python_folders(prefix))
      if (auto found = library_of_package(packages)) return found;
  return std::nullopt;
}

constexpr const char* kAdvice =
    "install it (pip install onnxruntime), and name its library or the Python environment that holds it with --ort "
    "PATH "
    "or NIBBLE_ORT";

// What the loader is to open: a file, or a name that it looks for itself.
fs::path find_library(const std::string& place) {
  const std::string named = place.empty() ? variable("NIBBLE_ORT") : place;
  if (named.empty()) return installed_library().value_or("libonnxruntime.so");
  std::error_code failure;
  if (!fs::exists(named, failure)) throw Error(ErrorKind::kUsage, cat(named, ": no such file or folder; ", kAdvice));
  if (!fs::is_directory(named, failure)) return fs::absolute(named);
  if (const auto found = library_below(named)) return fs::absolute(*found);
  throw Error(ErrorKind::kUsage, cat(named, ": holds no libonnxruntime.so; ", kAdvice));
}

}  // namespace

OnnxTensor aligned(OnnxTensor tensor) {
  if (is_aligned(tensor.bytes)) return tensor;
  const auto copy = std::make_shared<const std::vector<std::byte>>(tensor.bytes.begin(), tensor.bytes.end());
  if (tensor.mapped) release_pages(tensor.bytes);
  tensor.bytes = *copy;
  tensor.owner = copy;
  tensor.mapped = false;
  return tensor;
}

std::shared_ptr<const OnnxRuntime> OnnxRuntime::open(const std::string& place) {
  const fs::path path = find_library(place);
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* const why = dlerror();
    if (!path.has_parent_path()) throw Error(ErrorKind::kUsage, cat("ONNX Runtime is not to be found; ", kAdvice));
    throw Error(ErrorKind::kUsage, cat(path.string(), ": cannot be loaded: ", why ? why : "no reason given"));
  }
  const auto base_of = reinterpret_cast<const ApiBase* (*)()>(dlsym(library, "OrtGetApiBase"));
  if (!base_of)
    throw Error(ErrorKind::kUsage, cat(path.string(), ": is not ONNX Runtime: it has no OrtGetApiBase; ", kAdvice));
  const ApiBase* const base = base_of();
  const std::string version = base->version();
  const Function* const table = base->api(kApiVersion);
  if (!table)
    throw Error(ErrorKind::kUsage, cat(path.string(), ": is ONNX Runtime ", version, ", nibble needs ", kOldest,
                                       " or newer: pip install --upgrade onnxruntime"));
  return with_context([&] { return path.string(); },
                      [&] { return std::make_shared<const Runtime>(path, table, version); });
}

}  // namespace nibble
