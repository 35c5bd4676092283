// The process that outlives the one that serves. It mounts, starts a worker, and replaces it when it dies or hangs;
// meanwhile it holds all descriptors, so that nothing is lost. It answers no request, and once it supervises it needs
// nothing that could be missing: no memory, no descriptor, no lock. Should it die, its heir goes on.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "fs/command_line.h"
#include "fs/confinement.h"
#include "fs/daemon.h"
#include "fs/service_manager.h"
#include "fs/succession.h"
#include "fs/worker.h"
#include "lib/shared_state.h"
#include "lib/unique_fd.h"

namespace nosigbus {

class Supervisor {
  public:
    // Of what `state` says is mounted. `line` and `mount_point` are the caller's.
    Supervisor(SharedState& state, const CommandLine& line, std::string mount_point, Daemon daemon);
    Supervisor(const Supervisor&) = delete;
    Supervisor& operator=(const Supervisor&) = delete;
    ~Supervisor();

    // Returns the exit status when the connection has ended, or nothing could be mounted. SIGTERM and SIGINT detach the
    // mount, the second of them ends it at once; SIGHUP has what is installed now take over. `source` is an O_PATH
    // descriptor of the source directory, for the first worker there is; -1 where there was one before. A worker does
    // not return from here: it exits.
    int supervise(int source);

  private:
    using Clock = std::chrono::steady_clock;

    struct Ending {
        int status;
        bool is_known;
    };

    void start_worker();
    void reap();
    void note_end_of_worker(Ending ending);
    void note_serving();
    void check_pulse();
    void act_on_signals();
    void sleep();
    [[nodiscard]] std::chrono::milliseconds patience() const;

    int give_up(Ending ending);
    void end_at_once();
    void detach();
    void add_obituary(Ending ending, std::chrono::milliseconds pause);
    void forget_obituaries_read();
    static void handle_signals(Lifeline& line);
    // Of the signals that a supervisor handles: SIG_BLOCK or SIG_UNBLOCK.
    static void mask_signals(int how);
    // For a child that does not supervise.
    static void ignore_signals();
    // Ends a child, if there is one: `child` becomes 0.
    static void end(pid_t& child);
    // Waits until it has ended, or all have, a second at most.
    static constexpr pid_t all_children = -1;
    static void wait_for(pid_t child);

    // heir.cc
    void start_heir();
    void run_errands_until_end_of(pid_t supervisor);
    void inherit(pid_t from);
    void become_the_supervisor();

    // hand_over.cc
    void begin_reload();
    void note_check(int status);
    void hand_over();
    [[nodiscard]] bool end_worker();
    void execute_successor();
    void keep_for_successor(int ready, pid_t successor);
    void tell_keeper();
    void refuse_reload(const char* why);

    SharedState& state_;
    Lifeline& line_;
    const CommandLine& command_line_;
    const std::string mount_point_;
    Daemon daemon_;
    ServiceManager manager_;
    Succession succession_;
    const Confinement confinement_;
    std::vector<int> descriptors_;  // that the state does not name
    int source_ = -1;

    pid_t worker_ = 0;  // 0: none
    bool hung_ = false;
    bool told_ready_ = false;
    bool is_reloading_ = false;
    Clock::time_point started_;
    Clock::time_point start_at_;
    unsigned short_lives_ = 0;
    std::uint32_t beats_ = 0;
    std::chrono::milliseconds missed_{0};
    Clock::time_point next_look_;
    Clock::time_point dying_until_;  // the worker's first thread has ended, the others have this long
    bool is_dying_ = false;
    // Of workers whose successors had no time to log it. The oldest are lost where there are more.
    std::array<Obituary, 16> obituaries_;
    std::size_t obituary_count_ = 0;
    bool told_to_end_ = false;
    bool is_detached_ = false;  // or soon will be
    pid_t detacher_ = 0;        // 0: none
    pid_t heir_ = 0;            // 0: none
    Clock::time_point heir_at_;
    bool has_ended_ = false;
    int exit_status_ = 0;

    pid_t check_ = 0;  // 0: none
    Clock::time_point check_until_;
    std::uint64_t question_ = 0;
    unsigned hand_overs_left_ = 0;
};

}  // namespace nosigbus
