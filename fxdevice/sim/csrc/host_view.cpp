#include "host_view.h"

#include "allocator.h"
#include "device_state.h"

#include <c10/core/CPUAllocator.h>

namespace fxsim {
namespace {

at::Tensor make_tensor(
    const c10::Storage& storage,
    c10::DispatchKey key,
    const at::Tensor& like) {
  auto result = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(storage), c10::DispatchKeySet(key), like.dtype());
  auto* impl = result.unsafeGetTensorImpl();
  impl->set_storage_offset(like.storage_offset());
  impl->set_sizes_and_strides(like.sizes(), like.strides());
  impl->_set_conj(like.is_conj());
  impl->_set_neg(like.is_neg());
  if (like.unsafeGetTensorImpl()->is_wrapped_number()) {
    impl->set_wrapped_number(true);
  }
  return result;
}

void release_storage(void* context) {
  delete static_cast<c10::Storage*>(context);
}

}  // namespace

c10::Storage HostViews::host_storage(const c10::Storage& device) {
  for (const auto& pair : storages_) {
    if (pair.device.unsafeGetStorageImpl() == device.unsafeGetStorageImpl()) {
      return pair.host;
    }
  }
  const size_t num_bytes = device.nbytes();
  void* memory = num_bytes > 0 ? device.mutable_data() : nullptr;
  // A kernel may keep its argument (a custom operator written in Python can), so the view owns a share.
  c10::Storage host(
      c10::Storage::use_byte_size_t(),
      num_bytes,
      c10::DataPtr(memory, new c10::Storage(device), &release_storage, c10::Device(c10::kCPU)),
      c10::GetCPUAllocator(),
      /*resizable=*/device.resizable());
  storages_.push_back({device, host, memory, num_bytes});
  return host;
}

c10::Storage HostViews::device_storage(const c10::Storage& host, int index) {
  for (const auto& pair : storages_) {
    if (pair.host.unsafeGetStorageImpl() == host.unsafeGetStorageImpl()) {
      return pair.device;
    }
  }
  // Several results may share one storage: remember the pair.
  operation_.begin(index);
  auto device = adopt_storage(host, index);
  operation_.uses(device, /*is_write=*/true);
  storages_.push_back({device, host, host.data(), host.nbytes()});
  return device;
}

at::Tensor HostViews::to_host(const at::Tensor& tensor, bool is_written) {
  if (!is_sim(tensor)) {
    if (tensor.defined()) {
      foreign_.push_back(tensor);
    }
    return tensor;
  }
  operation_.uses(tensor.storage(), is_written);
  for (const auto& pair : tensors_) {
    if (pair.device.is_same(tensor)) {
      return pair.host;
    }
  }
  auto host = make_tensor(host_storage(tensor.storage()), c10::DispatchKey::CPU, tensor);
  tensors_.push_back({tensor, host});
  return host;
}

at::Tensor HostViews::to_device(const at::Tensor& host, int index) {
  if (!host.defined()) {
    return host;
  }
  for (const auto& pair : tensors_) {
    if (pair.host.is_same(host)) {
      return pair.device;
    }
  }
  for (const auto& tensor : foreign_) {
    if (tensor.is_same(host)) {
      return tensor;
    }
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      host.layout() == c10::kStrided && !host.is_quantized() && !host.is_nested(),
      "the simulated device holds strided tensors only, got a result of layout ", host.layout(),
      host.is_quantized() ? " (quantized)" : "", host.is_nested() ? " (nested)" : "",
      "; compute it on the CPU");
  return make_tensor(device_storage(host.storage(), index), c10::DispatchKey::PrivateUse1, host);
}

void HostViews::commit() {
  for (auto& pair : storages_) {
    if (pair.host.data() == pair.memory && pair.host.nbytes() == pair.num_bytes) {
      continue;
    }
    pair.memory = pair.host.data();
    pair.num_bytes = pair.host.nbytes();
    auto* impl = pair.device.unsafeGetStorageImpl();
    impl->set_data_ptr_noswap(adopt(pair.host, pair.device.device().index()));
    impl->set_nbytes(pair.num_bytes);
    operation_.uses(pair.device, /*is_write=*/true);
  }
  for (auto& pair : tensors_) {
    auto* impl = pair.device.unsafeGetTensorImpl();
    if (pair.host.storage_offset() != pair.device.storage_offset()) {
      impl->set_storage_offset(pair.host.storage_offset());
    }
    if (pair.host.sizes() != pair.device.sizes() || pair.host.strides() != pair.device.strides()) {
      impl->set_sizes_and_strides(pair.host.sizes(), pair.host.strides());
    }
    // linalg.lu_solve, for one, conjugates its result by setting the bit.
    impl->_set_conj(pair.host.is_conj());
    impl->_set_neg(pair.host.is_neg());
  }
}

}  // namespace fxsim
