#include "fallback.h"

#include "device_state.h"
#include "generator.h"
#include "host_view.h"

#include <torch/library.h>

#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace fxsim {
namespace {

// CPU tensors with dimensions that CUDA kernels accept beside tensors of the device.
struct HostArgument {
  std::string_view op;  // name without namespace and overload
  std::string_view argument;
  bool is_copied;  // whether CUDA copies it to the device, so that a copy is counted
};

constexpr std::array<HostArgument, 10> kHostArguments{{
    // index.Tensor brings its indices to the device before it calls index.out.
    {"index", "indices", false},
    {"_index_put_impl_", "indices", true},
    {"_foreach_addcdiv", "scalars", false},
    {"_foreach_addcdiv_", "scalars", false},
    {"_foreach_addcmul", "scalars", false},
    {"_foreach_addcmul_", "scalars", false},
    {"_ctc_loss", "input_lengths", false},
    {"_ctc_loss", "target_lengths", false},
    {"_ctc_loss_backward", "input_lengths", false},
    {"_ctc_loss_backward", "target_lengths", false},
}};

std::string_view base_name(const c10::FunctionSchema& schema) {
  const std::string_view name = schema.name();
  const auto colons = name.rfind("::");
  return colons == std::string_view::npos ? name : name.substr(colons + 2);
}

const HostArgument* find_host_argument(const c10::FunctionSchema& schema, std::string_view argument) {
  const auto op = base_name(schema);
  for (const auto& entry : kHostArguments) {
    if (entry.op == op && entry.argument == argument) {
      return &entry;
    }
  }
  return nullptr;
}

[[noreturn]] void throw_device_mismatch(
    c10::Device expected,
    c10::Device found,
    std::string_view argument,
    std::string_view method) {
  TORCH_CHECK(
      false,
      "Expected all tensors to be on the same device, but found at least two devices, ", expected,
      " and ", found, "! (when checking argument for argument ", argument, " in method ", method, ")");
}

// Checks the tensor arguments of one call and turns them into host views.
class Arguments {
 public:
  explicit Arguments(const c10::FunctionSchema& schema) : schema_(schema) {}

  void convert(torch::jit::Stack& stack) {
    const auto& declared = schema_.arguments();
    const size_t begin = stack.size() - declared.size();
    find_device(stack, begin);
    for (size_t i = 0; i < declared.size(); ++i) {
      convert_value(stack[begin + i], declared[i]);
    }
  }

  // Device of the results; nothing where they stay on the host.
  std::optional<int> result_device() const {
    if (requested_.has_value()) {
      return requested_->type() == kSim ? std::optional<int>(index_or_current(*requested_)) : std::nullopt;
    }
    return device_.value_or(current_device());
  }

  HostViews& views() {
    return views_;
  }

 private:
  template <typename Visit>
  static void for_each_tensor(const c10::IValue& value, const Visit& visit) {
    if (value.isTensor()) {
      visit(value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        visit(tensor);
      }
    } else if (value.isOptionalTensorList()) {
      for (const auto& tensor : value.toOptionalTensorVector()) {
        if (tensor.has_value()) {
          visit(*tensor);
        }
      }
    }
  }

  void find_device(const torch::jit::Stack& stack, size_t begin) {
    for (size_t i = begin; i < stack.size() && !device_.has_value(); ++i) {
      for_each_tensor(stack[i], [this](const at::Tensor& tensor) {
        if (is_sim(tensor) && !device_.has_value()) {
          device_ = tensor.device().index();
        }
      });
    }
  }

  void check(const at::Tensor& tensor, const c10::Argument& argument) const {
    if (!tensor.defined() || !device_.has_value()) {
      return;
    }
    const c10::Device expected(kSim, static_cast<c10::DeviceIndex>(*device_));
    if (tensor.device() == expected) {
      return;
    }
    if (tensor.device().is_cpu()) {
      const auto* alias = argument.alias_info();
      const bool may_change = alias != nullptr && alias->isWrite();
      if (tensor.dim() == 0 && !may_change) {
        return;
      }
      if (const auto* entry = find_host_argument(schema_, argument.name())) {
        if (entry->is_copied) {
          count_copy(kHost, *device_, static_cast<int64_t>(tensor.nbytes()));
        }
        return;
      }
    }
    throw_device_mismatch(expected, tensor.device(), argument.name(), schema_.name());
  }

  at::Tensor convert_tensor(const at::Tensor& tensor, const c10::Argument& argument) {
    check(tensor, argument);
    return views_.to_host(tensor);
  }

  void convert_value(c10::IValue& value, const c10::Argument& argument) {
    if (value.isTensor()) {
      value = convert_tensor(value.toTensor(), argument);
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> converted;
      for (const at::Tensor& tensor : value.toTensorVector()) {
        converted.push_back(convert_tensor(tensor, argument));
      }
      value = c10::IValue(std::move(converted));
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> converted;
      for (const auto& tensor : value.toOptionalTensorVector()) {
        converted.push_back(
            tensor.has_value() ? std::make_optional(convert_tensor(*tensor, argument)) : std::nullopt);
      }
      value = c10::IValue(std::move(converted));
    } else if (value.isDevice()) {
      requested_ = value.toDevice();
      value = c10::IValue(c10::Device(c10::kCPU));
    } else if (value.isGenerator()) {
      value = c10::IValue(host_generator(value.toGenerator()));
    }
  }

  const c10::FunctionSchema& schema_;
  HostViews views_;
  std::optional<int> device_;
  std::optional<c10::Device> requested_;
};

void convert_results(torch::jit::Stack& stack, size_t num_results, HostViews& views, int index) {
  for (size_t i = stack.size() - num_results; i < stack.size(); ++i) {
    auto& value = stack[i];
    if (value.isTensor()) {
      value = views.to_device(value.toTensor(), index);
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> converted;
      for (const at::Tensor& tensor : value.toTensorVector()) {
        converted.push_back(views.to_device(tensor, index));
      }
      value = c10::IValue(std::move(converted));
    }
  }
}

}  // namespace

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  TORCH_CHECK_NOT_IMPLEMENTED(
      op.hasComputedKernelForDispatchKey(c10::DispatchKey::CPU),
      "Could not run '", op.operator_name(), "' on a simulated device: it runs operators by their CPU kernels, ",
      "and this one has none. Register a CPU or composite kernel for it, or compute it elsewhere.");
  Arguments arguments(schema);
  arguments.convert(*stack);
  const auto result_device = arguments.result_device();
  count_operation(result_device.value_or(current_device()));
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  arguments.views().commit();
  if (result_device.has_value()) {
    convert_results(*stack, schema.returns().size(), arguments.views(), *result_device);
  }
}

int common_device(const char* method, std::initializer_list<NamedTensor> tensors) {
  std::optional<c10::Device> expected;
  for (const auto& [name, tensor] : tensors) {
    if (!tensor.defined()) {
      continue;
    }
    if (!expected.has_value()) {
      expected = tensor.device();
    } else if (tensor.device() != *expected) {
      throw_device_mismatch(*expected, tensor.device(), name, method);
    }
  }
  TORCH_INTERNAL_ASSERT(expected.has_value() && expected->type() == kSim);
  return expected->index();
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>());
}

// These have composite kernels, which win over a fallback, but the CPU's own are wanted.
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  const auto host_kernel = [] { return torch::CppFunction::makeFromBoxedFunction<&run_on_host>(); };
  // The composite kernels save statistics of another shape than the CPU's backward takes.
  m.impl("native_group_norm", host_kernel());
  m.impl("native_layer_norm", host_kernel());
  // The composite kernels look for a kernel of the tensor's device type outside of the dispatcher.
  m.impl("conj_physical_", host_kernel());
  m.impl("mode.values", host_kernel());
  // The composite kernel rounds half-precision results once more.
  m.impl("addr", host_kernel());
  m.impl("addr.out", host_kernel());
  // With a result given, they compute the losses of all elements in it first and warn of that.
  m.impl("mse_loss", host_kernel());
  m.impl("smooth_l1_loss", host_kernel());
}

}  // namespace fxsim
