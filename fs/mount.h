// The mount itself: made through libfuse (as root by mount(2), else by fusermount3), ended without harm to mapped
// readers.
#pragma once

#include <fuse_lowlevel.h>
#include <sys/types.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "lib/options.h"

namespace nosigbus {

// Why there is no mount. what() is one line, or empty where fusermount3 has said it already.
class MountFailed : public std::runtime_error {
  public:
    MountFailed(const std::string& what, int exit_status) : std::runtime_error(what), exit_status_(exit_status) {}
    [[nodiscard]] int exit_status() const { return exit_status_; }

  private:
    int exit_status_;
};

// What fuse_session_new is given: `source` is shown in /proc/mounts as it stands here.
std::vector<std::string> session_arguments(const std::string& source, const Options& options, bool debug);

class Mount {
  public:
    // Mounts on `mount_point`, an absolute path. Throws MountFailed.
    Mount(fuse_session* session, std::string mount_point);
    Mount(const Mount&) = delete;
    Mount& operator=(const Mount&) = delete;
    // The connection has ended, or nobody uses the mount any more.
    ~Mount();

    // /dev/fuse of this mount; the session's.
    [[nodiscard]] int device_fd() const { return device_fd_; }

    // The device number that stat(2) shows on the mount. Does not ask the file system.
    [[nodiscard]] dev_t device() const { return device_; }

    // Asks the file system something. Throws std::system_error where it does not answer well.
    void try_it() const;

    // Takes the mount out of sight (MNT_DETACH). Whoever has files open or mapped keeps them, and the connection ends
    // when the last one is gone. fuse_session_unmount would close the device first, and every mapped reader would
    // fault.
    void detach() const;

  private:
    fuse_session* session_;
    std::string mount_point_;
    int device_fd_;
    dev_t device_;
};

// Lets a cold sequential reader of the mount wait less often: the kernel reads this much ahead, where INIT can only ask
// for less than its default of 128 KiB. More than that makes a single fault dearer. Root only; others keep the default.
void raise_readahead(dev_t device);

// Warns where the kernel is set up to end connections whose server takes long (fs.fuse.*_request_timeout): that would
// be a SIGBUS for every mapped reader.
void warn_of_request_timeouts();

}  // namespace nosigbus
