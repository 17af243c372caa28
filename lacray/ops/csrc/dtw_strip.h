// A strip of W rows of a warping table, swept along its anti-diagonals as in strip.h. Borders hold the Value of a cell
// (forward) or what flows to the cells above or on the left and to the diagonal one (backward).
#pragma once

#include "dtw_cell.h"
#include "strip.h"

namespace lacray {
namespace LACRAY_ISA {

template <class T, class Minimum>
struct DtwForwardStrip {
  int columns;
  Border<T> row;         // of the row above; replaced in place by the strip's last row
  Border<const T> left;  // of the column before, for the W rows
  Border<T> right;       // of the strip's last column; base null: not wanted
  T corner[Minimum::kArrays];  // above the left border
};

template <class T>
struct DtwBackwardStrip {
  int columns;
  Border<T> row;          // what the row below passes up and to the diagonal; replaced in place by the strip's first row
  Border<const T> right;  // what the column after passes to the left and to the diagonal
  Border<T> left;         // the same of the strip's first column; base null: not wanted
  T corner;               // to the diagonal, from below the right border
};

// Io supplies C, and takes R (kShares false) or the derivatives (true).
template <class V, class Minimum, bool kShares, class Io>
LACRAY_INLINE void dtw_forward_strip(const DtwForwardStrip<typename V::T, Minimum>& k, const Scale<V>& c, Io& io) {
  using R = typename V::R;
  using Value = typename Minimum::Value;
  constexpr int W = V::W, A = Minimum::kArrays;
  Value cell, left, next_diagonal;
  for (int a = 0; a < A; ++a) {
    cell.a[a] = V::set1(Minimum::unreached(a));
    left.a[a] = V::load_rows(k.left[a]);
    next_diagonal.a[a] = V::set1(k.corner[a]);
  }
  auto enter = [&](int row) {
    const auto here = V::rows(row, row);
    for (int a = 0; a < A; ++a) cell.a[a] = V::select(here, left.a[a], cell.a[a]);
  };
  enter(0);
  const int steps = k.columns + W - 1;
  for (int t = 0; t < steps; ++t) {
    const int column = t < k.columns ? t : k.columns - 1;
    const Value diagonal = next_diagonal;
    for (int a = 0; a < A; ++a) next_diagonal.a[a] = V::up(cell.a[a], k.row[a] + column);
    R table;
    Shares<V> p;
    cell = Minimum::template step<kShares>(c, io.cost_at(t), diagonal, next_diagonal, cell, table, p);
    if constexpr (kShares) {
      if (t < W - 1 || t >= k.columns) {
        const auto real = V::rows(t - k.columns + 1, t);
        const R none = V::set1(0);
        p = {V::select(real, p.diagonal, none), V::select(real, p.above, none), V::select(real, p.left, none)};
      }
      io.put_shares(t, p);
    } else {
      io.put_table(t, table);
    }
    if (t >= W - 1)
      for (int a = 0; a < A; ++a) V::store_last(k.row[a] + t - (W - 1), cell.a[a]);
    if (t >= k.columns - 1 && k.right.base != nullptr)
      for (int a = 0; a < A; ++a) V::store_row(k.right[a], t - k.columns + 1, cell.a[a]);
    if (t + 1 < W) enter(t + 1);
  }
}

// Io supplies the derivatives and the gradient of R, and takes the gradient of C.
template <class V, class Io>
LACRAY_INLINE void dtw_backward_strip(const DtwBackwardStrip<typename V::T>& k, Io& io) {
  using R = typename V::R;
  constexpr int W = V::W;
  const R none = V::set1(0);
  Flow<V> flow{none, none, none, none};
  const R to_left = V::load_rows(k.right[0]), to_diagonal = V::load_rows(k.right[1]);
  auto enter = [&](int row) {
    const auto here = V::rows(row, row);
    flow.left = V::select(here, to_left, flow.left);
    flow.diagonal = V::select(here, to_diagonal, flow.diagonal);
  };
  enter(W - 1);
  R next_diagonal = V::set1(k.corner);
  for (int t = k.columns + W - 2; t >= 0; --t) {
    const int column = t >= W - 1 ? t - (W - 1) : 0;
    const R diagonal = next_diagonal;
    const R below = V::down(flow.above, k.row[0] + column);
    next_diagonal = V::down(flow.diagonal, k.row[1] + column);
    Shares<V> p;
    io.get_shares(t, p);
    flow = flow_step<V>(p, io.grad_table(t), flow.left, below, diagonal);
    io.put_gradient(t, flow.cell);
    if (t < k.columns) {
      V::store_first(k.row[0] + t, flow.above);
      V::store_first(k.row[1] + t, flow.diagonal);
    }
    if (t < W && k.left.base != nullptr) {
      V::store_row(k.left[0], t, flow.left);
      V::store_row(k.left[1], t, flow.diagonal);
    }
    if (t >= k.columns && t - k.columns < W - 1) enter(t - k.columns);
  }
}

}  // namespace LACRAY_ISA
}  // namespace lacray
