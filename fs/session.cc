#include "fs/session.h"

#include <cerrno>

#include "fs/operations.h"
#include "lib/syscalls.h"

namespace nosigbus {
namespace {

struct FreeArguments {
    void operator()(fuse_args* arguments) const { fuse_opt_free_args(arguments); }
};

Session new_session(const std::vector<std::string>& arguments, const fuse_lowlevel_ops& handlers, FileSystem* fs) {
    fuse_args copies = FUSE_ARGS_INIT(0, nullptr);
    const std::unique_ptr<fuse_args, FreeArguments> owner(&copies);
    for (const std::string& argument : arguments) {
        if (fuse_opt_add_arg(&copies, argument.c_str()) != 0) sys::fail(ENOMEM, "fuse_opt_add_arg");
    }
    return Session(fuse_session_new(&copies, &handlers, sizeof handlers, fs));
}

}  // namespace

Session make_session(const std::vector<std::string>& arguments, FileSystem& fs) {
    return new_session(arguments, operations(), &fs);
}

Session make_session(const std::vector<std::string>& arguments) {
    return new_session(arguments, {}, nullptr);
}

}  // namespace nosigbus
