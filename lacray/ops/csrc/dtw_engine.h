// The CPU engine of dynamic time warping: tiles, strips and checkpoints as in soft_sw_engine.h.
//
// With a band, a strip covers only the columns that its rows can reach: time goes with the band, not with the table.
#pragma once

#include "dtw_strip.h"
#include "tiles.h"

namespace lacray {
namespace LACRAY_ISA {

template <class V, class Minimum>
class DtwEngine {
 public:
  using T = typename V::T;
  static constexpr int W = V::W, A = Minimum::kArrays;
  static constexpr T kInfinity = std::numeric_limits<T>::infinity();

  explicit DtwEngine(const Dtw<T>& call) : call_(call), scale_(scale_of<V>(call.gamma)) {
    tile_rows_ = ceil_div(call.N, call.tile_rows);
    padded_rows_ = tile_rows_ * call.tile_rows;
    for (int a = 0; a < A; ++a) std::fill_n(unreached_ + a * W, W, Minimum::unreached(a));
    std::fill_n(nothing_, 2 * W, T(0));
  }

  // Where the gradient of the value is wanted too, the derivatives are kept until it is known, and nothing is computed twice.
  void forward(int64_t b, Parallel parallel) const {
    const auto [n, m] = size_of(call_, b);
    blank(call_.table + b * call_.N * call_.M, call_.N, call_.M, n, m, kInfinity);
    std::fill_n(call_.state + b * call_.state_size, call_.state_size,
                T(0));  // parts stay unused: they must not differ between runs
    const int64_t rows = ceil_div(n, call_.tile_rows), columns = ceil_div(m, call_.tile_columns), size = kNumShares * tile_size();
    const bool keep = call_.gradient != nullptr;
    Buffer<T> memory((keep ? rows * columns * size : 0) + A * m);
    T *const shares = memory.get(), *const row = keep ? shares + rows * columns * size : shares;
    start_row(row, m);
    sweep(parallel, rows, columns, false, [&](int64_t r, int64_t c) {
      forward_scratch_.with(*this, [&](const ForwardScratch& scratch) {
        forward_tile(b, n, m, r, c, row, scratch, keep ? shares + (r * columns + c) * size : nullptr);
      });
    });
    call_.value[b] = n == 0 ? kInfinity : call_.table[(b * call_.N + n - 1) * call_.M + m - 1];
    call_.state[b * call_.state_size] = call_.value[b];
    if (keep) backward(b, n, m, {call_.gradient, T(1), nullptr, shares}, parallel);
  }

  void backward(int64_t b, Parallel parallel) const {
    const auto [n, m] = size_of(call_, b);
    const T grad_value = call_.grad_value != nullptr ? call_.grad_value[b] : T(0);
    if (call_.gradient == nullptr || call_.grad_table != nullptr)
      return backward(b, n, m, {call_.grad_cost, grad_value, call_.grad_table, nullptr}, parallel);
    const int64_t first = b * call_.N * call_.M;
    blank(call_.grad_cost + first, call_.N, call_.M, n, m, T(0));
    const T factor = reached(b) ? grad_value : T(0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t k = first + i * call_.M; k < first + i * call_.M + m; ++k) call_.grad_cost[k] = factor * call_.gradient[k];
  }

 private:
  struct Backward {
    T* grad_cost;
    T grad_value;
    const T* grad_table;  // or null: zero
    const T* shares;      // of all tiles, or null: computed anew
  };

  // Whether there is a path: else what arrives at the value, often NaN, is dropped.
  bool reached(int64_t b) const { return call_.state[b * call_.state_size] < kInfinity; }

  void backward(int64_t b, int64_t n, int64_t m, const Backward& given, Parallel parallel) const {
    blank(given.grad_cost + b * call_.N * call_.M, call_.N, call_.M, n, m, T(0));
    const int64_t columns = ceil_div(m, call_.tile_columns), boundary = 2 * (padded_rows_ + 1);
    const int64_t numbers = 2 * m + (columns + 1) * boundary;
    Buffer<T> memory(numbers);
    std::fill_n(memory.get(), numbers, T(0));
    const Borders borders{memory.get(), memory.get() + 2 * m, boundary};
    // The value's gradient comes to the last cell from beyond the corner.
    if (n > 0 && reached(b)) borders.sides[columns * boundary + padded_rows_ + 1 + n] = given.grad_value;
    sweep(parallel, ceil_div(n, call_.tile_rows), columns, true, [&](int64_t r, int64_t c) {
      backward_scratch_.with(*this, [&](const BackwardScratch& scratch) {
        const T* shares = scratch.shares.get();
        if (given.shares != nullptr) shares = given.shares + (r * columns + c) * kNumShares * tile_size();
        else recompute_tile(b, n, m, r, c, scratch);
        backward_tile(b, n, m, r, c, borders, given, shares, scratch);
      });
    });
  }

  struct ForwardScratch {
    Buffer<T> cost, table;
    explicit ForwardScratch(const DtwEngine& engine) : cost(engine.tile_size()), table(engine.tile_size()) {}
  };

  struct BackwardScratch {
    Buffer<T> cost, top, shares, grad_table, grad_cost;
    explicit BackwardScratch(const DtwEngine& engine)
        : cost(engine.tile_size()),
          top(A * engine.strip_size() / W),
          shares(kNumShares * engine.tile_size()),
          grad_table(engine.tile_size()),
          grad_cost(engine.tile_size()) {}
  };
  // Where the derivatives of a chain begin within a tile's.
  int64_t chain_shares(int64_t row) const { return row / W * kNumShares * strip_size(); }

  struct Borders {
    T *row, *sides;  // what the row below, and the column after each column of tiles, pass on
    int64_t boundary;
  };

  struct ForwardIo {
    const T* cost;
    T *out, *shares;  // R and the derivatives, as far as wanted
    LACRAY_INLINE typename V::R cost_at(int t) const { return V::load(cost + t * W); }
    LACRAY_INLINE void put_table(int t, typename V::R table) { V::store(out + t * W, table); }
    LACRAY_INLINE void put_shares(int t, const Shares<V>& p) {
      const typename V::R* const values = &p.diagonal;
      for (int q = 0; q < kNumShares; ++q) V::store(shares + (int64_t(t) * kNumShares + q) * W, values[q]);
    }
  };

  struct BackwardIo {
    const T *shares, *grad;
    T* grad_cost;
    LACRAY_INLINE void get_shares(int t, Shares<V>& p) const {
      typename V::R* const values = &p.diagonal;
      for (int q = 0; q < kNumShares; ++q) values[q] = V::load(shares + (int64_t(t) * kNumShares + q) * W);
    }
    LACRAY_INLINE typename V::R grad_table(int t) const {
      if (grad == nullptr) return V::set1(0);
      return if_reached<V>(V::load(shares + (int64_t(t) * kNumShares + 2) * W), V::load(grad + t * W));
    }
    LACRAY_INLINE void put_gradient(int t, typename V::R g) { V::store(grad_cost + t * W, g); }
  };

  // The rows of a chain, and its columns within a tile: those that the band leaves, which differ from strip to strip.
  struct Place {
    int64_t i0, j0, j1;  // j0 < j1, else nothing
    int rows;
    int columns() const { return int(j1 - j0); }
  };

  Place place(int64_t i0, int64_t n, int64_t m, int64_t c) const {
    const int64_t end = std::min((i0 / call_.tile_rows + 1) * call_.tile_rows, n);
    const int rows = int(std::min(step(m, c), end - i0));
    int64_t j0 = c * call_.tile_columns, j1 = std::min(j0 + call_.tile_columns, m);
    if (call_.band >= 0) {
      j0 = std::max(j0, std::min(i0 - call_.band, j1));
      j1 = std::max(j0, std::min(j1, i0 + rows + call_.band));
    }
    return {i0, j0, j1, rows};
  }

  // Rows of a chain in a column of tiles.
  int64_t step(int64_t m, int64_t c) const {
    const int columns = int(std::min(call_.tile_columns, m - c * call_.tile_columns));
    return call_.band < 0 && chains<V>(columns) ? call_.tile_rows : W;
  }

  void forward_tile(int64_t b, int64_t n, int64_t m, int64_t r, int64_t c, T* row, const ForwardScratch& scratch, T* shares) const {
    [[maybe_unused]] const typename V::Flush flush;
    T* const table = call_.table + b * call_.N * call_.M;
    T* const state = call_.state + b * call_.state_size;
    const int64_t j0 = c * call_.tile_columns, j1 = std::min(j0 + call_.tile_columns, m);
    if (r > 0)
      for (int a = 0; a < A; ++a) std::copy_n(row + a * m + j0, j1 - j0, row_checkpoint(state, r) + a * call_.M + j0);
    for (int64_t i0 = r * call_.tile_rows; i0 < std::min((r + 1) * call_.tile_rows, n); i0 += step(m, c)) {
      const Place at = place(i0, n, m, c);
      Border<T> right{nullptr, 0};
      if (j1 < m) {
        right = {column_checkpoint(state, c + 1) + i0, padded_rows_};
        if (at.j1 < j1 || at.j0 == at.j1)
          for (int a = 0; a < A; ++a) std::fill_n(right[a], W, Minimum::unreached(a));  // with a band: one strip
      }
      for (int64_t i = i0; i < i0 + at.rows; ++i) {
        std::fill(table + i * call_.M + j0, table + i * call_.M + at.j0, kInfinity);
        std::fill(table + i * call_.M + at.j1, table + i * call_.M + j1, kInfinity);
      }
      if (at.j0 == at.j1) continue;
      load_cost(b, at, scratch.cost.get());
      ForwardIo io{scratch.cost.get(), scratch.table.get(), nullptr};
      if (shares != nullptr) io.shares = shares + chain_shares(i0 - r * call_.tile_rows);
      DtwForwardChain<T, Minimum> k = chain(state, row, m, 0, at, c);
      if (at.j1 == j1) k.right = right;
      if (shares != nullptr) dtw_forward_chain<V, Minimum, true, true>(k, scale_, io);
      else dtw_forward_chain<V, Minimum, true, false>(k, scale_, io);
      chain_out<V>(table + i0 * call_.M + at.j0, call_.M, scratch.table.get(), at.rows, at.columns());
    }
  }

  // The derivatives of a tile, from its borders.
  void recompute_tile(int64_t b, int64_t n, int64_t m, int64_t r, int64_t c, const BackwardScratch& scratch) const {
    [[maybe_unused]] const typename V::Flush flush;
    T* const state = call_.state + b * call_.state_size;
    const int64_t first = r * call_.tile_rows, last = std::min(first + call_.tile_rows, n), rows = step(m, c);
    const int64_t j0 = c * call_.tile_columns, j1 = std::min(j0 + call_.tile_columns, m);
    T* const top = scratch.top.get();
    start_row(top, j1 - j0);
    if (r > 0)
      for (int a = 0; a < A; ++a) std::copy_n(row_checkpoint(state, r) + a * call_.M + j0, j1 - j0, top + a * (j1 - j0));
    for (int64_t i0 = first; i0 < last; i0 += rows) {
      const Place at = place(i0, n, m, c);
      if (at.j0 == at.j1) continue;
      load_cost(b, at, scratch.cost.get());
      ForwardIo io{scratch.cost.get(), nullptr, scratch.shares.get() + chain_shares(i0 - first)};
      dtw_forward_chain<V, Minimum, false, true>(chain(state, top, j1 - j0, j0, at, c), scale_, io);
    }
  }

  void backward_tile(int64_t b, int64_t n, int64_t m, int64_t r, int64_t c, const Borders& borders, const Backward& given,
                     const T* shares, const BackwardScratch& scratch) const {
    [[maybe_unused]] const typename V::Flush flush;
    const int64_t offset = b * call_.N * call_.M;
    const int64_t first = r * call_.tile_rows, last = std::min(first + call_.tile_rows, n), rows = step(m, c);
    const int64_t j0 = c * call_.tile_columns, j1 = std::min(j0 + call_.tile_columns, m);
    for (int64_t i0 = first + (last - first - 1) / rows * rows; i0 >= first; i0 -= rows) {
      const Place at = place(i0, n, m, c);
      T* const grad_cost = given.grad_cost + offset;
      for (int64_t i = i0; i < i0 + at.rows; ++i) {
        std::fill(grad_cost + i * call_.M + j0, grad_cost + i * call_.M + at.j0, T(0));
        std::fill(grad_cost + i * call_.M + at.j1, grad_cost + i * call_.M + j1, T(0));
      }
      if (at.j0 == at.j1) continue;
      T* const grad = given.grad_table != nullptr ? scratch.grad_table.get() : nullptr;
      if (grad != nullptr)
        chain_in<V>(grad, given.grad_table + offset + i0 * call_.M + at.j0, call_.M, at.rows, at.columns(), T(0));
      BackwardIo io{shares + chain_shares(i0 - first), grad, scratch.grad_cost.get()};
      DtwBackwardChain<T> k;
      k.columns = at.columns();
      k.strips = int(ceil_div(at.rows, W));
      k.row = {borders.row + at.j0, m};
      if (at.j1 == j1) {
        k.right = {borders.sides + (c + 1) * borders.boundary + i0, padded_rows_ + 1};
        k.corner = k.right[1][k.strips * W];
      } else {  // beyond the band there is nothing, but for the row below
        k.right = {nothing_, W};
        k.corner = borders.row[m + at.j1];
      }
      k.left = {at.j0 == j0 && c > 0 ? borders.sides + c * borders.boundary + i0 : nullptr, padded_rows_ + 1};
      dtw_backward_chain<V>(k, io);
      chain_out<V>(grad_cost + i0 * call_.M + at.j0, call_.M, scratch.grad_cost.get(), at.rows, at.columns());
    }
  }

  // `row` holds the row above from column `origin` on.
  DtwForwardChain<T, Minimum> chain(T* state, T* row, int64_t row_stride, int64_t origin, const Place& at, int64_t c) const {
    DtwForwardChain<T, Minimum> k;
    k.columns = at.columns();
    k.strips = int(ceil_div(at.rows, W));
    k.left_step = 0;
    k.row = {row + at.j0 - origin, row_stride};
    k.right = {nullptr, 0};
    k.left = {unreached_, W};
    const bool at_border = at.j0 == c * call_.tile_columns;  // of the tile; else of the band
    const T* const column = at_border && c > 0 ? column_checkpoint(state, c) : nullptr;
    if (column != nullptr) {
      k.left = {column + at.i0, padded_rows_};
      k.left_step = W;
    }
    for (int a = 0; a < A; ++a) {
      if (at.i0 == 0) k.corner[a] = at.j0 == 0 ? Minimum::origin(a) : Minimum::unreached(a);
      else if (!at_border) k.corner[a] = k.row[a][-1];
      else k.corner[a] = column != nullptr ? column[a * padded_rows_ + at.i0 - 1] : Minimum::unreached(a);
    }
    return k;
  }

  void load_cost(int64_t b, const Place& at, T* cost) const {
    chain_in<V>(cost, call_.cost + (b * call_.N + at.i0) * call_.M + at.j0, call_.M, at.rows, at.columns(), kInfinity);
    if (call_.band < 0) return;
    for (int64_t t = 0; t < at.columns() + W - 1; ++t)
      for (int l = 0; l < W; ++l)
        if (std::abs(at.i0 + l - (at.j0 + t - l)) > call_.band) cost[t * W + V::lane(l)] = kInfinity;
  }

  // Numbers of a strip and of a tile in the order of a sweep.
  int64_t strip_size() const { return skewed<V>(std::min(call_.tile_columns, call_.M)); }
  int64_t tile_size() const { return call_.tile_rows / W * strip_size(); }
  T* row_checkpoint(T* state, int64_t r) const { return state + 2 + (r - 1) * A * call_.M; }
  T* column_checkpoint(T* state, int64_t c) const {
    return state + 2 + std::max<int64_t>(tile_rows_ - 1, 0) * A * call_.M + (c - 1) * A * padded_rows_;
  }
  static void start_row(T* row, int64_t m) {
    for (int a = 0; a < A; ++a) std::fill_n(row + a * m, m, Minimum::unreached(a));
  }

  const Dtw<T>& call_;
  mutable Pool<ForwardScratch> forward_scratch_;
  mutable Pool<BackwardScratch> backward_scratch_;
  Scale<V> scale_;
  int64_t tile_rows_, padded_rows_;
  T unreached_[A * W], nothing_[2 * W];
};

template <class V, class Minimum>
void run_dtw(const Dtw<typename V::T>& call, bool backward, Parallel parallel) {
  struct Context {
    DtwEngine<V, Minimum> engine;
    bool backward;
    Parallel inside;
  } context{DtwEngine<V, Minimum>(call), backward, call.by_diagonals ? parallel : nullptr};
  auto task = [](void* c, int64_t b) {
    const Context& context = *static_cast<Context*>(c);
    if (context.backward) context.engine.backward(b, context.inside);
    else context.engine.forward(b, context.inside);
  };
  if (!call.by_diagonals) return parallel(call.B, task, &context);
  for (int64_t b = 0; b < call.B; ++b) task(&context, b);
}

template <class V>
void run_dtw(const Dtw<typename V::T>& call, bool backward, Parallel parallel) {
  if (call.minimum == Minimum::soft) run_dtw<V, SoftMinimum<V>>(call, backward, parallel);
  else run_dtw<V, SmoothMinimum<V>>(call, backward, parallel);
}

}  // namespace LACRAY_ISA
}  // namespace lacray
