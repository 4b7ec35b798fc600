// The clocks, the events and the memory of the detection of races.
#include "races.h"

#include "device_state.h"
#include "race_state.h"

#include <algorithm>
#include <cstring>

namespace fxsim::races {

// Never destroyed: tensors may be freed while the process ends.
State& state() {
  static State* const instance = new State();
  return *instance;
}

void join(Clock& clock, const Clock& other) {
  for (const auto& [stream, count] : other) {
    auto& known = clock[stream];
    known = std::max(known, count);
  }
}

bool is_before(const Use& use, const Clock& clock) {
  const auto found = clock.find(use.stream);
  return found != clock.end() && found->second >= use.count;
}

// The clock of a stream for what the host issues now.
Clock& clock_of(StreamKey stream) {
  auto& clock = state().clocks[stream];
  join(clock, state().host);
  return clock;
}

void deliver(const Deliveries& deliveries) {
  for (const auto& each : deliveries) {
    std::memcpy(each.destination.mutable_data_ptr(), each.bytes.data(), each.bytes.size());
  }
}

// Lets the host know all that a clock knows.
void host_joins(const Clock& clock) {
  Deliveries taken;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    join(state().host, clock);
    taken = take_deliveries([](const Delivery& each) { return is_before(each.copy, state().host); });
    deliver(taken);
  }
}

Clock clock_now(StreamKey stream) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  return clock_of(stream);
}

bool is_on() {
  return state().is_on.load(std::memory_order_relaxed);
}

bool start() {
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (state().is_on) {
    return false;
  }
  ++state().session;
  state().clocks.clear();
  state().host.clear();
  state().dropped.clear();
  state().found.clear();
  state().is_on = true;
  return true;
}

std::vector<std::string> stop() {
  Deliveries taken;
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().is_on = false;
  taken.swap(state().deliveries);
  deliver(taken);
  return {state().found.begin(), state().found.end()};
}

StreamKey current(int device) {
  return {device, current_stream(device)};
}

StreamKey key(const c10::Stream& stream) {
  return {stream.device_index(), stream.id()};
}

void allocated(History& history, int device) {
  const StreamKey owner = current(device);
  history.owner = owner;
  if (!is_on()) {
    return;
  }
  const std::lock_guard<std::mutex> lock(state().mutex);
  const Clock& clock = clock_of(owner);
  auto& pool = state().dropped[owner];
  pool.erase(
      std::remove_if(pool.begin(), pool.end(), [&](const Use& use) { return is_before(use, clock); }), pool.end());
  history = History{state().session, owner, {}, std::nullopt, {}, pool};
}

void dropped(const History& history) noexcept {
  if (!is_on()) {
    return;
  }
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (history.session != state().session) {
    return;
  }
  const auto add = [&](const Use& use) {
    const auto& lent = history.lent_to;
    if (use.stream != history.owner && std::find(lent.begin(), lent.end(), use.stream) == lent.end()) {
      state().dropped[history.owner].push_back(use);
    }
  };
  if (history.write.has_value()) {
    add(*history.write);
  }
  std::for_each(history.reads.begin(), history.reads.end(), add);
}

void lent(History& history, const c10::Stream& stream) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  auto& streams = history.lent_to;
  if (std::find(streams.begin(), streams.end(), key(stream)) == streams.end()) {
    streams.push_back(key(stream));
  }
}

Moment recorded(const c10::Stream& stream) {
  if (!is_on()) {
    return {};
  }
  const std::lock_guard<std::mutex> lock(state().mutex);
  return {state().session, clock_of(key(stream))};
}

void waits(const c10::Stream& stream, const Moment& moment) {
  if (is_on()) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (moment.session == state().session) {
      join(clock_of(key(stream)), moment.clock);
    }
  }
}

void host_waits(const Moment& moment) {
  if (is_on() && moment.session == state().session) {
    host_joins(moment.clock);
  }
}

void host_waits(const c10::Stream& stream) {
  if (is_on()) {
    host_joins(clock_now(key(stream)));
  }
}

void host_waits_for_device(int device) {
  if (!is_on()) {
    return;
  }
  Clock all;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    for (const auto& [stream, clock] : state().clocks) {
      if (stream.first == device) {
        join(all, clock);
      }
    }
  }
  host_joins(all);
}

}  // namespace fxsim::races
