// Counters of the simulated devices and the current device of each thread.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <cstdint>
#include <vector>

namespace fxsim {

constexpr c10::DeviceType kSim = c10::DeviceType::PrivateUse1;
constexpr int kMaxDevices = 64;
constexpr int kHost = -1;  // the host (CPU) as one end of a copy
// What mem_get_info reports when no limit is set; nothing is enforced then.
constexpr int64_t kDefaultCapacity = int64_t{8} << 30;

struct CopyRecord {
  int source;       // device index, or kHost
  int destination;  // device index, or kHost
  int64_t count;
  int64_t num_bytes;
};

int device_count();
void set_device_count(int count);

// The current device is a property of the calling thread.
int current_device();
void set_current_device(int index);
void check_device_index(int index);
// So is the current stream of each device.
c10::StreamId current_stream(int index);
c10::StreamId exchange_stream(int index, c10::StreamId stream);
// Index of `device`, or the current device where it names none.
int index_or_current(c10::Device device);

void count_operation(int index);
void count_copy(int source, int destination, int64_t num_bytes);
int64_t num_operations(int index);
std::vector<CopyRecord> copies();
void reset_counts();

// Whether copies from one device to another arrive as zeros, without an error.
void set_corrupts(int source, int destination, bool corrupts);
bool corrupts(int source, int destination);

// Charges `num_bytes` to the device; throws c10::OutOfMemoryError over its limit, charging nothing.
void charge(int index, int64_t num_bytes);
void discharge(int index, int64_t num_bytes) noexcept;
int64_t allocated_bytes(int index);
int64_t peak_allocated_bytes(int index);
void reset_peak_allocated_bytes(int index);
int64_t num_ooms(int index);
int64_t capacity_bytes(int index);
void set_limit(int index, int64_t num_bytes);  // a negative number lifts the limit

}  // namespace fxsim
