#include "pipeline/journal.h"

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace nibble {
namespace {

constexpr const char* kFile = "journal.json";

}  // namespace

void write_journal(const Journal& journal, const std::filesystem::path& folder) {
  const OrderedJson json = {{"key", journal.key},
                            {"source", journal.data.source},
                            {"notes", journal.data.notes},
                            {"documents", journal.data.documents}};
  const std::filesystem::path unfinished = folder / "journal.unfinished";
  write_text_file(unfinished, json.dump());
  std::error_code failed;
  std::filesystem::rename(unfinished, folder / kFile, failed);
  if (failed) throw io_error(cat("cannot rename ", unfinished.string()), failed.value());
}

std::optional<Journal> read_journal(const std::filesystem::path& folder, const std::string& key) {
  const std::filesystem::path path = folder / kFile;
  if (!std::filesystem::exists(path)) return std::nullopt;
  const Json json = read_json_file(path);
  Journal journal;
  journal.key = get_string(json, "key");
  if (journal.key != key)
    throw Error(ErrorKind::kUsage, cat(folder.string(),
                                       " was begun with another model or other options; give the same ones, or start "
                                       "anew without --resume"));
  journal.data.source = get_string(json, "source");
  try {
    journal.data.notes = get(json, "notes").get<std::vector<std::string>>();
    journal.data.documents = get(json, "documents").get<std::vector<std::vector<TokenId>>>();
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::kCorrupt, cat(path.string(), ": ", error.what()));
  }
  return journal;
}

}  // namespace nibble
