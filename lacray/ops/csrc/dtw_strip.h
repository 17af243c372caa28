// Strips of a warping table, swept along their anti-diagonals and chained as in strip.h. Borders hold the Value of a cell
// (forward) or what flows to the cells above or on the left and to the diagonal one (backward).
#pragma once

#include "dtw_cell.h"
#include "strip.h"

namespace lacray {
namespace LACRAY_ISA {

template <class T, class Minimum>
struct DtwForwardChain {
  int columns, strips;
  Border<T> row;         // of the row above; replaced in place by the last row of each strip
  Border<const T> left;  // of the column before, row by row; or those of W rows for all
  int left_step;         // W, or 0 for the latter
  Border<T> right;       // of the last column; base null: not wanted
  T corner[Minimum::kArrays];  // above the left border
};

template <class T>
struct DtwBackwardChain {
  int columns, strips;
  Border<T> row;          // what the row below passes up and to the diagonal; replaced in place by the first row of each strip
  Border<const T> right;  // what the column after passes to the left and to the diagonal
  Border<T> left;         // the same of the first column; base null: not wanted
  T corner;               // to the diagonal, from below the right border
};

// Io supplies C, and takes R (kTable) and the derivatives (kShares).
template <class V, class Minimum, bool kTable, bool kShares, class Io>
LACRAY_INLINE void dtw_forward_chain(const DtwForwardChain<typename V::T, Minimum>& k, const Scale<V>& c, Io& io) {
  using R = typename V::R;
  using Value = typename Minimum::Value;
  constexpr int W = V::W, A = Minimum::kArrays;
  Value cell, next_diagonal;
  for (int a = 0; a < A; ++a) cell.a[a] = next_diagonal.a[a] = V::set1(Minimum::unreached(a));
  for (int s = 0; s < k.strips; ++s) {
    const int skip = s * k.left_step, corner = k.left_step != 0 ? skip - 1 : 0;
    Value border;
    for (int a = 0; a < A; ++a) border.a[a] = V::load_rows(k.left[a] + skip);
    for (int a = 0; a < A; ++a)
      next_diagonal.a[a] = V::select(V::rows(0, 0), V::set1(s == 0 ? k.corner[a] : k.left[a][corner]), next_diagonal.a[a]);
    const int end = s == k.strips - 1 ? k.columns + W - 1 : k.columns;
    for (int u = 0; u < end; ++u) {
      const int t = s * k.columns + u, column = u < k.columns ? u : k.columns - 1;
      const Value diagonal = next_diagonal;
      Value above, left = cell;
      for (int a = 0; a < A; ++a) above.a[a] = next_diagonal.a[a] = V::up(cell.a[a], k.row[a] + column);
      if (u < W) {
        // Row u enters the strip: on its left is the border, but the row below still reads the cell that it comes from.
        for (int a = 0; a < A; ++a) {
          left.a[a] = V::select(V::rows(u, u), border.a[a], cell.a[a]);
          next_diagonal.a[a] = V::up(left.a[a], k.row[a] + column);
        }
      }
      R table;
      Shares<V> p;
      cell = Minimum::template step<kTable, kShares>(c, io.cost_at(t), diagonal, above, left, table, p);
      if constexpr (kShares) {
        int first, last;
        real_lanes<V>(s, u, k.strips, k.columns, first, last);
        if (!all_real<V>(first, last)) {
          const auto real = V::rows(first, last);
          const R none = V::set1(0);
          p = {V::select(real, p.diagonal, none), V::select(real, p.above, none), V::select(real, p.left, none)};
        }
        io.put_shares(t, p);
      }
      if constexpr (kTable) io.put_table(t, table);
      const int done = u >= W - 1 ? u - (W - 1) : u - (W - 1) + k.columns;
      if (u >= W - 1 || s > 0)
        for (int a = 0; a < A; ++a) V::store_last(k.row[a] + done, cell.a[a]);
      const int row = u >= k.columns - 1 ? u - (k.columns - 1) : s > 0 && u + 1 < W ? u + 1 - W : -W;
      if (row > -W && k.right.base != nullptr) {
        const int lane = row < 0 ? row + W : row, strip_row = (row < 0 ? s - 1 : s) * W;
        for (int a = 0; a < A; ++a) V::store_row(k.right[a] + strip_row, lane, cell.a[a]);
      }
    }
  }
}

// Io supplies the derivatives and the gradient of R, and takes the gradient of C.
template <class V, class Io>
LACRAY_INLINE void dtw_backward_chain(const DtwBackwardChain<typename V::T>& k, Io& io) {
  using R = typename V::R;
  constexpr int W = V::W;
  const R none = V::set1(0);
  Flow<V> flow{none, none, none, none};
  R to_left, to_diagonal;
  auto prepare = [&](int s) {
    to_left = V::load_rows(k.right[0] + s * W);
    to_diagonal = V::load_rows(k.right[1] + s * W);
  };
  auto enter = [&](int row) {
    const auto here = V::rows(row, row);
    flow.left = V::select(here, to_left, flow.left);
    flow.diagonal = V::select(here, to_diagonal, flow.diagonal);
  };
  prepare(k.strips - 1);
  enter(W - 1);
  R next_diagonal = V::set1(k.corner);
  for (int s = k.strips - 1; s >= 0; --s) {
    for (int u = s == k.strips - 1 ? k.columns + W - 2 : k.columns - 1; u >= 0; --u) {
      const int t = s * k.columns + u;
      const int column = u >= W - 1 ? u - (W - 1) : s > 0 ? u - (W - 1) + k.columns : 0;
      const R diagonal = next_diagonal;
      const R below = V::down(flow.above, k.row[0] + column);
      next_diagonal = V::down(flow.diagonal, k.row[1] + column);
      Shares<V> p;
      io.get_shares(t, p);
      flow = flow_step<V>(p, io.grad_table(t), flow.left, below, diagonal);
      io.put_gradient(t, flow.cell);
      if (u < k.columns) {
        V::store_first(k.row[0] + u, flow.above);
        V::store_first(k.row[1] + u, flow.diagonal);
      }
      if (u < W && k.left.base != nullptr) {
        V::store_row(k.left[0] + s * W, u, flow.left);
        V::store_row(k.left[1] + s * W, u, flow.diagonal);
      }
      if (u >= k.columns) {  // of the last strip
        if (u - k.columns < W - 1) enter(u - k.columns);
      } else if (s > 0 && u < W) {  // rows go on with the strip above
        if (u == W - 1) {
          prepare(s - 1);
          next_diagonal = V::select(V::rows(W - 1, W - 1), V::set1(k.right[1][s * W]), next_diagonal);
        }
        enter(u);
      }
    }
  }
}

}  // namespace LACRAY_ISA
}  // namespace lacray
