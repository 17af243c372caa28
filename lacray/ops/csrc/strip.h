// A strip of W rows swept along its anti-diagonals: the vector holds, at step t, column t - i of row i.
//
// One step needs the vector of the step before, moved by one lane, and nothing else: no scan, no gather. What enters at
// the top and on the left comes from borders, what leaves at the bottom and on the right goes to borders; so strips
// chain into tiles and tiles into tables. V is a SIMD register on the CPU, and one float per thread of a warp in CUDA.
//
// Cells outside the strip (t - i < 0 or >= columns) are computed and never used: forward, a row's state is replaced by
// the left border at column -1; backward, by the right border at column `columns`. Their Weights are zeroed, but what flows
// into those on the left from the strip's first column flows on: sums over a strip must leave it out.
#pragma once

#include "cell.h"

namespace lacray {
namespace LACRAY_ISA {

// Borders are structures of arrays: array k starts at base + k * stride.
template <class T>
struct Border {
  T* base;
  long stride;
  LACRAY_INLINE T* operator[](int k) const { return base + k * stride; }
};

template <class T>
struct ForwardStrip {
  int columns;
  Border<T> row;         // h, s, y (mantissa, exponent) of the row above; replaced in place by the strip's last row
  Border<const T> left;  // h, d, x (mantissa, exponent) of the column before, for the W rows
  Border<T> right;       // the same for the strip's last column; base null: not wanted
  T corner_m, corner_e;  // h above the left border
  T start;               // exponent of the 1 in h
};

template <class T>
struct BackwardStrip {
  int columns;
  Border<T> row;           // pd, ys, yy of the row below; replaced in place by the strip's first row
  Border<const T> right;   // pd, xd, xx of the column after
  Border<T> left;          // the same for the strip's first column; base null: not wanted
  T corner;                // pd below the right border
};

// Io supplies S, the gap weights, and takes D (kWeights false) or the transition probabilities (true).
template <class V, bool kWeights, class Io>
LACRAY_INLINE void forward_strip(const ForwardStrip<typename V::T>& k, const Scale<V>& c, Ext<V> inverse_z, Io& io, Ext<V>& total) {
  using R = typename V::R;
  constexpr int W = V::W;
  const Ext<V> zero = constant<V>(1, kZero), one = constant<V>(1, 0);
  Cell<V> cell{zero, zero, zero, zero, one};
  const R hm = V::load_rows(k.left[0]), he = V::load_rows(k.left[1]), dm = V::load_rows(k.left[2]), de = V::load_rows(k.left[3]),
          xm = V::load_rows(k.left[4]), xe = V::load_rows(k.left[5]);
  auto enter = [&](int row) {
    const auto here = V::rows(row, row);
    cell.h = {V::select(here, hm, cell.h.m), V::select(here, he, cell.h.e)};
    cell.d = {V::select(here, dm, cell.d.m), V::select(here, de, cell.d.e)};
    cell.x = {V::select(here, xm, cell.x.m), V::select(here, xe, cell.x.e)};
  };
  enter(0);
  Ext<V> next_diagonal = constant<V>(k.corner_m, k.corner_e);
  const R start = V::set1(k.start);
  const int steps = k.columns + W - 1;
  for (int t = 0; t < steps; ++t) {
    const int column = t < k.columns ? t : k.columns - 1;
    const Ext<V> diagonal = next_diagonal;
    next_diagonal = {V::up(cell.h.m, k.row[0] + column), V::up(cell.h.e, k.row[1] + column)};
    const Ext<V> above_s{V::up(cell.s.m, k.row[2] + column), V::up(cell.s.e, k.row[3] + column)};
    const Ext<V> above_y{V::up(cell.y.m, k.row[4] + column), V::up(cell.y.e, k.row[5] + column)};
    const R similarity = io.similarity(t);
    Ext<V> a, b;
    io.gaps(t, c, a, b);
    const Cell<V> left = cell;
    Weights<V> p;
    step<V, kWeights>(power<V>(similarity, c.up, c.up_low), a, b, left, above_s, above_y, diagonal, start, inverse_z, cell,
                      p);
    if constexpr (kWeights) {
      if (t < W - 1 || t >= k.columns) {
        const auto real = V::rows(t - k.columns + 1, t);
        const R none = V::set1(0);
        R* const values = &p.pd;
        for (int q = 0; q < kNumWeights; ++q) values[q] = V::select(real, values[q], none);
      }
      io.put_weights(t, p);
    } else {
      io.put_match(t, match_value<V>(similarity, diagonal, c.gamma_log_2));
      accumulate<V>(total, cell.d);
    }
    if (t >= W - 1) {
      const int done = t - (W - 1);
      V::store_last(k.row[0] + done, cell.h.m);
      V::store_last(k.row[1] + done, cell.h.e);
      V::store_last(k.row[2] + done, cell.s.m);
      V::store_last(k.row[3] + done, cell.s.e);
      V::store_last(k.row[4] + done, cell.y.m);
      V::store_last(k.row[5] + done, cell.y.e);
    }
    if (t >= k.columns - 1 && k.right.base != nullptr) {
      const int row = t - k.columns + 1;
      V::store_row(k.right[0], row, cell.h.m);
      V::store_row(k.right[1], row, cell.h.e);
      V::store_row(k.right[2], row, cell.d.m);
      V::store_row(k.right[3], row, cell.d.e);
      V::store_row(k.right[4], row, cell.x.m);
      V::store_row(k.right[5], row, cell.x.e);
    }
    if (t + 1 < W) enter(t + 1);
  }
}

// Io supplies the weights and the gradient of D, and takes the adjoint of each cell.
template <class V, class Io>
LACRAY_INLINE void backward_strip(const BackwardStrip<typename V::T>& k, typename V::R grad_score, Io& io) {
  using R = typename V::R;
  constexpr int W = V::W;
  const R none = V::set1(0);
  Adjoint<V> cell{none, none, none, none, none};
  const R pd = V::load_rows(k.right[0]), xd = V::load_rows(k.right[1]), xx = V::load_rows(k.right[2]);
  auto enter = [&](int row) {
    const auto here = V::rows(row, row);
    cell.pd = V::select(here, pd, cell.pd);
    cell.xd = V::select(here, xd, cell.xd);
    cell.xx = V::select(here, xx, cell.xx);
  };
  enter(W - 1);
  R next_diagonal = V::set1(k.corner);
  for (int t = k.columns + W - 2; t >= 0; --t) {
    const int column = t >= W - 1 ? t - (W - 1) : 0;
    const R diagonal = next_diagonal;
    next_diagonal = V::down(cell.pd, k.row[0] + column);
    const R ys = V::down(cell.ys, k.row[1] + column);
    const R yy = V::down(cell.yy, k.row[2] + column);
    Weights<V> p;
    io.get_weights(t, p);
    cell = adjoint_step<V>(p, io.grad_match(t), grad_score, cell, ys, yy, diagonal);
    io.put_gradients(t, cell);
    if (t < k.columns) {
      V::store_first(k.row[0] + t, cell.pd);
      V::store_first(k.row[1] + t, cell.ys);
      V::store_first(k.row[2] + t, cell.yy);
    }
    if (t < W && k.left.base != nullptr) {
      V::store_row(k.left[0], t, cell.pd);
      V::store_row(k.left[1], t, cell.xd);
      V::store_row(k.left[2], t, cell.xx);
    }
    if (t >= k.columns && t - k.columns < W - 1) enter(t - k.columns);
  }
}

}  // namespace LACRAY_ISA
}  // namespace lacray
