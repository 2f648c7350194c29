#include "export/exporter.h"

#include <array>

#include "core/error.h"

namespace nibble {

#define NIBBLE_EXPORTER(name) extern const ExporterEntry exporter_##name;
#include "export/exporters.def"
#undef NIBBLE_EXPORTER

std::span<const ExporterEntry> exporters() {
  static const std::array entries = {
#define NIBBLE_EXPORTER(name) exporter_##name,
#include "export/exporters.def"
#undef NIBBLE_EXPORTER
  };
  return entries;
}

const ExporterEntry& find_exporter(std::string_view name) {
  std::string known;
  for (const ExporterEntry& entry : exporters()) {
    if (entry.name == name) return entry;
    known += cat(known.empty() ? "" : ", ", entry.name);
  }
  throw Error(ErrorKind::kUsage, cat("unknown format '", name, "'; known are ", known));
}

void check_cache_scales(const ExporterEntry& format) {
  if (!format.cache_scales)
    throw Error(ErrorKind::kUsage, cat("format ", format.name,
                                       " has no place for scales of keys and values: leave out --kv-cache-scheme, or "
                                       "use --format hf"));
}

void check_output(const ExporterEntry& format, const OutputModel& model) {
  for (const OutputTensor& tensor : model.tensors) format.check(tensor);
  if (format.check_model != nullptr) format.check_model(model);
  if (!model.cache_scales.empty()) check_cache_scales(format);
}

}  // namespace nibble
