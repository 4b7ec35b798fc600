// Host faces of simulated tensors, and simulated tensors made of host results.
//
// The memory of a simulated device is host memory, so a CPU kernel can work on it in place through
// a CPU tensor over the same bytes. HostViews holds those tensors for one operator call and brings
// its results back: the same tensor for an argument, the same storage for a view of one, a new
// storage charged to the device otherwise.
#pragma once

#include "races.h"

#include <ATen/core/Tensor.h>

#include <string_view>
#include <vector>

namespace fxsim {

class HostViews {
 public:
  explicit HostViews(std::string_view operation) : operation_(operation) {}

  // CPU tensor over the memory of `tensor`; any other tensor is returned as it is.
  at::Tensor to_host(const at::Tensor& tensor, bool is_written = false);

  // What `host`, a result of a CPU kernel, is on simulated device `index`.
  at::Tensor to_device(const at::Tensor& host, int index);

  // Brings back what the kernel changed in its arguments beside their values: sizes, strides, memory, lazy bits.
  void commit();

  // What the detection of races sees.
  races::Operation& operation() {
    return operation_;
  }

 private:
  struct StoragePair {
    c10::Storage device;
    c10::Storage host;
    const void* memory;
    size_t num_bytes;
  };
  struct TensorPair {
    at::Tensor device;
    at::Tensor host;
  };

  c10::Storage host_storage(const c10::Storage& device);
  c10::Storage device_storage(const c10::Storage& host, int index);

  races::Operation operation_;
  std::vector<StoragePair> storages_;
  std::vector<TensorPair> tensors_;
  std::vector<at::Tensor> foreign_;
};

inline bool is_sim(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == c10::DeviceType::PrivateUse1;
}

}  // namespace fxsim
