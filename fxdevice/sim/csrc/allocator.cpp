#include "allocator.h"

#include "device_state.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/alloc_cpu.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace fxsim {
namespace {

// One charge to a device. Owns its memory, or shares that of a host storage.
struct Block {
  void* memory;
  c10::Storage host;
  int device;
  int64_t num_bytes;
  races::History history;
};

void free_block(void* context) {
  auto* block = static_cast<Block*>(context);
  races::dropped(block->history);
  discharge(block->device, block->num_bytes);
  if (block->memory != nullptr) {
    c10::free_cpu(block->memory);
  }
  delete block;
}

races::History* history_in(const c10::DataPtr& memory) {
  return memory.get_deleter() == &free_block ? &static_cast<Block*>(memory.get_context())->history : nullptr;
}

c10::Device sim_device(int index) {
  return c10::Device(kSim, static_cast<c10::DeviceIndex>(index));
}

int checked(c10::DeviceIndex index) {
  check_device_index(index);
  return index;
}

class SimAllocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(size_t num_bytes) override {
    const int device = current_device();
    charge(device, static_cast<int64_t>(num_bytes));
    void* memory = nullptr;
    try {
      memory = num_bytes > 0 ? c10::alloc_cpu(num_bytes) : nullptr;
    } catch (...) {
      discharge(device, static_cast<int64_t>(num_bytes));
      throw;
    }
    auto* block = new Block{memory, c10::Storage(), device, static_cast<int64_t>(num_bytes), {}};
    races::allocated(block->history, device);
    return {memory, block, &free_block, sim_device(device)};
  }

  void copy_data(void* destination, const void* source, std::size_t count) const override {
    std::memcpy(destination, source, count);
  }

  bool initialized() override {
    return true;
  }

  void emptyCache(c10::MempoolId_t /*pool*/) override {}

  void recordStream(const c10::DataPtr& pointer, c10::Stream stream) override {
    if (auto* history = history_in(pointer)) {
      races::lent(*history, stream);
    }
  }

  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    c10::CachingDeviceAllocator::DeviceStats stats;
    for (auto* bytes : {&stats.allocated_bytes, &stats.reserved_bytes, &stats.active_bytes, &stats.requested_bytes}) {
      (*bytes)[0].current = allocated_bytes(checked(index));
      (*bytes)[0].peak = peak_allocated_bytes(index);
    }
    stats.num_ooms = num_ooms(index);
    return stats;
  }

  void resetAccumulatedStats(c10::DeviceIndex /*index*/) override {}

  void resetPeakStats(c10::DeviceIndex index) override {
    reset_peak_allocated_bytes(checked(index));
  }

  std::pair<size_t, size_t> getMemoryInfo(c10::DeviceIndex index) override {
    const int64_t total = capacity_bytes(checked(index));
    return {static_cast<size_t>(std::max<int64_t>(total - allocated_bytes(index), 0)), static_cast<size_t>(total)};
  }
};

SimAllocator* instance() {
  static SimAllocator* const allocator = new SimAllocator();
  return allocator;
}

const bool registered = [] {
  c10::SetAllocator(kSim, instance());
  return true;
}();

}  // namespace

c10::Allocator* allocator() {
  return instance();
}

c10::DataPtr adopt(const c10::Storage& host, int index) {
  const auto num_bytes = static_cast<int64_t>(host.nbytes());
  charge(index, num_bytes);
  auto* block = new Block{nullptr, host, index, num_bytes, {}};
  races::allocated(block->history, index);
  return {num_bytes > 0 ? host.mutable_data() : nullptr, block, &free_block, sim_device(index)};
}

c10::Storage adopt_storage(const c10::Storage& host, int index) {
  return c10::Storage(
      c10::Storage::use_byte_size_t(), host.nbytes(), adopt(host, index), allocator(), /*resizable=*/true);
}

races::History* history_of(const c10::Storage& storage) {
  return history_in(storage.data_ptr());
}

void resize_storage(const c10::Storage& storage, size_t num_bytes) {
  TORCH_CHECK(storage.resizable(), "Trying to resize storage that is not resizable");
  const int previous = current_device();
  set_current_device(storage.device().index());
  c10::DataPtr memory;
  try {
    memory = allocator()->allocate(num_bytes);
  } catch (...) {
    set_current_device(previous);
    throw;
  }
  set_current_device(previous);
  const size_t kept = std::min(num_bytes, storage.nbytes());
  if (kept > 0) {
    std::memcpy(memory.get(), storage.data(), kept);
  }
  storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(memory));
  storage.set_nbytes(num_bytes);
}

}  // namespace fxsim
