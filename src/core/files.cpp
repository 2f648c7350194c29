#include "core/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <system_error>

#include "core/error.h"
#include "core/mapped_file.h"

namespace fs = std::filesystem;

namespace nibble {
namespace {

void sync_path(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw io_error(cat("cannot open ", path.string()), errno);
  const int failed = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  if (failed) throw io_error(cat("cannot sync ", path.string()), failed);
}

void rename_path(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw io_error(cat("cannot rename ", from.string(), " to ", to.string()), errno);
}

// A dangling link exists too.
bool occupied(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

Error already_exists(const fs::path& path) {
  return {ErrorKind::kUsage, cat(path.string(), " exists; choose another name or replace it with --force")};
}

fs::path with_suffix(fs::path path, const char* suffix) {
  path += suffix;
  return path;
}

// `from` takes the place of `to`, which is removed. Exchanging leaves no moment without a whole `to`; where the file
// system cannot exchange, the old one steps aside.
void replace_path(const fs::path& from, const fs::path& to) {
  std::error_code ignored;
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(from, ignored);
    return;
  }
  fs::path old = with_suffix(to, ".replaced");
  while (occupied(old)) old += "_";
  rename_path(to, old);
  try {
    rename_path(from, to);
  } catch (...) {
    fs::rename(old, to, ignored);
    throw;
  }
  fs::remove_all(old, ignored);
}

// "out/" names the folder "out"; ".." and "." have no name to rename to.
fs::path normalized(const fs::path& destination) {
  fs::path path = destination.lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename() || path.filename() == "." || path.filename() == "..")
    throw Error(ErrorKind::kUsage, cat("'", destination.string(), "' cannot be an output; name a new file or folder"));
  return path;
}

}  // namespace

std::string read_text_file(const fs::path& path) {
  const auto file = MappedFile::open(path);
  return {reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()};
}

OutputFile::OutputFile(const fs::path& path)
    : path_(path), fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (fd_ < 0) throw io_error(cat("cannot create ", path.string()), errno);
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) ::close(fd_);
}

void OutputFile::write_at(size_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw io_error(cat("cannot write ", path_.string(), " at offset ", offset), errno);
    offset += static_cast<size_t>(written);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void OutputFile::reserve(size_t size) {
  if (size == 0) return;
  if (::fallocate(fd_, 0, 0, static_cast<off_t>(size)) == 0) return;
  if (errno == EOPNOTSUPP || errno == ENOSYS || errno == EINTR) return;  // some file systems cannot; writing will tell
  throw io_error(cat("cannot reserve ", size, " bytes for ", path_.string()), errno);
}

void OutputFile::start_writeback() noexcept { ::sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE); }

void OutputFile::sync_and_close() {
  if (::fsync(fd_) != 0) throw io_error(cat("cannot sync ", path_.string()), errno);
  const int fd = std::exchange(fd_, -1);
  if (::close(fd) != 0) throw io_error(cat("cannot close ", path_.string()), errno);
}

void write_text_file(const fs::path& path, std::string_view text) {
  OutputFile file(path);
  file.write_at(0, std::as_bytes(std::span(text)));
  file.sync_and_close();
}

void copy_file_synced(const fs::path& from, const fs::path& to) {
  const auto source = MappedFile::open(from);
  OutputFile file(to);
  constexpr size_t kChunk = size_t{4} << 20;
  for (size_t offset = 0; offset < source->bytes().size(); offset += kChunk) {
    const auto chunk = source->bytes().subspan(offset, std::min(kChunk, source->bytes().size() - offset));
    file.write_at(offset, chunk);
    release_pages(chunk);
  }
  file.sync_and_close();
}

TemporaryFolder::TemporaryFolder() {
  std::string name = (fs::temp_directory_path() / "nibble-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) throw io_error(cat("cannot create the folder ", name), errno);
  path_ = name;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

StagedOutput::StagedOutput(fs::path destination, bool folder, bool force, bool resume)
    : destination_(normalized(destination)), staging_(with_suffix(destination_, ".partial")), force_(force) {
  if (!force_ && occupied(destination_)) throw already_exists(destination_);
  std::error_code ignored;
  if (resume && fs::is_directory(staging_, ignored)) return;
  fs::remove_all(staging_, ignored);
  if (folder) {
    if (::mkdir(staging_.c_str(), 0777) != 0) throw io_error(cat("cannot create ", staging_.string()), errno);
  } else {
    OutputFile probe(staging_);  // an unwritable place is found before the work
  }
}

StagedOutput::~StagedOutput() {
  std::error_code ignored;
  if (!committed_ && !keep_) fs::remove_all(staging_, ignored);
}

void StagedOutput::commit() { place(staging_); }

void StagedOutput::commit(const fs::path& name) {
  place(staging_ / name);
  std::error_code ignored;
  fs::remove_all(staging_, ignored);
}

void StagedOutput::place(const fs::path& finished) {
  sync_path(finished);
  if (occupied(destination_)) {
    if (!force_) throw already_exists(destination_);
    replace_path(finished, destination_);
  } else {
    rename_path(finished, destination_);
  }
  committed_ = true;
  sync_path(destination_.has_parent_path() ? destination_.parent_path() : fs::path("."));
}

}  // namespace nibble
