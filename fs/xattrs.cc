#include <fmt/format.h>
#include <linux/limits.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fs/current_request.h"
#include "fs/fd_views.h"
#include "fs/file_system.h"
#include "fs/handlers.h"
#include "fs/once.h"
#include "fs/reply.h"
#include "fs/set_ids.h"
#include "lib/credentials.h"
#include "lib/fault_point.h"
#include "lib/syscalls.h"

namespace nosigbus::handlers {
namespace {

constexpr std::string_view own_names =
    "user.nosigbus.";  // ours alone: not listed, not to be set, and hiding the source's

// Of a file that nobody has had open, nothing was counted.
std::string stats_of(FileSystem& fs, const Node& node) {
    if (!node.is_regular()) {
        return to_json(fs.counters(), {.engine = name_of(fs.options().engine),
                                       .count = fs.shadows().count(),
                                       .memory = fs.shadows().memory(),
                                       .allowed = static_cast<std::uint64_t>(fs.options().shadow_memory)});
    }
    static const ViewCounters none;
    View* const view = node.view_if_opened();
    const off_t real_size = sys::file_size(node.descriptor());
    if (view == nullptr) return to_json(none, real_size, node.view_size(), not_open, 0);
    const auto shadow = view->shadow();
    return to_json(view->counters(), real_size, node.view_size(), view->engine(), shadow ? shadow->memory() : 0);
}

// The value of one of our own attributes.
std::optional<std::string> own_value(FileSystem& fs, const Node& node, std::string_view name) {
    if (name == "user.nosigbus.counters") return to_text(fs.counters());
    if (name == "user.nosigbus.stats") return stats_of(fs, node);
    if (name == "user.nosigbus.supervisor") return fmt::format("{}", fs.lifeline().supervisor.load());
    if (!node.is_regular()) return std::nullopt;
    if (name == "user.nosigbus.real_size") return fmt::format("{}", sys::file_size(node.descriptor()));
    if (name == "user.nosigbus.view_size") return fmt::format("{}", node.view_size());
    return std::nullopt;
}

// The answer of getxattr(2) and listxattr(2): the size where `size` is 0, else the value if it fits.
void answer_value(Reply& reply, std::span<const char> value, std::size_t size) {
    if (size == 0) {
        reply.xattr_size(value.size());
    } else if (value.size() > size) {
        reply.error(ERANGE);
    } else {
        reply.bytes(std::as_bytes(value));
    }
}

// xattr calls do not take an O_PATH descriptor.
std::string path_of(const Node& node) {
    return sys::proc_path(node.descriptor());
}

bool has_value(const Node& node, const char* name) {
    return ::getxattr(path_of(node).c_str(), name, nullptr, 0) >= 0;
}

std::optional<std::string> value_of(const Node& node, const char* name) {
    std::string value(XATTR_SIZE_MAX, '\0');
    const ssize_t length = ::getxattr(path_of(node).c_str(), name, value.data(), value.size());
    if (length < 0) return std::nullopt;
    value.resize(static_cast<std::size_t>(length));
    return value;
}

#ifdef NOSIGBUS_FAULT_POINTS
void answer_fault(Reply& reply, std::string_view text) {
    if (!ask_for_fault(text)) return reply.error(EINVAL);
    reply.ok();
}
#endif

void refuse_own(const char* name) {
    if (std::string_view(name).starts_with(own_names)) sys::fail(EPERM, name);
}

}  // namespace

void getxattr(fuse_req_t request, fuse_ino_t id, const char* name, std::size_t size) {
    answer(request, [&](Reply& reply) {
        FileSystem& fs = FileSystem::of(request);
        const bool is_own = std::string_view(name).starts_with(own_names);
        if (fd_views::is_directory(id) && !is_own) return reply.error(ENODATA);
        const NodePtr node = fs.nodes().get(fd_views::is_directory(id) ? FUSE_ROOT_ID : id);
        if (!is_own) {
            // Who has a descriptor may not be one who may read these: the kernel asks for a right to the inode.
            if (node->access().is_fd_view) return reply.error(ENODATA);
            std::vector<char> value(std::min<std::size_t>(size, XATTR_SIZE_MAX));
            const ssize_t length =
                sys::check(::getxattr(path_of(*node).c_str(), name, value.data(), value.size()), "getxattr");
            if (size == 0) return reply.xattr_size(static_cast<std::size_t>(length));
            return answer_value(reply, std::span(value).first(static_cast<std::size_t>(length)), size);
        }
        fs.truncations().settle(*node);
        const off_t real_size = node->is_regular() ? sys::file_size(node->descriptor()) : 0;
        fs.when_view_holds(node, real_size,
                           [&fs, reply = std::move(reply), node, name = std::string(name), size]() mutable {
                               const auto value = own_value(fs, *node, name);
                               if (!value) return reply.error(ENODATA);
                               answer_value(reply, *value, size);
                           });
    });
}

void listxattr(fuse_req_t request, fuse_ino_t id, std::size_t size) {
    answer(request, [&](Reply& reply) {
        if (fd_views::is_directory(id)) return answer_value(reply, {}, size);
        const NodePtr node = FileSystem::of(request).nodes().get(id);
        if (node->access().is_fd_view) return answer_value(reply, {}, size);
        std::vector<char> all(XATTR_LIST_MAX);
        const ssize_t length = sys::check(::listxattr(path_of(*node).c_str(), all.data(), all.size()), "listxattr");
        // What the source hides from an ordinary user is listed to us, who are root: listxattr(2) on trusted names.
        const bool is_root = fuse_req_ctx(request)->uid == 0;
        std::string names;
        for (std::string_view rest(all.data(), static_cast<std::size_t>(length)); !rest.empty();) {
            const std::string_view name = rest.substr(0, rest.find('\0') + 1);
            rest.remove_prefix(name.size());
            if (!name.starts_with(own_names) && (is_root || !name.starts_with("trusted."))) names += name;
        }
        answer_value(reply, names, size);
    });
}

void setxattr(fuse_req_t request, fuse_ino_t id, const char* name, const char* value, std::size_t size, int flags) {
    answer(request, [&](Reply& reply) {
#ifdef NOSIGBUS_FAULT_POINTS
        if (std::string_view(name) == "user.nosigbus.fault") return answer_fault(reply, {value, size});
#endif
        refuse_own(name);
        FileSystem& fs = FileSystem::of(request);
        const NodePtr node = fs.nodes().get(id);
        if (node->access().is_fd_view) sys::fail(EPERM, "a view of a descriptor");
        once(
            fs, reply, [&](Before& before) { before.size = has_value(*node, name) ? 1 : 0; },
            [&](const Before& before) -> std::optional<std::int64_t> {
                // Only XATTR_CREATE cannot be done twice.
                const bool was_created = before.size == 0 && value_of(*node, name) == std::string_view(value, size);
                return was_created ? std::optional<std::int64_t>(0) : std::nullopt;
            },
            [&] {
                std::optional<WithoutSetIds> without;
                if (current_request().kills_set_ids) without.emplace(fuse_req_ctx(request)->gid);
                return sys::check(::setxattr(path_of(*node).c_str(), name, value, size, flags), "setxattr");
            });
        reply.ok();
    });
}

void removexattr(fuse_req_t request, fuse_ino_t id, const char* name) {
    answer(request, [&](Reply& reply) {
        refuse_own(name);
        FileSystem& fs = FileSystem::of(request);
        const NodePtr node = fs.nodes().get(id);
        if (node->access().is_fd_view) sys::fail(EPERM, "a view of a descriptor");
        once(
            fs, reply, [&](Before& before) { before.size = has_value(*node, name) ? 1 : 0; },
            [&](const Before& before) -> std::optional<std::int64_t> {
                const bool was_removed = before.size == 1 && !has_value(*node, name);
                return was_removed ? std::optional<std::int64_t>(0) : std::nullopt;
            },
            [&] {
                // Of an access list that goes the kernel does not say whether the set-group-ID bit has to go with it,
                // as it does of one that comes (fuse_set_acl).
                std::optional<WithoutSetIds> without;
                if (name == std::string_view("system.posix_acl_access") && is_stranger(*node, request))
                    without.emplace(fuse_req_ctx(request)->gid);
                return sys::check(::removexattr(path_of(*node).c_str(), name), "removexattr");
            });
        reply.ok();
    });
}

}  // namespace nosigbus::handlers
