#define PCRE2_CODE_UNIT_WIDTH 8
#include "core/regex.h"

#include <pcre2.h>

#include "core/error.h"

namespace nibble {
namespace {

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};

std::string describe(int code) {
  PCRE2_UCHAR text[256] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// Match data and a JIT stack that grows to what long runs of one class need; one of each per thread.
struct Scratch {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(size_t{32} << 10, size_t{8} << 20, nullptr);
  Scratch() {
    if (!data || !context) throw std::bad_alloc();
    pcre2_set_heap_limit(context, uint32_t{1} << 20);  // in KiB: hostile patterns fail at 1 GiB, not at the default 20
    if (stack) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Scratch() {
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

}  // namespace

struct Regex::Impl {
  std::unique_ptr<pcre2_code, FreeCode> code;

  std::optional<Match> match(std::string_view text, size_t start, uint32_t options) const {
    thread_local Scratch scratch;
    const auto run = [&](uint32_t all_options) {
      return pcre2_match(code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), start, all_options,
                         scratch.data, scratch.context);
    };
    int rc = run(options);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) rc = run(options | PCRE2_NO_JIT);  // backtracks on the heap instead
    if (rc == PCRE2_ERROR_NOMATCH || (rc <= PCRE2_ERROR_UTF8_ERR1 && rc >= PCRE2_ERROR_UTF8_ERR21)) return std::nullopt;
    if (rc < 0)
      throw Error(ErrorKind::kUnsupported, cat("regular expression failed at byte ", start, ": ", describe(rc)));
    const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(scratch.data);
    return Match{offsets[0], offsets[1]};
  }
};

Regex::Regex(std::string_view pattern) : impl_(std::make_unique<Impl>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP,
                                  &error, &offset, nullptr));
  if (!impl_->code)
    throw Error(ErrorKind::kUsage,
                cat("regular expression '", pattern, "' is wrong at character ", offset, ": ", describe(error)));
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);  // without JIT the interpreter gives the same matches
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::optional<Regex::Match> Regex::find(std::string_view text, size_t start) const {
  return impl_->match(text, start, PCRE2_NO_UTF_CHECK);
}

bool Regex::matches_prefix(std::string_view text) const { return impl_->match(text, 0, PCRE2_ANCHORED).has_value(); }

}  // namespace nibble
