// A strip of W rows swept along its anti-diagonals: the vector holds, at step t, column t - i of row i.
//
// One step needs the vector of the step before, moved by one lane, and nothing else: no scan, no gather. What enters at
// the top and on the left comes from borders, what leaves at the bottom and on the right goes to borders; so strips
// chain into tiles and tiles into tables. V is a SIMD register on the CPU, and one float per thread of a warp in CUDA.
//
// Strips of at least W columns, one below the other, are one chain: a row that has reached its last column goes on with
// the first of the row W below it, so lanes are idle at the two ends of the chain only. Step t is u = t - s * columns of
// strip s, as its first row sees it: the rows l > u are still in strip s - 1, at column u - l + columns.
//
// Cells outside the chain are computed and never used: forward, a row's state is replaced by the left border at column
// -1; backward, by the right border at column `columns`. Their Weights are zeroed, but what flows into those on the left
// from the first column flows on: sums over a chain must leave it out.
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
struct ForwardChain {
  int columns, strips;   // more than one strip: columns >= W
  Border<T> row;         // h, s, y (mantissa, exponent) of the row above; replaced in place by the last row of each strip
  Border<const T> left;  // h, d, x (mantissa, exponent) of the column before, row by row; or those of W rows for all
  int left_step;         // W, or 0 for the latter
  Border<T> right;       // the same for the last column; base null: not wanted
  T corner_m, corner_e;  // h above the left border
  T start;               // exponent of the 1 in h
};

template <class T>
struct BackwardChain {
  int columns, strips;
  Border<T> row;           // pd, ys, yy of the row below; replaced in place by the first row of each strip
  Border<const T> right;   // pd, xd, xx of the column after, row by row
  Border<T> left;          // the same for the first column; base null: not wanted
  T corner;                // pd below the right border
};

// The lanes that are within the chain at step u of strip s.
template <class V>
LACRAY_INLINE void real_lanes(int s, int u, int strips, int columns, int& first, int& last) {
  first = s == strips - 1 ? u - columns + 1 : 0;
  last = s == 0 ? u : V::W - 1;
}
template <class V>
LACRAY_INLINE bool all_real(int first, int last) {
  return first <= 0 && last >= V::W - 1;
}

// Io supplies S, the gap weights, and takes D (kWeights false) or the transition probabilities (true).
template <class V, bool kWeights, class Io>
LACRAY_INLINE void forward_chain(const ForwardChain<typename V::T>& k, const Scale<V>& c, Ext<V> inverse_z, Io& io, Ext<V>& total) {
  using R = typename V::R;
  constexpr int W = V::W;
  const Ext<V> zero = constant<V>(1, kZero), one = constant<V>(1, 0);
  Cell<V> cell{zero, zero, zero, zero, one};
  Ext<V> next_diagonal = one;
  const R start = V::set1(k.start);
  for (int s = 0; s < k.strips; ++s) {
    const int skip = s * k.left_step;
    const R hm = V::load_rows(k.left[0] + skip), he = V::load_rows(k.left[1] + skip), dm = V::load_rows(k.left[2] + skip),
            de = V::load_rows(k.left[3] + skip), xm = V::load_rows(k.left[4] + skip), xe = V::load_rows(k.left[5] + skip);
    auto enter = [&](int row) {
      const auto here = V::rows(row, row);
      cell.h = {V::select(here, hm, cell.h.m), V::select(here, he, cell.h.e)};
      cell.d = {V::select(here, dm, cell.d.m), V::select(here, de, cell.d.e)};
      cell.x = {V::select(here, xm, cell.x.m), V::select(here, xe, cell.x.e)};
    };
    enter(0);
    // The corner: given, or the left border's cell in the row above.
    const int above = k.left_step != 0 ? skip - 1 : 0;
    const auto first_row = V::rows(0, 0);
    next_diagonal.m = V::select(first_row, V::set1(s == 0 ? k.corner_m : k.left[0][above]), next_diagonal.m);
    next_diagonal.e = V::select(first_row, V::set1(s == 0 ? k.corner_e : k.left[1][above]), next_diagonal.e);
    const int end = s == k.strips - 1 ? k.columns + W - 1 : k.columns;
    for (int u = 0; u < end; ++u) {
      const int t = s * k.columns + u, column = u < k.columns ? u : k.columns - 1;
      const Ext<V> diagonal = next_diagonal;
      next_diagonal = {V::up(cell.h.m, k.row[0] + column), V::up(cell.h.e, k.row[1] + column)};
      const Ext<V> above_s{V::up(cell.s.m, k.row[2] + column), V::up(cell.s.e, k.row[3] + column)};
      const Ext<V> above_y{V::up(cell.y.m, k.row[4] + column), V::up(cell.y.e, k.row[5] + column)};
      const R similarity = io.similarity(t);
      const Cell<V> left = cell;
      Weights<V> p;
      step<V, kWeights>(power<V>(similarity, c.up), io.gaps(t, c), left, above_s, above_y, diagonal, start, inverse_z, cell, p);
      if constexpr (kWeights) {
        int first, last;
        real_lanes<V>(s, u, k.strips, k.columns, first, last);
        if (!all_real<V>(first, last)) {
          const auto real = V::rows(first, last);
          const R none = V::set1(0);
          R* const values = &p.pd;
          for (int q = 0; q < kNumWeights; ++q) values[q] = V::select(real, values[q], none);
        }
        io.put_weights(t, p);
      } else {
        io.put_match(t, match_value<V>(similarity, diagonal, c.gamma_log_2));
        accumulate<V>(total, cell.d);
      }
      // The last row is W - 1 columns behind the first, maybe in the strip before.
      const int done = u >= W - 1 ? u - (W - 1) : u - (W - 1) + k.columns;
      if (u >= W - 1 || s > 0) {
        V::store_last(k.row[0] + done, cell.h.m);
        V::store_last(k.row[1] + done, cell.h.e);
        V::store_last(k.row[2] + done, cell.s.m);
        V::store_last(k.row[3] + done, cell.s.e);
        V::store_last(k.row[4] + done, cell.y.m);
        V::store_last(k.row[5] + done, cell.y.e);
      }
      // The row that is at its last column.
      const int row = u >= k.columns - 1 ? u - (k.columns - 1) : s > 0 && u + 1 < W ? u + 1 - W : -W;
      if (row > -W && k.right.base != nullptr) {
        const int lane = row < 0 ? row + W : row, strip_row = (row < 0 ? s - 1 : s) * W;
        V::store_row(k.right[0] + strip_row, lane, cell.h.m);
        V::store_row(k.right[1] + strip_row, lane, cell.h.e);
        V::store_row(k.right[2] + strip_row, lane, cell.d.m);
        V::store_row(k.right[3] + strip_row, lane, cell.d.e);
        V::store_row(k.right[4] + strip_row, lane, cell.x.m);
        V::store_row(k.right[5] + strip_row, lane, cell.x.e);
      }
      if (u + 1 < W) enter(u + 1);
    }
  }
}

// Io supplies the weights and the gradient of D, and takes the adjoint of each cell.
template <class V, class Io>
LACRAY_INLINE void backward_chain(const BackwardChain<typename V::T>& k, typename V::R grad_score, Io& io) {
  using R = typename V::R;
  constexpr int W = V::W;
  const R none = V::set1(0);
  Adjoint<V> cell{none, none, none, none, none};
  R pd, xd, xx;
  auto prepare = [&](int s) {
    pd = V::load_rows(k.right[0] + s * W);
    xd = V::load_rows(k.right[1] + s * W);
    xx = V::load_rows(k.right[2] + s * W);
  };
  auto enter = [&](int row) {
    const auto here = V::rows(row, row);
    cell.pd = V::select(here, pd, cell.pd);
    cell.xd = V::select(here, xd, cell.xd);
    cell.xx = V::select(here, xx, cell.xx);
  };
  prepare(k.strips - 1);
  enter(W - 1);
  R next_diagonal = V::set1(k.corner);
  for (int s = k.strips - 1; s >= 0; --s) {
    for (int u = s == k.strips - 1 ? k.columns + W - 2 : k.columns - 1; u >= 0; --u) {
      const int t = s * k.columns + u;
      const int column = u >= W - 1 ? u - (W - 1) : s > 0 ? u - (W - 1) + k.columns : 0;
      const R diagonal = next_diagonal;
      next_diagonal = V::down(cell.pd, k.row[0] + column);
      const R ys = V::down(cell.ys, k.row[1] + column);
      const R yy = V::down(cell.yy, k.row[2] + column);
      Weights<V> p;
      io.get_weights(t, p);
      cell = adjoint_step<V>(p, io.grad_match(t), grad_score, cell, ys, yy, diagonal);
      int first, last;
      real_lanes<V>(s, u, k.strips, k.columns, first, last);
      io.put_gradients(t, cell, first, last);
      if (u < k.columns) {
        V::store_first(k.row[0] + u, cell.pd);
        V::store_first(k.row[1] + u, cell.ys);
        V::store_first(k.row[2] + u, cell.yy);
      }
      if (u < W && k.left.base != nullptr) {
        V::store_row(k.left[0] + s * W, u, cell.pd);
        V::store_row(k.left[1] + s * W, u, cell.xd);
        V::store_row(k.left[2] + s * W, u, cell.xx);
      }
      if (u >= k.columns) {  // of the last strip
        if (u - k.columns < W - 1) enter(u - k.columns);
      } else if (s > 0 && u < W) {  // rows go on with the strip above
        if (u == W - 1) {
          prepare(s - 1);
          // The last row is at the first column: next comes the last one of the strip above, and what is below its right border.
          next_diagonal = V::select(V::rows(W - 1, W - 1), V::set1(k.right[0][s * W]), next_diagonal);
        }
        enter(u);
      }
    }
  }
}

}  // namespace LACRAY_ISA
}  // namespace lacray
