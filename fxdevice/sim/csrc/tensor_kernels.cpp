// Kernels that a fallback cannot give: making tensors, viewing, resizing, copying and reading them.
#include "allocator.h"
#include "device_state.h"
#include "host_view.h"
#include "races.h"

#include <ATen/EmptyTensor.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_local_scalar_dense_native.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/DeviceGuard.h>
#include <torch/library.h>

namespace fxsim {
namespace {

constexpr c10::DispatchKeySet kDense(c10::DispatchKey::PrivateUse1);

c10::Device device_or_current(std::optional<c10::Device> device) {
  const int index = device.has_value() ? index_or_current(*device) : current_device();
  return c10::Device(kSim, static_cast<c10::DeviceIndex>(index));
}

void check_strided(std::optional<c10::Layout> layout) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      c10::layout_or_default(layout) == c10::kStrided,
      "the simulated device holds strided tensors only, got layout ", *layout);
}

at::Tensor empty_memory_format(
    c10::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> /*pin_memory*/,
    std::optional<c10::MemoryFormat> memory_format) {
  check_strided(layout);
  const c10::DeviceGuard guard(device_or_current(device));
  return at::detail::empty_generic(size, allocator(), kDense, c10::dtype_or_default(dtype), memory_format);
}

at::Tensor empty_strided(
    c10::IntArrayRef size,
    c10::IntArrayRef stride,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> /*pin_memory*/) {
  check_strided(layout);
  const c10::DeviceGuard guard(device_or_current(device));
  return at::detail::empty_strided_generic(size, stride, allocator(), kDense, c10::dtype_or_default(dtype));
}

// A tensor of zeros without memory, which forward-mode differentiation makes.
at::Tensor efficient_zero_tensor(
    c10::IntArrayRef size,
    std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout> layout,
    std::optional<c10::Device> device,
    std::optional<bool> /*pin_memory*/) {
  check_strided(layout);
  at::native::ZeroTensorAllocator zero_allocator(device_or_current(device));
  return at::detail::empty_generic(
      size, &zero_allocator, kDense.add(c10::DispatchKey::ZeroTensor), c10::dtype_or_default(dtype), std::nullopt);
}

const at::Tensor& resize(
    const at::Tensor& self,
    c10::IntArrayRef size,
    std::optional<c10::MemoryFormat> memory_format) {
  const c10::DeviceGuard guard(self.device());
  const auto old_size = self.sizes().vec();
  const auto old_stride = self.strides().vec();
  try {
    return at::native::resize_(self, size, memory_format);
  } catch (...) {
    // Out of memory comes after the new size is set; without the memory for it the tensor would
    // reach beyond its storage.
    self.unsafeGetTensorImpl()->set_sizes_and_strides(old_size, old_stride);
    throw;
  }
}

at::Tensor& set_storage(
    at::Tensor& self,
    at::Storage source,
    int64_t storage_offset,
    c10::IntArrayRef size,
    c10::IntArrayRef stride) {
  at::native::checkSetStorage(self, std::move(source), storage_offset, size, stride);
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_offset(storage_offset);
  if (stride.data() == nullptr) {
    impl->set_sizes_contiguous(size);
  } else {
    impl->set_sizes_and_strides(size, stride);
  }
  return self;
}

at::Tensor& set_empty(at::Tensor& self) {
  const c10::DeviceGuard guard(self.device());
  c10::Storage storage(c10::Storage::use_byte_size_t(), 0, allocator(), /*resizable=*/true);
  return set_storage(self, std::move(storage), 0, {0}, {});
}

int end_of_copy(const at::Tensor& tensor) {
  if (is_sim(tensor)) {
    return tensor.device().index();
  }
  TORCH_CHECK_NOT_IMPLEMENTED(
      tensor.device().is_cpu(), "copies between a simulated device and ", tensor.device(), " are not supported");
  return kHost;
}

// How a copy is in order with streams is as on CUDA (aten/src/ATen/native/cuda/Copy.cu): between two
// devices it runs in the current stream of the source, and the current streams of both come before
// and after it; with the host at one end it runs in the one stream, for which the host waits unless
// the copy is `non_blocking`.
void begin_copy(races::Operation& copy, const at::Tensor& self, int source_end, int destination_end) {
  if (source_end == kHost) {
    copy.begin(destination_end);
    copy.reads_host(self);
  } else if (destination_end == kHost || destination_end == source_end) {
    copy.begin(source_end);
  } else {
    copy.begin(source_end, races::current(destination_end));
  }
}

void end_copy(
    races::Operation& copy, const at::Tensor& destination, int source_end, int destination_end, bool non_blocking) {
  if (source_end != kHost && destination_end != kHost) {
    copy.ends_before(races::current(destination_end));
  } else if (!non_blocking) {
    copy.wait_on_host();
  } else if (destination_end == kHost) {
    // A copy into memory that is not pinned has ended when it returns, even then.
    if (races::is_on() && destination.is_pinned() && destination.is_non_overlapping_and_dense()) {
      copy.delivers_later(destination);
    } else {
      copy.wait_on_host();
    }
  }
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& destination, bool non_blocking) {
  const int source_end = end_of_copy(self);
  const int destination_end = end_of_copy(destination);
  if (source_end == destination_end) {
    count_operation(source_end);
  } else if (self.numel() > 0) {
    count_copy(source_end, destination_end, static_cast<int64_t>(self.nbytes()));
  }
  HostViews views("aten::copy_");
  begin_copy(views.operation(), self, source_end, destination_end);
  const at::Tensor arrived = views.to_host(destination, /*is_written=*/true);
  if (corrupts(source_end, destination_end)) {
    arrived.zero_();
  } else {
    arrived.copy_(views.to_host(self));
  }
  end_copy(views.operation(), destination, source_end, destination_end, non_blocking);
  return destination;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& destination) {
  destination.resize_(self.sizes());
  return copy_from(self, destination, /*non_blocking=*/false);
}

// Reading one element counts neither as an operation nor as a copy: no tensor changes its device.
at::Scalar local_scalar_dense(const at::Tensor& self) {
  HostViews views("aten::_local_scalar_dense");
  const auto host = views.to_host(self);
  views.operation().wait_on_host();
  return at::native::_local_scalar_dense_cpu(host);
}

void record_stream(at::Tensor& self, c10::Stream stream) {
  if (auto* history = history_of(self.storage())) {
    races::lent(*history, stream);
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty_memory_format);
  m.impl("empty_strided", &empty_strided);
  m.impl("_efficientzerotensor", &efficient_zero_tensor);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("view", &at::native::view);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("resize_", &resize);
  m.impl("set_", &set_empty);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
  m.impl("set_.source_Storage", static_cast<at::Tensor& (*)(at::Tensor&, at::Storage)>(&at::native::set_));
  m.impl("set_.source_Storage_storage_offset", &set_storage);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar_dense);
  m.impl("record_stream", &record_stream);
}

// Copying is how PyTorch resolves lazy conjugation and negation. copy_ passes these keys, but the
// kernel that it calls for an outside backend would meet them again, without end.
TORCH_LIBRARY_IMPL(aten, Conjugate, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

TORCH_LIBRARY_IMPL(aten, Negative, m) {
  m.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

}  // namespace fxsim
