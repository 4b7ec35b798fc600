// The uses of memory by operations, each checked against those before it.
#include "races.h"

#include "allocator.h"
#include "device_state.h"
#include "race_state.h"

#include <c10/core/Device.h>

#include <algorithm>
#include <cstring>

namespace fxsim::races {
namespace {

constexpr int kPoison = 0xFF;  // NaN, and -1 of integers

std::string text(StreamKey stream) {
  return "stream " + std::to_string(stream.second) + " of " +
      c10::Device(kSim, static_cast<c10::DeviceIndex>(stream.first)).str();
}

std::string text(const Use& use) {
  return use.operation + " in " + text(use.stream);
}

History& fresh(History& history) {
  if (history.session != state().session) {
    history = History{state().session, history.owner, std::move(history.lent_to), std::nullopt, {}, {}};
  }
  return history;
}

void check(const Use& first, const Use& second, const char* first_does, const char* second_does) {
  if (!is_before(first, state().clocks[second.stream])) {
    state().found.insert(
        text(second) + " " + second_does + " memory that " + text(first) + " " + first_does +
        ", and may run before it has ended; expected an event of the one stream that the other waits for");
  }
}

void check_taken_over(const Use& first, const Use& second) {
  if (!is_before(first, state().clocks[second.stream])) {
    state().found.insert(
        text(second) + " may be given memory that " + text(first) +
        " still uses: it was dropped before; expected record_stream, or a reference that is kept longer");
  }
}

}  // namespace

void Operation::begin(int device, std::optional<StreamKey> after) {
  if (!is_on() || use_.has_value()) {
    return;
  }
  const std::lock_guard<std::mutex> lock(state().mutex);
  const StreamKey stream = current(device);
  auto& clock = clock_of(stream);
  if (after.has_value()) {
    join(clock, state().clocks[*after]);
  }
  use_ = Use{stream, ++clock[stream], std::string(name_)};
}

void Operation::uses(const c10::Storage& storage, bool is_write) {
  auto* found = is_on() ? history_of(storage) : nullptr;
  if (found == nullptr) {
    return;
  }
  begin(storage.device().index());
  if (!use_.has_value()) {
    return;  // it was switched off meanwhile
  }
  const std::lock_guard<std::mutex> lock(state().mutex);
  auto& history = fresh(*found);
  const char* does = is_write ? "writes" : "reads";
  if (history.write.has_value()) {
    check(*history.write, *use_, "writes", does);
  }
  for (const auto& use : history.earlier) {
    check_taken_over(use, *use_);
  }
  if (!is_write) {
    auto& reads = history.reads;
    reads.erase(
        std::remove_if(reads.begin(), reads.end(), [&](const Use& use) { return use.stream == use_->stream; }),
        reads.end());
    reads.push_back(*use_);
    return;
  }
  for (const auto& use : history.reads) {
    check(use, *use_, "reads", does);
  }
  history.write = *use_;
  history.reads.clear();
  history.earlier.clear();
}

void Operation::ends_before(StreamKey stream) const {
  if (use_.has_value()) {
    const std::lock_guard<std::mutex> lock(state().mutex);
    join(state().clocks[stream], state().clocks[use_->stream]);
  }
}

void Operation::wait_on_host() const {
  if (use_.has_value()) {
    host_joins(clock_now(use_->stream));
  }
}

void Operation::delivers_later(const at::Tensor& destination) const {
  if (!use_.has_value()) {
    return;
  }
  auto* memory = static_cast<char*>(destination.mutable_data_ptr());
  const size_t num_bytes = destination.nbytes();
  Delivery delivery{*use_, std::vector<char>(memory, memory + num_bytes), destination};
  std::memset(memory, kPoison, num_bytes);
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().deliveries.push_back(std::move(delivery));
}

void Operation::reads_host(const at::Tensor& source) const {
  if (!use_.has_value()) {
    return;
  }
  Deliveries taken;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    taken = take_deliveries([&](const Delivery& each) { return each.destination.is_alias_of(source); });
    for (const auto& each : taken) {
      check(each.copy, *use_, "fills", "reads");
    }
    deliver(taken);
  }
}

}  // namespace fxsim::races
