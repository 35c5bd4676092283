// The mount itself: made through libfuse (as root by mount(2), else by fusermount3), ended without harm to mapped
// readers.
#pragma once

#include <fuse_lowlevel.h>
#include <sys/types.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "lib/options.h"
#include "lib/unique_fd.h"

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

// What libfuse has to say goes to our log from here on.
void take_log_of_libfuse();

// Mounts on `mount_point`, an absolute path, by means of `session`, and keeps it mounted while the session lives.
// Returns /dev/fuse of this mount, which is the session's. Throws MountFailed.
int mount_at(const std::string& mount_point, fuse_session* session);

// The device number that stat(2) shows on what is mounted there. Does not ask the file system. Throws
// std::system_error.
dev_t device_of_mount(const std::string& mount_point);

// Asks the file system behind `root`, an O_PATH descriptor, something. Throws std::system_error where it does not
// answer well.
void try_mount(int root);

// Takes our mount, of this device number, out of sight (MNT_DETACH). Whoever has files open or mapped keeps them, and
// the connection ends when the last one is gone. fuse_session_unmount would close the device first, and every mapped
// reader would fault. May wait for what is still to be written back. Logs what fails.
void detach_mount(const std::string& mount_point, dev_t device) noexcept;

// Where the kernel can be told how far to read ahead in a mount: sysfs. Empty for who may not.
UniqueFd open_readahead(dev_t device);

// Lets a cold sequential reader of the mount wait less often: the kernel reads this much ahead, where INIT can only ask
// for less than its default of 128 KiB. More than that makes a single fault dearer. Once INIT was answered, which sets
// it. Root only; others keep the default.
void raise_readahead(const UniqueFd& readahead);

// Warns where the kernel is set up to end connections whose server takes long (fs.fuse.*_request_timeout): that would
// be a SIGBUS for every mapped reader.
void warn_of_request_timeouts();

}  // namespace nosigbus
