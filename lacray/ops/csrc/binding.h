// From torch tensors to a SoftSw call, for either device. Only torch's stable ABI: it compiles in a second.
// Arguments were checked in Python (lacray/ops/operators.py); the checks here guard memory against direct callers.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "soft_sw.h"

namespace lacray {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline GapKind gap_kind(const Tensor& similarity, const Tensor& gap_open, const Tensor& gap_extend) {
  STD_TORCH_CHECK(gap_open.dim() == gap_extend.dim(), "gap_open and gap_extend must have the same shape");
  const int64_t dim = gap_open.dim();
  STD_TORCH_CHECK(dim == 0 || dim == 2 || dim == 3, "gap_open must be (), (N, M) or (B, N, M)");
  for (int64_t k = 0; k < dim; ++k)
    STD_TORCH_CHECK(gap_open.size(k) == similarity.size(k + 3 - dim) && gap_extend.size(k) == gap_open.size(k),
                    "gap_open and gap_extend must be (), (N, M) or (B, N, M)");
  return dim == 0 ? GapKind::scalar : dim == 2 ? GapKind::shared : GapKind::own;
}

inline Tensor plain_layout(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

struct Inputs {
  Tensor similarity, gap_open, gap_extend;
  std::optional<Tensor> lengths;

  Inputs(const Tensor& s, const Tensor& go, const Tensor& ge, const std::optional<Tensor>& l)
      : similarity(plain_layout(s)), gap_open(plain_layout(go)), gap_extend(plain_layout(ge)) {
    STD_TORCH_CHECK(s.dim() == 3, "similarity must be (B, N, M)");
    STD_TORCH_CHECK(s.scalar_type() == ScalarType::Float || s.scalar_type() == ScalarType::Double,
                    "similarity must be float32 or float64");
    for (const Tensor* gap : {&go, &ge})
      STD_TORCH_CHECK(gap->scalar_type() == s.scalar_type() && gap->device() == s.device(),
                      "gap_open and gap_extend must have the dtype and device of similarity");
    if (l.has_value()) {
      STD_TORCH_CHECK(l->dim() == 2 && l->size(0) == s.size(0) && l->size(1) == 2 && l->scalar_type() == ScalarType::Long &&
                          l->device() == s.device(),
                      "lengths must be (B, 2) int64 on the device of similarity");
      lengths = plain_layout(*l);
    }
  }

  template <class T>
  SoftSw<T> call(double gamma, int64_t tile_columns) const {
    SoftSw<T> c{};
    c.B = similarity.size(0);
    c.N = similarity.size(1);
    c.M = similarity.size(2);
    c.tile_columns = tile_columns;
    c.similarity = static_cast<const T*>(similarity.const_data_ptr());
    c.gap_open = static_cast<const T*>(gap_open.const_data_ptr());
    c.gap_extend = static_cast<const T*>(gap_extend.const_data_ptr());
    c.gap_kind = gap_kind(similarity, gap_open, gap_extend);
    c.lengths = lengths.has_value() ? static_cast<const int64_t*>(lengths->const_data_ptr()) : nullptr;
    c.gamma = gamma;
    c.state_size = state_size(c.N, c.M, tile_columns);
    return c;
  }
};

inline Tensor empty(const Tensor& like, std::vector<int64_t> size) { return torch::stable::new_empty(like, size); }

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Device: tile_columns<T>(), num_groups(call), forward(call, like), backward(call, like).
template <class Device, class T>
std::tuple<Tensor, Tensor, Tensor> run_forward_op(const Inputs& in, double gamma) {
  SoftSw<T> call = in.call<T>(gamma, Device::template tile_columns<T>());
  Tensor score = empty(in.similarity, {call.B}), match = empty(in.similarity, {call.B, call.N, call.M});
  // Lengths leave parts of the state unused: they must not differ between runs.
  const std::vector<int64_t> size{call.B, call.state_size};
  Tensor state = in.lengths.has_value() ? torch::stable::new_zeros(in.similarity, size) : empty(in.similarity, size);
  call.score = data<T>(score);
  call.match = data<T>(match);
  call.state = data<T>(state);
  if (in.similarity.numel() > 0) {
    Device::forward(call, in.similarity);
  } else {  // nothing to align
    torch::stable::fill_(score, -std::numeric_limits<double>::infinity());
    torch::stable::fill_(state, 0.0);
  }
  return {score, match, state};
}

template <class Device, class T>
std::tuple<Tensor, Tensor, Tensor> run_backward_op(const std::optional<Tensor>& grad_score, const std::optional<Tensor>& grad_match,
                                                   const Inputs& in, const Tensor& saved, double gamma, bool gaps) {
  SoftSw<T> call = in.call<T>(gamma, Device::template tile_columns<T>());
  const Tensor state = plain_layout(saved);
  STD_TORCH_CHECK(state.dim() == 2 && state.size(0) == call.B && state.size(1) == call.state_size &&
                      state.scalar_type() == in.similarity.scalar_type(),
                  "state must be what soft_sw returned");
  std::optional<Tensor> gs, gm;
  if (grad_score.has_value()) gs = plain_layout(*grad_score);
  if (grad_match.has_value()) gm = plain_layout(*grad_match);
  for (const auto& g : {gs, gm})
    STD_TORCH_CHECK(!g.has_value() || g->scalar_type() == in.similarity.scalar_type(), "gradients must have the dtype of similarity");
  STD_TORCH_CHECK(!gs.has_value() || gs->numel() == call.B, "grad_score must be (B,)");
  STD_TORCH_CHECK(!gm.has_value() || gm->numel() == in.similarity.numel(), "grad_match must be (B, N, M)");
  call.state = data<T>(state);
  call.grad_score = gs.has_value() ? static_cast<const T*>(gs->const_data_ptr()) : nullptr;
  call.grad_match = gm.has_value() ? static_cast<const T*>(gm->const_data_ptr()) : nullptr;
  call.num_groups = Device::num_groups(call);
  Tensor grad_similarity = empty(in.similarity, {call.B, call.N, call.M});
  call.grad_similarity = data<T>(grad_similarity);
  std::vector<int64_t> shape;
  if (call.gap_kind != GapKind::own) shape.push_back(call.num_groups);
  for (int64_t k = 0; k < in.gap_open.dim(); ++k) shape.push_back(in.gap_open.size(k));
  if (!gaps) shape = {0};
  Tensor open = empty(in.similarity, shape), extend = empty(in.similarity, shape);
  if (gaps) {
    call.grad_gap_open = data<T>(open);
    call.grad_gap_extend = data<T>(extend);
  }
  if (in.similarity.numel() > 0) {
    Device::backward(call, in.similarity);
  } else {
    torch::stable::fill_(open, 0.0);
    torch::stable::fill_(extend, 0.0);
  }
  if (gaps && call.gap_kind != GapKind::own) {
    const std::vector<int64_t> first{0};
    open = torch::stable::sum(open, first);
    extend = torch::stable::sum(extend, first);
  }
  return {grad_similarity, open, extend};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> forward_op(Tensor similarity, Tensor gap_open, Tensor gap_extend, std::optional<Tensor> lengths,
                                              double gamma) {
  const Inputs in(similarity, gap_open, gap_extend, lengths);
  return similarity.scalar_type() == ScalarType::Float ? run_forward_op<Device, float>(in, gamma)
                                                       : run_forward_op<Device, double>(in, gamma);
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward_op(std::optional<Tensor> grad_score, std::optional<Tensor> grad_match, Tensor similarity,
                                               Tensor gap_open, Tensor gap_extend, std::optional<Tensor> lengths, Tensor state,
                                               double gamma, bool gaps) {
  const Inputs in(similarity, gap_open, gap_extend, lengths);
  return similarity.scalar_type() == ScalarType::Float
             ? run_backward_op<Device, float>(grad_score, grad_match, in, state, gamma, gaps)
             : run_backward_op<Device, double>(grad_score, grad_match, in, state, gamma, gaps);
}

}  // namespace lacray
