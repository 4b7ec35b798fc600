// What the detection of races knows, shared by its two files.
#pragma once

#include "races.h"

#include <atomic>
#include <mutex>
#include <set>

namespace fxsim::races {

// A copy into pinned memory of the host that has not arrived as far as the host knows.
struct Delivery {
  Use copy;
  std::vector<char> bytes;
  at::Tensor destination;
};

using Deliveries = std::vector<Delivery>;

struct State {
  std::mutex mutex;
  std::atomic<bool> is_on{false};
  int64_t session = 0;
  std::map<StreamKey, Clock> clocks;
  Clock host;
  std::map<StreamKey, std::vector<Use>> dropped;  // uses of dropped memory, by its owner
  Deliveries deliveries;
  std::set<std::string> found;
};

// The lock is held by the caller of all of these but `state`, `host_joins` and `clock_now`.
State& state();
void join(Clock& clock, const Clock& other);
bool is_before(const Use& use, const Clock& clock);
Clock& clock_of(StreamKey stream);  // for what the host issues now
void deliver(const Deliveries& deliveries);

// Takes out the deliveries of which `is_taken` holds. They hold tensors, which must not be dropped
// under the lock, for that can take the GIL.
template <typename Predicate>
Deliveries take_deliveries(const Predicate& is_taken) {
  Deliveries taken, kept;
  for (auto& each : state().deliveries) {
    (is_taken(each) ? taken : kept).push_back(std::move(each));
  }
  state().deliveries.swap(kept);
  return taken;
}

void host_joins(const Clock& clock);
Clock clock_now(StreamKey stream);

}  // namespace fxsim::races
