#include "tests/bench/scratch.h"

#include <sys/stat.h>

#include "tests/mount/directories.h"
#include "tests/mount/files.h"

namespace nosigbus::bench {

Scratch::Scratch() : root_(test::make_temporary_directory()) {
    test::mount_tmpfs(make_directory("source"));
}

Scratch::~Scratch() {
    test::take_down(root_);
}

std::string Scratch::make_directory(const std::string& name) const {
    std::string directory = root_ + "/" + name;
    test::must(::mkdir(directory.c_str(), 0755), "mkdir");
    return directory;
}

}  // namespace nosigbus::bench
