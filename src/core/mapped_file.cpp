#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/error.h"

namespace nibble {
namespace {

struct FileDescriptor {
  int fd;
  ~FileDescriptor() {
    if (fd >= 0) ::close(fd);
  }
};

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const FileDescriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) throw io_error(cat("cannot open ", path.string()), errno);
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) throw io_error(cat("cannot stat ", path.string()), errno);
  if (!S_ISREG(status.st_mode)) throw Error(ErrorKind::kIo, cat(path.string(), " is not a regular file"));
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return std::shared_ptr<const MappedFile>(new MappedFile(path, {}));
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (address == MAP_FAILED) throw io_error(cat("cannot map ", path.string()), errno);
  return std::shared_ptr<const MappedFile>(new MappedFile(path, {static_cast<const std::byte*>(address), size}));
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void release_pages(std::span<const std::byte> bytes) noexcept {
  static const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data());
  const size_t skip = (page - begin % page) % page;  // to the first whole page
  if (bytes.size() < skip + page) return;
  const size_t length = (bytes.size() - skip) / page * page;
  ::madvise(const_cast<std::byte*>(bytes.data()) + skip, length, MADV_DONTNEED);
}

}  // namespace nibble
