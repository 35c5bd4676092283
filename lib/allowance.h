// Lets something be done as fast as it comes for a burst, and for a share of the time thereafter.
#pragma once

#include <algorithm>
#include <chrono>

namespace nosigbus {

class Allowance {
  public:
    using Clock = std::chrono::steady_clock;

    // `share` of the time, in hundredths; what is left of it may be saved up to `burst`.
    Allowance(int share, Clock::duration burst) : share_(share), burst_(burst), left_(burst) {}

    void spend(Clock::duration time, Clock::time_point now) {
        earn(now);
        left_ = std::max(left_ - time, -burst_);  // what took very long once is no reason to stop for longer than that
    }

    // From when on there is something left to spend.
    Clock::time_point ready(Clock::time_point now) {
        earn(now);
        if (left_ > Clock::duration::zero()) return now;
        return now + (least_ - left_) * 100 / share_;
    }

  private:
    // So much at least is earned before it goes on: it does not stop and go for every bit.
    static constexpr Clock::duration least_ = std::chrono::milliseconds(1);

    void earn(Clock::time_point now) {
        if (earned_at_ != Clock::time_point{}) left_ = std::min(burst_, left_ + (now - earned_at_) * share_ / 100);
        earned_at_ = now;
    }

    const int share_;
    const Clock::duration burst_;
    Clock::duration left_;
    Clock::time_point earned_at_;
};

}  // namespace nosigbus
