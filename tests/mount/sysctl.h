// A number of the whole system, changed while the object lives.
#pragma once

#include <fstream>
#include <stdexcept>
#include <string>

namespace nosigbus::test {

class Sysctl {
  public:
    Sysctl(std::string path, long value) : path_(std::move(path)) {
        if (!(std::ifstream(path_) >> before_)) throw std::runtime_error("cannot read " + path_);
        set(value);
    }
    Sysctl(const Sysctl&) = delete;
    Sysctl& operator=(const Sysctl&) = delete;
    ~Sysctl() { std::ofstream(path_) << before_; }

    void set(long value) const {
        if (!(std::ofstream(path_) << value << std::flush)) throw std::runtime_error("cannot set " + path_);
    }

  private:
    std::string path_;
    long before_ = 0;
};

}  // namespace nosigbus::test
