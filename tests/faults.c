/* Preloaded (LD_PRELOAD), fails the n-th write below a folder, whatever the library.

FAULT_FOLDER  where writes count
FAULT_COUNT   file of 8 bytes that holds the count, shared by all processes
FAULT_AT      the write that fails; 0: none
FAULT_ERRNO   with which error; a disk that is full (ENOSPC) stays so
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *folder;
static long *count, at;
static int number;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void start(void) {
  const char *file = getenv("FAULT_COUNT");
  if (!file) return;
  int descriptor = REAL(open)(file, O_RDWR);
  count = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  close(descriptor);
  at = atol(getenv("FAULT_AT"));
  number = atoi(getenv("FAULT_ERRNO"));
  folder = getenv("FAULT_FOLDER");
}

static int fails(const char *path) {
  if (!folder || !path || strncmp(path, folder, strlen(folder))) return 0;
  long this = __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
  if (!at || this < at || (this > at && number != ENOSPC)) return 0;
  errno = number;
  return 1;
}

static int fails_open(int descriptor) {
  char link[64], path[4096];
  int before = errno;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = folder ? readlink(link, path, sizeof path - 1) : -1;
  errno = before;
  if (length < 0) return 0;
  path[length] = 0;
  return fails(path);
}

#define OPEN(name)                                              \
  int name(const char *path, int flags, ...) {                  \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    mode_t mode = va_arg(rest, mode_t);                         \
    va_end(rest);                                               \
    if ((flags & O_ACCMODE) != O_RDONLY && fails(path)) return -1; \
    return REAL(name)(path, flags, mode);                       \
  }
#define OPENAT(name)                                            \
  int name(int at_folder, const char *path, int flags, ...) {   \
    va_list rest;                                               \
    va_start(rest, flags);                                      \
    mode_t mode = va_arg(rest, mode_t);                         \
    va_end(rest);                                               \
    if ((flags & O_ACCMODE) != O_RDONLY && fails(path)) return -1; \
    return REAL(name)(at_folder, path, flags, mode);            \
  }
OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)

#define DESCRIPTOR(type, name, parameters, arguments)           \
  type name parameters {                                        \
    return fails_open(descriptor) ? -1 : REAL(name) arguments;  \
  }
DESCRIPTOR(ssize_t, write, (int descriptor, const void *b, size_t n), (descriptor, b, n))
DESCRIPTOR(ssize_t, pwrite, (int descriptor, const void *b, size_t n, off_t o),
           (descriptor, b, n, o))
DESCRIPTOR(ssize_t, pwrite64, (int descriptor, const void *b, size_t n, off64_t o),
           (descriptor, b, n, o))
DESCRIPTOR(ssize_t, writev, (int descriptor, const struct iovec *v, int n),
           (descriptor, v, n))
DESCRIPTOR(int, fsync, (int descriptor), (descriptor))
DESCRIPTOR(int, fdatasync, (int descriptor), (descriptor))
DESCRIPTOR(int, ftruncate, (int descriptor, off_t n), (descriptor, n))
DESCRIPTOR(int, ftruncate64, (int descriptor, off64_t n), (descriptor, n))

int rename(const char *old, const char *new) {
  return fails(new) ? -1 : REAL(rename)(old, new);
}
int link(const char *old, const char *new) {
  return fails(new) ? -1 : REAL(link)(old, new);
}
int mkdir(const char *path, mode_t mode) {
  /* One that exists is often tried, and no write. */
  return !access(path, F_OK) || !fails(path) ? REAL(mkdir)(path, mode) : -1;
}
