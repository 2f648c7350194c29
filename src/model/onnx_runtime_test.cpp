#include "model/onnx_runtime.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gnu/libc-version.h>

#include "core/error.h"
#include "core/files.h"

namespace nibble {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string error(const std::string& place) {
  try {
    OnnxRuntime::open(place);
  } catch (const Error& failure) {
    EXPECT_EQ(failure.kind(), ErrorKind::kUsage);
    return failure.what();
  }
  return "";
}

// What works is tested in tests/interop, with the library.
TEST(OnnxRuntime, SaysWhatItLooksFor) {
  const TemporaryFolder folder;
  EXPECT_THAT(error(folder.path() / "nowhere"), AllOf(HasSubstr("nowhere: no such file"), HasSubstr("--ort PATH")));
  EXPECT_THAT(error(folder.path()), AllOf(HasSubstr("holds no libonnxruntime.so"), HasSubstr("pip install")));
  std::filesystem::create_directories(folder.path() / "capi");
  write_text_file(folder.path() / "capi" / "libonnxruntime_providers_shared.so", "another");
  EXPECT_THAT(error(folder.path()), HasSubstr("holds no libonnxruntime.so"));
  write_text_file(folder.path() / "capi" / "libonnxruntime.so.1.22.0", "no library");
  EXPECT_THAT(error(folder.path()), AllOf(HasSubstr("libonnxruntime.so.1.22.0"), HasSubstr("cannot be loaded")));
}

TEST(OnnxRuntime, LooksInPythonEnvironments) {
  const TemporaryFolder folder;
  const auto capi = folder.path() / "lib" / "python3.99" / "site-packages" / "onnxruntime" / "capi";
  std::filesystem::create_directories(capi);
  write_text_file(capi / "libonnxruntime.so.1.2.3", "no library");
  EXPECT_THAT(error(folder.path()), HasSubstr("libonnxruntime.so.1.2.3: cannot be loaded"));
}

TEST(OnnxRuntime, OtherLibrariesAreRefused) {
  Dl_info info{};
  ASSERT_NE(dladdr(reinterpret_cast<void*>(&gnu_get_libc_version), &info), 0);  // which sanitizers leave alone
  EXPECT_THAT(error(std::filesystem::canonical(info.dli_fname)), HasSubstr("is not ONNX Runtime"));
}

}  // namespace
}  // namespace nibble
