// From torch tensors to the calls of the engines, for either device. Only torch's stable ABI: it compiles in a second.
// Arguments were checked in Python (lacray/ops/arguments.py); the checks here guard memory against direct callers.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "calls.h"

namespace lacray {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline GapKind gap_kind(const Tensor& similarity, const Tensor& gap_open, const Tensor& gap_extend) {
  STD_TORCH_CHECK(gap_open.dim() == gap_extend.dim(), "gap_open and gap_extend must have the same shape");
  const int64_t dim = gap_open.dim();
  STD_TORCH_CHECK(dim <= 3, "gap_open must be (), (B,), (N, M) or (B, N, M)");
  for (int64_t k = 0; k < dim; ++k)
    STD_TORCH_CHECK(gap_open.size(k) == similarity.size(dim == 2 ? k + 1 : k) && gap_extend.size(k) == gap_open.size(k),
                    "gap_open and gap_extend must be (), (B,), (N, M) or (B, N, M)");
  return dim < 2 ? GapKind::scalar : dim == 2 ? GapKind::shared : GapKind::own;
}

inline Tensor plain_layout(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

struct Tiles {
  int64_t rows, columns;
};

inline void check_table(const Tensor& t, const char* what) {
  STD_TORCH_CHECK(t.dim() == 3, what, " must be (B, N, M)");
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, what,
                  " must be float32 or float64");
}

inline std::optional<Tensor> checked_lengths(const std::optional<Tensor>& lengths, const Tensor& table) {
  if (!lengths.has_value()) return std::nullopt;
  STD_TORCH_CHECK(lengths->dim() == 2 && lengths->size(0) == table.size(0) && lengths->size(1) == 2 &&
                      lengths->scalar_type() == ScalarType::Long && lengths->device() == table.device(),
                  "lengths must be (B, 2) int64 on the table's device");
  return plain_layout(*lengths);
}

// Gradients of an operator's two outputs, which torch gives or not.
struct Gradients {
  std::optional<Tensor> value, table;

  Gradients(const std::optional<Tensor>& v, const std::optional<Tensor>& t, const Tensor& like) {
    if (v.has_value()) value = plain_layout(*v);
    if (t.has_value()) table = plain_layout(*t);
    for (const auto& g : {value, table})
      STD_TORCH_CHECK(!g.has_value() || g->scalar_type() == like.scalar_type(), "gradients must have the dtype of the table");
    STD_TORCH_CHECK(!value.has_value() || value->numel() == like.size(0), "the value's gradient must be (B,)");
    STD_TORCH_CHECK(!table.has_value() || table->numel() == like.numel(), "the table's gradient must be (B, N, M)");
  }
  template <class T>
  static const T* pointer(const std::optional<Tensor>& t) {
    return t.has_value() ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
  }
};

inline Tensor checked_state(const Tensor& saved, const Tensor& table, int64_t size) {
  STD_TORCH_CHECK(
      saved.dim() == 2 && saved.size(0) == table.size(0) && saved.size(1) == size && saved.scalar_type() == table.scalar_type(),
      "state must be what the forward operator returned");
  return plain_layout(saved);
}

// Lengths leave parts of the state unused: they must not differ between runs.
inline Tensor new_state(const Tensor& table, bool has_lengths, int64_t size) {
  const std::vector<int64_t> shape{table.size(0), size};
  return has_lengths ? torch::stable::new_zeros(table, shape) : torch::stable::new_empty(table, shape);
}

struct Inputs {
  Tensor similarity, gap_open, gap_extend;
  std::optional<Tensor> lengths;

  Inputs(const Tensor& s, const Tensor& go, const Tensor& ge, const std::optional<Tensor>& l)
      : similarity(plain_layout(s)), gap_open(plain_layout(go)), gap_extend(plain_layout(ge)) {
    check_table(s, "similarity");
    for (const Tensor* gap : {&go, &ge})
      STD_TORCH_CHECK(gap->scalar_type() == s.scalar_type() && gap->device() == s.device(),
                      "gap_open and gap_extend must have the dtype and device of similarity");
    lengths = checked_lengths(l, s);
  }

  template <class T>
  SoftSw<T> call(double gamma, bool end_to_end, Tiles tiles) const {
    SoftSw<T> c{};
    c.B = similarity.size(0);
    c.N = similarity.size(1);
    c.M = similarity.size(2);
    c.end_to_end = end_to_end;
    c.tile_rows = tiles.rows;
    c.tile_columns = tiles.columns;
    c.similarity = static_cast<const T*>(similarity.const_data_ptr());
    c.gap_open = static_cast<const T*>(gap_open.const_data_ptr());
    c.gap_extend = static_cast<const T*>(gap_extend.const_data_ptr());
    c.gap_kind = gap_kind(similarity, gap_open, gap_extend);
    c.gap_step = gap_open.dim() == 1 ? 1 : 0;
    c.lengths = Gradients::pointer<int64_t>(lengths);
    c.gamma = gamma;
    c.state_size = state_size(c.N, c.M, tiles.rows, tiles.columns, kSoftSwArrays);
    return c;
  }
};

inline Tensor empty(const Tensor& like, std::vector<int64_t> size) { return torch::stable::new_empty(like, size); }

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// Device: tiles<T>(), num_groups(call), num_tables(call), forward(call, like), backward(call, like), the last two for either call.
template <class Device, class T>
std::tuple<Tensor, Tensor, Tensor> run_forward_op(const Inputs& in, double gamma, bool end_to_end) {
  SoftSw<T> call = in.call<T>(gamma, end_to_end, Device::template tiles<T>());
  Tensor score = empty(in.similarity, {call.B}), match = empty(in.similarity, {call.B, call.N, call.M});
  Tensor state = new_state(in.similarity, in.lengths.has_value(), call.state_size);
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
                                                   const Inputs& in, const Tensor& saved, double gamma, bool end_to_end,
                                                   bool gaps) {
  SoftSw<T> call = in.call<T>(gamma, end_to_end, Device::template tiles<T>());
  const Tensor state = checked_state(saved, in.similarity, call.state_size);
  const Gradients given(grad_score, grad_match, in.similarity);
  call.state = data<T>(state);
  call.grad_score = Gradients::pointer<T>(given.value);
  call.grad_match = Gradients::pointer<T>(given.table);
  call.num_groups = Device::num_groups(call);
  Tensor grad_similarity = empty(in.similarity, {call.B, call.N, call.M});
  call.grad_similarity = data<T>(grad_similarity);
  std::vector<int64_t> shape;
  for (int64_t k = 0; k < in.gap_open.dim(); ++k) shape.push_back(in.gap_open.size(k));
  // Gradients that are to be added up: of gaps that a pair has to itself, its own.
  const bool each = in.gap_open.dim() == 1;
  const int64_t tables = each ? (call.B > 0 ? Device::num_tables(call) / call.B : 1) : Device::num_tables(call);
  if (tables > 1) shape.insert(each ? shape.end() : shape.begin(), tables);
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
  if (gaps && tables > 1) {
    const std::vector<int64_t> added{each ? 1 : 0};
    open = torch::stable::sum(open, added);
    extend = torch::stable::sum(extend, added);
  }
  return {grad_similarity, open, extend};
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> forward_op(Tensor similarity, Tensor gap_open, Tensor gap_extend, std::optional<Tensor> lengths,
                                              double gamma, bool end_to_end) {
  const Inputs in(similarity, gap_open, gap_extend, lengths);
  return similarity.scalar_type() == ScalarType::Float ? run_forward_op<Device, float>(in, gamma, end_to_end)
                                                       : run_forward_op<Device, double>(in, gamma, end_to_end);
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor> backward_op(std::optional<Tensor> grad_score, std::optional<Tensor> grad_match,
                                               Tensor similarity, Tensor gap_open, Tensor gap_extend, std::optional<Tensor> lengths,
                                               Tensor state, double gamma, bool end_to_end, bool gaps) {
  const Inputs in(similarity, gap_open, gap_extend, lengths);
  return similarity.scalar_type() == ScalarType::Float
             ? run_backward_op<Device, float>(grad_score, grad_match, in, state, gamma, end_to_end, gaps)
             : run_backward_op<Device, double>(grad_score, grad_match, in, state, gamma, end_to_end, gaps);
}

struct DtwInputs {
  Tensor cost;
  std::optional<Tensor> lengths;

  DtwInputs(const Tensor& c, const std::optional<Tensor>& l) : cost(plain_layout(c)) {
    check_table(c, "cost");
    lengths = checked_lengths(l, c);
  }

  template <class T>
  Dtw<T> call(double gamma, int64_t band, bool smooth, Tiles tiles) const {
    Dtw<T> c{};
    c.B = cost.size(0);
    c.N = cost.size(1);
    c.M = cost.size(2);
    c.tile_rows = tiles.rows;
    c.tile_columns = tiles.columns;
    c.minimum = smooth ? Minimum::smooth : Minimum::soft;
    c.band = band;
    c.cost = static_cast<const T*>(cost.const_data_ptr());
    c.lengths = Gradients::pointer<int64_t>(lengths);
    c.gamma = gamma;
    c.state_size = state_size(c.N, c.M, tiles.rows, tiles.columns, dtw_arrays(c.minimum));
    return c;
  }
};

template <class Device, class T>
std::tuple<Tensor, Tensor, Tensor, Tensor> run_dtw_op(const DtwInputs& in, double gamma, int64_t band, bool smooth,
                                                      bool with_gradient) {
  Dtw<T> call = in.call<T>(gamma, band, smooth, Device::template tiles<T>());
  Tensor value = empty(in.cost, {call.B}), table = empty(in.cost, {call.B, call.N, call.M});
  Tensor state = new_state(in.cost, in.lengths.has_value() || band >= 0, call.state_size);
  Tensor gradient = empty(in.cost, with_gradient ? std::vector<int64_t>{call.B, call.N, call.M} : std::vector<int64_t>{0});
  call.value = data<T>(value);
  call.table = data<T>(table);
  call.state = data<T>(state);
  if (with_gradient) call.gradient = data<T>(gradient);
  if (in.cost.numel() > 0) {
    Device::forward(call, in.cost);
  } else {
    torch::stable::fill_(value, std::numeric_limits<double>::infinity());
    torch::stable::fill_(state, 0.0);
  }
  return {value, table, state, gradient};
}

template <class Device, class T>
Tensor run_dtw_backward_op(const std::optional<Tensor>& grad_value, const std::optional<Tensor>& grad_table, const DtwInputs& in,
                           const Tensor& saved, const Tensor& gradient, double gamma, int64_t band, bool smooth) {
  Dtw<T> call = in.call<T>(gamma, band, smooth, Device::template tiles<T>());
  const Tensor state = checked_state(saved, in.cost, call.state_size);
  const Gradients given(grad_value, grad_table, in.cost);
  Tensor grad_cost = empty(in.cost, {call.B, call.N, call.M});
  call.state = data<T>(state);
  call.grad_value = Gradients::pointer<T>(given.value);
  call.grad_table = Gradients::pointer<T>(given.table);
  call.grad_cost = data<T>(grad_cost);
  const Gradients found(std::nullopt, gradient.numel() > 0 ? std::optional<Tensor>(gradient) : std::nullopt, in.cost);
  if (found.table.has_value()) call.gradient = data<T>(*found.table);
  if (in.cost.numel() > 0) Device::backward(call, in.cost);
  return grad_cost;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> dtw_op(Tensor cost, std::optional<Tensor> lengths, double gamma, int64_t band,
                                                  bool smooth, bool with_gradient) {
  const DtwInputs in(cost, lengths);
  STD_TORCH_CHECK(!with_gradient || Device::kGradientOfDtw, "with_gradient is for the CPU");
  return cost.scalar_type() == ScalarType::Float ? run_dtw_op<Device, float>(in, gamma, band, smooth, with_gradient)
                                                 : run_dtw_op<Device, double>(in, gamma, band, smooth, with_gradient);
}

template <class Device>
Tensor dtw_backward_op(std::optional<Tensor> grad_value, std::optional<Tensor> grad_table, Tensor cost,
                       std::optional<Tensor> lengths, Tensor state, Tensor gradient, double gamma, int64_t band, bool smooth,
                       bool) {
  const DtwInputs in(cost, lengths);
  return cost.scalar_type() == ScalarType::Float
             ? run_dtw_backward_op<Device, float>(grad_value, grad_table, in, state, gradient, gamma, band, smooth)
             : run_dtw_backward_op<Device, double>(grad_value, grad_table, in, state, gradient, gamma, band, smooth);
}

}  // namespace lacray
