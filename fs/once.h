// Runs what a request asks for once, however many workers die over it. See Deeds.
#pragma once

#include <cstdint>
#include <system_error>

#include "fs/current_request.h"
#include "fs/file_system.h"
#include "fs/reply.h"
#include "lib/deeds.h"

namespace nosigbus {

// The result of deed(), an integer; or what came of it when another worker ran it for this request. Where that worker
// died in the midst, happened(before) tells whether it was done: it returns the result, or nothing, and then it is done
// now. `before` is what things are like now, unless another worker has noted that. What deed() throws is noted too.
template <typename Look, typename Happened, typename Do>
std::int64_t once(FileSystem& fs, Reply& reply, Look look, Happened happened, Do deed) {
    const CurrentRequest& request = current_request();
    Deed noted = request.asked_again ? fs.deeds().find(request.number) : Deed();
    const bool is_known = static_cast<bool>(noted);
    if (!is_known) {
        Before before{};
        date(before);
        look(before);
        noted = fs.deeds().begin(request.number, before);
    }
    Deed& note = reply.keep(std::move(noted));
    if (is_known && note.is_done()) return note.result();
    if (is_known) {
        // A thread that was at it may do it yet. (Where files are opened cached, the caller of an append holds pages
        // that such a thread may wait for.)
        if (fs.channel().maps_direct_files()) fs.former_workers().wait_for_all();
        if (const auto result = happened(note.before())) {
            note.done(*result);
            return *result;
        }
    }
    try {
        const std::int64_t result = deed();
        note.done(result);
        return result;
    } catch (const std::system_error& failure) {
        note.failed(failure.code().value());
        throw;
    }
}

}  // namespace nosigbus
