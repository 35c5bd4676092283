// What the clients do whose server is killed all the time. Each has files of its own, named after its number, and
// throws at the first thing that is not exactly as it would be if nothing happened to the server.
#pragma once

#include "tests/mount/files.h"
#include "tests/mount/storm_clients.h"
#include "tests/mount/view_mount.h"

namespace nosigbus::test {

// How the storm's mount is mounted.
inline constexpr std::size_t storm_max_size = 4 * MiB;

using StormLife = void (*)(Diary& diary, const ViewMount& mount, unsigned number);

// Files that nobody changes. The first empties the page cache often, so that its loads go to the server.
void load_everywhere(Diary& diary, const ViewMount& mount, unsigned number);
void read_everywhere(Diary& diary, const ViewMount& mount, unsigned number);

// Files that change beside the mount all the time: rewritten; cut, punched and rewritten, by odd numbers with a writer
// of the view, too; and changes that must show without a barrier.
void follow_generations(Diary& diary, const ViewMount& mount, unsigned number);
void follow_cuts(Diary& diary, const ViewMount& mount, unsigned number);
void wait_for_changes(Diary& diary, const ViewMount& mount, unsigned number);

// Writers through the mount, and what the file has after each call.
void write_everywhere(Diary& diary, const ViewMount& mount, unsigned number);
void append_records(Diary& diary, const ViewMount& mount, unsigned number);
void store_everywhere(Diary& diary, const ViewMount& mount, unsigned number);
void outgrow_views(Diary& diary, const ViewMount& mount, unsigned number);
void use_nameless_files(Diary& diary, const ViewMount& mount, unsigned number);

// Names: all that makes, moves, marks and removes them; full listings; open, close, stat and statfs.
void change_names(Diary& diary, const ViewMount& mount, unsigned number);
void list_names(Diary& diary, const ViewMount& mount, unsigned number);
void look_around(Diary& diary, const ViewMount& mount, unsigned number);

}  // namespace nosigbus::test
