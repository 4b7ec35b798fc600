// Operators that PyTorch asks an accelerator for by a name of its own, so that the fallback, which
// knows the names of the CPU kernels, would not find them.
#include "device_state.h"
#include "fallback.h"
#include "host_view.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/histc.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>
#include <torch/library.h>

#include <array>
#include <tuple>
#include <vector>

namespace fxsim {
namespace {

using OptionalTensor = std::optional<at::Tensor>;
using Tensors = std::vector<at::Tensor>;

at::Tensor value_or_undefined(const OptionalTensor& tensor) {
  return tensor.value_or(at::Tensor());
}

OptionalTensor host_optional(HostViews& views, const OptionalTensor& tensor) {
  return tensor.has_value() && tensor->defined() ? OptionalTensor(views.to_host(*tensor)) : std::nullopt;
}

at::Tensor convolution(
    const at::Tensor& input,
    const at::Tensor& weight,
    const OptionalTensor& bias,
    c10::IntArrayRef stride,
    c10::IntArrayRef padding,
    c10::IntArrayRef dilation,
    bool transposed,
    c10::IntArrayRef output_padding,
    int64_t groups) {
  const int index = common_device(
      "aten::convolution", {{"input", input}, {"weight", weight}, {"bias", value_or_undefined(bias)}});
  count_operation(index);
  HostViews views("aten::convolution");
  const auto result = at::convolution(
      views.to_host(input), views.to_host(weight), host_optional(views, bias), stride, padding, dilation,
      transposed, output_padding, groups);
  return views.to_device(result, index);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad_output,
    const at::Tensor& input,
    const at::Tensor& weight,
    c10::IntArrayRef stride,
    c10::IntArrayRef padding,
    c10::IntArrayRef dilation,
    bool transposed,
    c10::IntArrayRef output_padding,
    int64_t groups,
    std::array<bool, 3> output_mask) {
  const int index = common_device(
      "aten::convolution_backward", {{"grad_output", grad_output}, {"input", input}, {"weight", weight}});
  count_operation(index);
  const std::array<int64_t, 1> bias_size{transposed ? weight.size(1) * groups : weight.size(0)};
  HostViews views("aten::convolution_backward");
  const auto [grad_input, grad_weight, grad_bias] = at::convolution_backward(
      views.to_host(grad_output), views.to_host(input), views.to_host(weight), c10::IntArrayRef(bias_size),
      stride, padding, dilation, transposed, output_padding, groups, output_mask);
  return {
      views.to_device(grad_input, index), views.to_device(grad_weight, index), views.to_device(grad_bias, index)};
}

// Gates of one side, bias added. The sums are taken in float for half-precision inputs, as CUDA does.
at::Tensor widen(const at::Tensor& tensor) {
  const bool is_reduced = tensor.scalar_type() == c10::kHalf || tensor.scalar_type() == c10::kBFloat16;
  return is_reduced ? tensor.to(c10::kFloat) : tensor;
}

at::Tensor with_bias(const at::Tensor& gates, const OptionalTensor& bias) {
  const auto wide = widen(gates);
  return bias.has_value() ? wide + widen(*bias) : wide;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_cell(
    const at::Tensor& input_gates,
    const at::Tensor& hidden_gates,
    const at::Tensor& cx,
    const OptionalTensor& input_bias,
    const OptionalTensor& hidden_bias) {
  const int index = common_device(
      "aten::_thnn_fused_lstm_cell",
      {{"input_gates", input_gates},
       {"hidden_gates", hidden_gates},
       {"cx", cx},
       {"input_bias", value_or_undefined(input_bias)},
       {"hidden_bias", value_or_undefined(hidden_bias)}});
  count_operation(index);
  HostViews views("aten::_thnn_fused_lstm_cell");
  const auto dtype = input_gates.scalar_type();
  const auto gates = with_bias(views.to_host(input_gates), host_optional(views, input_bias)) +
      with_bias(views.to_host(hidden_gates), host_optional(views, hidden_bias));
  const auto parts = gates.chunk(4, 1);
  const auto in = at::sigmoid(parts[0]);
  const auto forget = at::sigmoid(parts[1]);
  const auto cell = at::tanh(parts[2]);
  const auto out = at::sigmoid(parts[3]);
  const auto cy = forget * widen(views.to_host(cx)) + in * cell;
  const auto hy = out * at::tanh(cy);
  const auto workspace = at::cat(Tensors{in, forget, cell, out}, 1);
  return {
      views.to_device(hy.to(dtype), index),
      views.to_device(cy.to(dtype), index),
      views.to_device(workspace.to(dtype), index)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lstm_cell_backward(
    const OptionalTensor& grad_hy,
    const OptionalTensor& grad_cy,
    const at::Tensor& cx,
    const at::Tensor& cy,
    const at::Tensor& workspace,
    bool has_bias) {
  if (!value_or_undefined(grad_hy).defined() && !value_or_undefined(grad_cy).defined()) {
    return {};
  }
  const int index = common_device(
      "aten::_thnn_fused_lstm_cell_backward_impl",
      {{"cx", cx},
       {"cy", cy},
       {"workspace", workspace},
       {"grad_hy", value_or_undefined(grad_hy)},
       {"grad_cy", value_or_undefined(grad_cy)}});
  count_operation(index);
  HostViews views("aten::_thnn_fused_lstm_cell_backward_impl");
  const auto dtype = workspace.scalar_type();
  const auto parts = widen(views.to_host(workspace)).chunk(4, 1);
  const auto &in = parts[0], &forget = parts[1], &cell = parts[2], &out = parts[3];
  const auto tanh_cy = at::tanh(widen(views.to_host(cy)));
  const auto host_grad_hy = host_optional(views, grad_hy);
  const auto host_grad_cy = host_optional(views, grad_cy);
  const auto hy_grad = host_grad_hy.has_value() ? widen(*host_grad_hy) : tanh_cy * 0;
  const auto through_output = hy_grad * out * (1 - tanh_cy * tanh_cy);
  const auto cell_grad = host_grad_cy.has_value() ? through_output + widen(*host_grad_cy) : through_output;
  const auto grad_gates = at::cat(
      {cell_grad * cell * in * (1 - in),
       cell_grad * widen(views.to_host(cx)) * forget * (1 - forget),
       cell_grad * in * (1 - cell * cell),
       hy_grad * tanh_cy * out * (1 - out)},
      1).to(dtype);
  const auto grad_cx = (cell_grad * forget).to(dtype);
  const auto grad_bias = has_bias ? grad_gates.sum(0) : at::Tensor();
  return {views.to_device(grad_gates, index), views.to_device(grad_cx, index), views.to_device(grad_bias, index)};
}

// workspace [batch, 5 * hidden]: reset, update and new gate, hx, and the hidden part of the new gate.
std::tuple<at::Tensor, at::Tensor> gru_cell(
    const at::Tensor& input_gates,
    const at::Tensor& hidden_gates,
    const at::Tensor& hx,
    const OptionalTensor& input_bias,
    const OptionalTensor& hidden_bias) {
  const int index = common_device(
      "aten::_thnn_fused_gru_cell",
      {{"input_gates", input_gates},
       {"hidden_gates", hidden_gates},
       {"hx", hx},
       {"input_bias", value_or_undefined(input_bias)},
       {"hidden_bias", value_or_undefined(hidden_bias)}});
  count_operation(index);
  HostViews views("aten::_thnn_fused_gru_cell");
  const auto dtype = input_gates.scalar_type();
  const auto input = with_bias(views.to_host(input_gates), host_optional(views, input_bias)).chunk(3, 1);
  const auto hidden = with_bias(views.to_host(hidden_gates), host_optional(views, hidden_bias)).chunk(3, 1);
  const auto state = widen(views.to_host(hx));
  const auto reset = at::sigmoid(input[0] + hidden[0]);
  const auto update = at::sigmoid(input[1] + hidden[1]);
  const auto fresh = at::tanh(input[2] + reset * hidden[2]);
  const auto hy = (state - fresh) * update + fresh;
  const auto workspace = at::cat(Tensors{reset, update, fresh, state, hidden[2]}, 1);
  return {views.to_device(hy.to(dtype), index), views.to_device(workspace.to(dtype), index)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> gru_cell_backward(
    const at::Tensor& grad_hy,
    const at::Tensor& workspace,
    bool has_bias) {
  const int index =
      common_device("aten::_thnn_fused_gru_cell_backward", {{"workspace", workspace}, {"grad_hy", grad_hy}});
  count_operation(index);
  HostViews views("aten::_thnn_fused_gru_cell_backward");
  const auto dtype = workspace.scalar_type();
  const auto parts = widen(views.to_host(workspace)).chunk(5, 1);
  const auto &reset = parts[0], &update = parts[1], &fresh = parts[2], &state = parts[3], &hidden_new = parts[4];
  const auto grad = widen(views.to_host(grad_hy));
  const auto grad_fresh = grad * (1 - update) * (1 - fresh * fresh);
  const auto grad_reset = grad_fresh * hidden_new * reset * (1 - reset);
  const auto grad_update = grad * (state - fresh) * update * (1 - update);
  const auto grad_input = at::cat(Tensors{grad_reset, grad_update, grad_fresh}, 1).to(dtype);
  const auto grad_hidden = at::cat(Tensors{grad_reset, grad_update, grad_fresh * reset}, 1).to(dtype);
  const auto grad_hx = (grad * update).to(dtype);
  const auto back = [&](const at::Tensor& tensor) { return views.to_device(tensor, index); };
  return {
      back(grad_input), back(grad_hidden), back(grad_hx),
      has_bias ? back(grad_input.sum(0)) : at::Tensor(), has_bias ? back(grad_hidden.sum(0)) : at::Tensor()};
}

// CUDA counts integers; the CPU kernel takes floating point only. float64 holds every count and
// every integer that a histogram of practical range has.
at::Tensor histc_kernel(const at::Tensor& self, int64_t bins, const at::Scalar& min, const at::Scalar& max) {
  const int index = common_device("aten::histc", {{"self", self}});
  count_operation(index);
  HostViews views("aten::histc");
  const auto host = views.to_host(self);
  const bool is_integer = c10::isIntegralType(self.scalar_type(), /*includeBool=*/false);
  const auto result = is_integer ? at::histc(host.to(c10::kDouble), bins, min, max).to(self.scalar_type())
                                 : at::histc(host, bins, min, max);
  return views.to_device(result, index);
}

at::Tensor& histc_out(
    const at::Tensor& self,
    int64_t bins,
    const at::Scalar& min,
    const at::Scalar& max,
    at::Tensor& out) {
  common_device("aten::histc", {{"self", self}, {"out", out}});
  const auto result = histc_kernel(self, bins, min, max);
  return out.resize_(result.sizes()).copy_(result);
}

// Scaled dot product attention is composed of plain operators, which the fallback runs and autograd
// differentiates: 0 is sdp::SDPBackend::math. A flash kernel of the CPU has no name on this device.
int64_t fused_sdp_choice(
    const at::Tensor& /*query*/,
    const at::Tensor& /*key*/,
    const at::Tensor& /*value*/,
    const OptionalTensor& /*attn_mask*/,
    double /*dropout_p*/,
    bool /*is_causal*/,
    std::optional<double> /*scale*/,
    bool /*enable_gqa*/) {
  return 0;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("_thnn_fused_lstm_cell", &lstm_cell);
  m.impl("_thnn_fused_lstm_cell_backward_impl", &lstm_cell_backward);
  m.impl("_thnn_fused_gru_cell", &gru_cell);
  m.impl("_thnn_fused_gru_cell_backward", &gru_cell_backward);
  m.impl("histc", &histc_kernel);
  m.impl("histc.out", &histc_out);
  m.impl("_fused_sdp_choice", &fused_sdp_choice);
}

}  // namespace fxsim
