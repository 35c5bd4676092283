/* Mappings whose loads do not fault. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/client/close.h"
#include "lib/client/nosigbus.h"

struct nosigbus_mapping {
    void* data;
    size_t length;
    off_t offset; /* in the file */
    int view;     /* -1: plain */
};

static int fail(int error) {
    errno = error;
    return -1;
}

/* What mmap(2) would refuse, too, but of a view only when there is one; and stores into a file that is sealed against
 * them, which it would not refuse of a view. */
static int check(int fd, int protection, off_t offset, size_t length) {
    if (protection != PROT_READ && protection != (PROT_READ | PROT_WRITE)) return fail(EINVAL);
    if (offset < 0 || offset % sysconf(_SC_PAGESIZE) != 0 || length == 0) return fail(EINVAL);
    if (length > (uint64_t)(INT64_MAX - offset)) return fail(EOVERFLOW);
    if ((protection & PROT_WRITE) == 0) return 0;
    const int seals = fcntl(fd, F_GET_SEALS); /* -1, EINVAL: it cannot be sealed */
    return seals >= 0 && (seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) != 0 ? fail(EPERM) : 0;
}

static int map_file(nosigbus_mapping* mapping, int fd, int protection) {
    mapping->data = mmap(NULL, mapping->length, protection, MAP_SHARED, fd, mapping->offset);
    /* Before Linux 6.7 a file sealed against stores cannot be mapped shared by a descriptor that is open for writing,
     * not even to be read. As its content is final, a private mapping is the same. */
    if (mapping->data == MAP_FAILED && errno == EPERM && protection == PROT_READ)
        mapping->data = mmap(NULL, mapping->length, protection, MAP_PRIVATE, fd, mapping->offset);
    return mapping->data == MAP_FAILED ? -1 : 0;
}

static int map_view(nosigbus_mapping* mapping, int views, int fd, int protection) {
    mapping->view = nosigbus_open(views, fd, (protection & PROT_WRITE) != 0 ? O_RDWR : O_RDONLY);
    if (mapping->view < 0) return -1;
    const off_t size = nosigbus_view_size(mapping->view);
    int result = size < 0 ? -1 : 0;
    if (result == 0 && size - mapping->offset < (off_t)mapping->length) result = fail(EOVERFLOW);
    if (result == 0) result = map_file(mapping, mapping->view, protection);
    if (result != 0) close_and_keep_errno(mapping->view);
    return result;
}

nosigbus_mapping* nosigbus_map(int views, int fd, int protection, off_t offset, size_t length) {
    if (check(fd, protection, offset, length) != 0) return NULL;
    const int plain = nosigbus_cannot_fault(fd, offset + (off_t)length);
    if (plain < 0) return NULL;
    nosigbus_mapping* const mapping = malloc(sizeof(*mapping));
    if (mapping == NULL) return NULL;
    *mapping = (nosigbus_mapping){.length = length, .offset = offset, .view = -1};
    if ((plain ? map_file(mapping, fd, protection) : map_view(mapping, views, fd, protection)) == 0) return mapping;
    const int error = errno;
    free(mapping);
    errno = error;
    return NULL;
}

void* nosigbus_data(const nosigbus_mapping* mapping) {
    return mapping->data;
}

size_t nosigbus_length(const nosigbus_mapping* mapping) {
    return mapping->length;
}

int nosigbus_view(const nosigbus_mapping* mapping) {
    return mapping->view;
}

int nosigbus_sync_mapping(const nosigbus_mapping* mapping, size_t start, size_t length) {
    if (start > mapping->length || length > mapping->length - start) return fail(EINVAL);
    const size_t all = mapping->length - start;
    if (mapping->view < 0 || all == 0) return 0;
    return nosigbus_sync(mapping->view, mapping->offset + (off_t)start, (off_t)(length == 0 ? all : length));
}

void nosigbus_unmap(nosigbus_mapping* mapping) {
    if (mapping == NULL) return;
    const int error = errno;
    munmap(mapping->data, mapping->length);
    if (mapping->view >= 0) close(mapping->view);
    free(mapping);
    errno = error;
}
