#include "device_state.h"

#include <c10/util/Exception.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <string>
#include <utility>

namespace fxsim {
namespace {

struct DeviceState {
  std::atomic<int64_t> operations{0};
  std::atomic<int64_t> allocated{0};
  std::atomic<int64_t> peak{0};
  std::atomic<int64_t> limit{-1};
  std::atomic<int64_t> ooms{0};
};

struct CopyState {
  std::atomic<int64_t> count{0};
  std::atomic<int64_t> num_bytes{0};
};

constexpr int kEnds = kMaxDevices + 1;  // every device, and the host in slot 0

// Never destroyed: tensors may be freed while the process ends.
struct State {
  std::atomic<int> device_count{0};
  std::array<DeviceState, kMaxDevices> devices;
  std::array<std::array<CopyState, kEnds>, kEnds> copies;
  std::array<std::array<std::atomic<bool>, kMaxDevices>, kMaxDevices> corrupts{};
};

State& state() {
  static State* const instance = new State();
  return *instance;
}

thread_local int current = 0;
thread_local std::array<c10::StreamId, kMaxDevices> current_streams{};

std::string human_size(int64_t num_bytes) {
  const std::array<const char*, 4> units{"bytes", "KiB", "MiB", "GiB"};
  double value = static_cast<double>(num_bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.2f %s", value, units[unit]);
  return text.data();
}

[[noreturn]] void throw_out_of_memory(int index, int64_t requested, int64_t allocated, int64_t limit) {
  ++state().devices[index].ooms;
  const auto device = c10::Device(kSim, static_cast<c10::DeviceIndex>(index));
  TORCH_CHECK_WITH(
      OutOfMemoryError,
      false,
      c10::DeviceTypeName(kSim, /*lower_case=*/true), " out of memory. Tried to allocate ",
      human_size(requested), ". Device ", index, " has a total capacity of ", human_size(limit),
      " of which ", human_size(limit > allocated ? limit - allocated : 0), " is free. Of the allocated memory ",
      human_size(allocated), " is allocated by PyTorch. The limit of ", device,
      " was set by fxdevice.sim.set_memory_limit.");
}

}  // namespace

int device_count() {
  return state().device_count;
}

void set_device_count(int count) {
  TORCH_CHECK_VALUE(
      count >= 1 && count <= kMaxDevices, "expected 1 to ", kMaxDevices, " simulated devices, got ", count);
  state().device_count = count;
}

int current_device() {
  // Another thread may have lowered the number of devices since this one chose its device.
  return current < device_count() ? current : 0;
}

void check_device_index(int index) {
  TORCH_CHECK(
      index >= 0 && index < device_count(),
      c10::DeviceTypeName(kSim, true), " error: invalid device ordinal: got index ", index, ", but ",
      device_count(), " simulated devices are enabled");
}

void set_current_device(int index) {
  check_device_index(index);
  current = index;
}

c10::StreamId current_stream(int index) {
  return current_streams[index];
}

c10::StreamId exchange_stream(int index, c10::StreamId stream) {
  return std::exchange(current_streams[index], stream);
}

int index_or_current(c10::Device device) {
  if (!device.has_index()) {
    return current_device();
  }
  check_device_index(device.index());
  return device.index();
}

void count_operation(int index) {
  ++state().devices[index].operations;
}

void count_copy(int source, int destination, int64_t num_bytes) {
  auto& pair = state().copies[source + 1][destination + 1];
  ++pair.count;
  pair.num_bytes += num_bytes;
}

int64_t num_operations(int index) {
  return state().devices[index].operations;
}

std::vector<CopyRecord> copies() {
  std::vector<CopyRecord> records;
  for (int source = kHost; source < kMaxDevices; ++source) {
    for (int destination = kHost; destination < kMaxDevices; ++destination) {
      const auto& pair = state().copies[source + 1][destination + 1];
      if (pair.count > 0) {
        records.push_back({source, destination, pair.count, pair.num_bytes});
      }
    }
  }
  return records;
}

void reset_counts() {
  for (auto& device : state().devices) {
    device.operations = 0;
  }
  for (auto& row : state().copies) {
    for (auto& pair : row) {
      pair.count = 0;
      pair.num_bytes = 0;
    }
  }
}

void set_corrupts(int source, int destination, bool corrupts) {
  check_device_index(source);
  check_device_index(destination);
  state().corrupts[source][destination] = corrupts;
}

bool corrupts(int source, int destination) {
  return source != kHost && destination != kHost && state().corrupts[source][destination];
}

void charge(int index, int64_t num_bytes) {
  auto& device = state().devices[index];
  int64_t allocated = device.allocated;
  do {
    const int64_t limit = device.limit;
    if (limit >= 0 && num_bytes > 0 && allocated + num_bytes > limit) {
      throw_out_of_memory(index, num_bytes, allocated, limit);
    }
  } while (!device.allocated.compare_exchange_weak(allocated, allocated + num_bytes));
  const int64_t now = allocated + num_bytes;
  int64_t peak = device.peak;
  while (peak < now && !device.peak.compare_exchange_weak(peak, now)) {
  }
}

void discharge(int index, int64_t num_bytes) noexcept {
  state().devices[index].allocated -= num_bytes;
}

int64_t allocated_bytes(int index) {
  return state().devices[index].allocated;
}

int64_t peak_allocated_bytes(int index) {
  return state().devices[index].peak;
}

void reset_peak_allocated_bytes(int index) {
  auto& device = state().devices[index];
  device.peak = device.allocated.load();
}

int64_t num_ooms(int index) {
  return state().devices[index].ooms;
}

int64_t capacity_bytes(int index) {
  const int64_t limit = state().devices[index].limit;
  return limit >= 0 ? limit : kDefaultCapacity;
}

void set_limit(int index, int64_t num_bytes) {
  state().devices[index].limit = num_bytes < 0 ? -1 : num_bytes;
}

}  // namespace fxsim
