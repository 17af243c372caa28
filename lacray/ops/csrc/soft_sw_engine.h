// The CPU engine of soft Smith-Waterman: tables cut into tiles, tiles into chains of strips of V::W rows.
//
// Forward keeps the borders of the tiles and nothing else; backward recomputes each tile from them. That is 0.2 values
// per cell of saved state instead of ten, and faster than writing and reading the ten.
#pragma once

#include "strip.h"
#include "tiles.h"

namespace lacray {
namespace LACRAY_ISA {

// Gap weights of a strip's steps: from the penalties there; from a table of weights; the same everywhere.
template <class V>
struct CellGaps {
  const typename V::T *open, *extend;
  LACRAY_INLINE GapWeights<Ext<V>> operator()(int t, const Scale<V>& c) const {
    return {power<V>(V::load(open + t * V::W), c.down), power<V>(V::load(extend + t * V::W), c.down)};
  }
};
template <class V>
struct TableGaps {
  const typename V::T* weights;
  LACRAY_INLINE GapWeights<typename V::R> operator()(int t, const Scale<V>&) const {
    const typename V::T* const p = weights + int64_t(t) * 2 * V::W;
    return {V::load(p), V::load(p + V::W)};
  }
};
template <class V>
struct SameGaps {
  GapWeights<typename V::R> weights;
  LACRAY_INLINE GapWeights<typename V::R> operator()(int, const Scale<V>&) const { return weights; }
};

template <class V>
LACRAY_INLINE typename V::R plain_power(typename V::R value, const Scale<V>& c) {
  const Ext<V> p = power<V>(value, c.down);
  return V::scale(p.m, p.e);
}

template <class V, class Gaps>
struct ForwardIo {
  const typename V::T* s;
  Gaps gap;
  typename V::T* out;  // D, or the weights
  LACRAY_INLINE typename V::R similarity(int t) const { return V::load(s + t * V::W); }
  LACRAY_INLINE auto gaps(int t, const Scale<V>& c) const { return gap(t, c); }
  LACRAY_INLINE void put_match(int t, typename V::R d) { V::store(out + t * V::W, d); }
  LACRAY_INLINE void put_weights(int t, const Weights<V>& p) {
    const typename V::R* const values = &p.pd;
    for (int q = 0; q < kNumWeights; ++q) V::store(out + (int64_t(t) * kNumWeights + q) * V::W, values[q]);
  }
};

template <class V>
struct BackwardIo {
  using R = typename V::R;
  const typename V::T *weights, *grad;
  typename V::T *grad_similarity, *grad_open, *grad_extend;  // skewed; the last two null: summed below
  bool add;                                                  // to grad_open and grad_extend
  R open, extend;
  LACRAY_INLINE void get_weights(int t, Weights<V>& p) const {
    R* const values = &p.pd;
    for (int q = 0; q < kNumWeights; ++q) values[q] = V::load(weights + (int64_t(t) * kNumWeights + q) * V::W);
  }
  LACRAY_INLINE R grad_match(int t) const { return grad != nullptr ? V::load(grad + t * V::W) : V::set1(0); }
  LACRAY_INLINE void put_gradients(int t, const Adjoint<V>& a, int first, int last) {
    V::store(grad_similarity + t * V::W, a.pd);
    const R none = V::set1(0);
    R o = V::add(a.xd, a.ys), e = V::add(a.xx, a.yy);  // a penalty's gradient is minus these
    if (grad_open != nullptr && !add) {
      V::store(grad_open + t * V::W, V::sub(none, o));
      V::store(grad_extend + t * V::W, V::sub(none, e));
      return;
    }
    if (!all_real<V>(first, last)) {
      const auto real = V::rows(first, last);
      o = V::select(real, o, none);
      e = V::select(real, e, none);
    }
    if (add) {
      V::store(grad_open + t * V::W, V::sub(V::load(grad_open + t * V::W), o));
      V::store(grad_extend + t * V::W, V::sub(V::load(grad_extend + t * V::W), e));
    } else {
      open = V::sub(open, o);
      extend = V::sub(extend, e);
    }
  }
};

template <class V>
class Engine {
 public:
  using T = typename V::T;
  static constexpr int W = V::W;

  explicit Engine(const SoftSw<T>& call) : call_(call), scale_(scale_of<V>(call.gamma)), start_(call.end_to_end ? T(kZero) : T(0)) {
    tile_rows_ = ceil_div(call.N, call_.tile_rows);
    tile_columns_ = ceil_div(call.M, call.tile_columns);
    padded_rows_ = tile_rows_ * call_.tile_rows;
    shared_ = shares_gap_table(call);
    plain_scalars_ = call.gap_kind == GapKind::scalar && !V::kHard;
    for (int64_t b = 0; plain_scalars_ && b < (call.gap_step != 0 ? call.B : 1); ++b)
      plain_scalars_ = is_plain(call.gap_open[b]) && is_plain(call.gap_extend[b]);
    for (int k = 0; k < 6; ++k)
      for (int l = 0; l < W; ++l) edge_[k * W + l] = k == 1 ? start_ : k % 2 == 0 ? T(1) : T(kZero);
  }

  const SoftSw<T>& call() const { return call_; }
  int64_t num_tile_rows() const { return tile_rows_; }
  // Where problems share a table of gaps, their weights are computed once, if they need no exponents.
  bool wants_gap_table() const { return shared_ && !V::kHard; }
  int64_t gap_table_size() const { return tile_rows_ * tile_columns_ * 2 * tile_size(); }
  void use_gap_table(const T* table) { gap_table_ = table; }
  // Row r of tiles; false where a weight needs an exponent, of the cells that any problem has.
  bool fill_gap_table(T* table, int64_t r) const {
    [[maybe_unused]] const typename V::Flush flush;
    const int64_t first = r * call_.tile_rows;
    const int rows = table_rows(r);
    for (int64_t i = first; i < first + rows; ++i) {
      int64_t columns = call_.lengths == nullptr ? call_.M : 0, beyond = 0;
      for (int64_t b = 0; b < call_.B && call_.lengths != nullptr; ++b) {
        const auto [n, m] = size_of(call_, b);
        if (i < n) columns = std::max(columns, m);
      }
      const T *const open = call_.gap_open + i * call_.M, *const extend = call_.gap_extend + i * call_.M;
      for (int64_t j = 0; j < columns; ++j) beyond += !is_plain(open[j]) | !is_plain(extend[j]);
      if (beyond > 0) return false;
    }
    Buffer<T> go(tile_size()), ge(tile_size());
    for (int64_t c = 0; c < tile_columns_; ++c) {
      const int64_t at = first * call_.M + c * call_.tile_columns;
      const int columns = table_columns(c);
      chain_in<V>(go.get(), call_.gap_open + at, call_.M, rows, columns, T(0));
      chain_in<V>(ge.get(), call_.gap_extend + at, call_.M, rows, columns, T(0));
      T* const out = table + (r * tile_columns_ + c) * 2 * tile_size();
      const int64_t steps = (strip_start<V>((rows - 1) / W, columns) + skewed<V>(columns)) / W;
      for (int64_t t = 0; t < steps; ++t) {
        V::store(out + t * 2 * W, plain_power<V>(V::load(go.get() + t * W), scale_));
        V::store(out + (t * 2 + 1) * W, plain_power<V>(V::load(ge.get() + t * W), scale_));
      }
    }
    return true;
  }

  int64_t sums_size() const { return tile_rows_ * tile_columns_ * 2 * tile_size(); }
  // The gap gradients of row r of tiles: the sum over the groups, in their order.
  void write_sums(T* sums, int64_t groups, int64_t r) const {
    [[maybe_unused]] const typename V::Flush flush;
    for (int64_t c = 0; c < tile_columns_; ++c) {
      T* const open = tile_sums(sums, r, c);
      for (int64_t k = 0; k < 2 * tile_size(); k += W) {
        typename V::R sum = V::load(open + k);
        for (int64_t g = 1; g < groups; ++g) sum = V::add(sum, V::load(open + g * sums_size() + k));
        V::store(open + k, sum);
      }
      const int64_t at = r * call_.tile_rows * call_.M + c * call_.tile_columns;
      chain_out<V>(call_.grad_gap_open + at, call_.M, open, table_rows(r), table_columns(c));
      chain_out<V>(call_.grad_gap_extend + at, call_.M, open + tile_size(), table_rows(r), table_columns(c));
    }
  }

  // With `parallel` the tiles of a diagonal run at the same time, which is for few long problems. The order of every sum is
  // the same without.
  void forward(int64_t b, Parallel parallel) const {
    const auto [n, m] = size_of(call_, b);
    blank(call_.match + b * call_.N * call_.M, call_.N, call_.M, n, m, -std::numeric_limits<T>::infinity());
    T* const state = call_.state + b * call_.state_size;
    std::fill_n(state, call_.state_size, T(0));  // parts stay unused: they must not differ between runs
    const int64_t rows = ceil_div(n, call_.tile_rows), columns = ceil_div(m, call_.tile_columns);
    Buffer<T> row(6 * m);
    start_row(row.get(), m);
    Buffer<double> parts(2 * rows * columns);  // Z of each tile
    sweep(parallel, rows, columns, false, [&](int64_t r, int64_t c) {
      double* const part = parts.get() + 2 * (r * columns + c);
      forward_scratch_.with(*this, [&](const ForwardScratch& scratch) { forward_tile(b, n, m, r, c, row.get(), scratch, part); });
    });
    double total_m = 1, total_e = kZero;
    for (int64_t k = 0; k < rows * columns; ++k) add_part(total_m, total_e, parts.get()[2 * k], parts.get()[2 * k + 1]);
    // The exponent that a NaN comes with says nothing: it is neither zero nor forbidden, and its gradient is NaN.
    if (std::isnan(total_m)) {
      state[0] = call_.score[b] = T(total_m);
      state[1] = T(0);
      return;
    }
    const double shift = std::floor(std::log2(total_m));
    state[0] = T(total_m * std::exp2(-shift));
    state[1] = T(total_e + shift);
    if (total_e < kForbidden) {
      call_.score[b] = -std::numeric_limits<T>::infinity();
    } else {
      call_.score[b] = V::kHard ? T(total_e) : T(call_.gamma * (0.693147180559945309417 * total_e + std::log(total_m)));
    }
  }

  // Gradients of gaps: added to (), or written to (N, M). Or, where `sums` is not null, added or written to these in the order of
  // the sweep.
  void backward(int64_t b, T* grad_open, T* grad_extend, T* sums, bool add, Parallel parallel) const {
    const auto [n, m] = size_of(call_, b);
    const int64_t offset = b * call_.N * call_.M;
    blank(call_.grad_similarity + offset, call_.N, call_.M, n, m, T(0));
    if (call_.gap_kind != GapKind::scalar && grad_open != nullptr) {
      blank(grad_open, call_.N, call_.M, n, m, T(0));
      blank(grad_extend, call_.N, call_.M, n, m, T(0));
    }
    const int64_t rows = ceil_div(n, call_.tile_rows), columns = ceil_div(m, call_.tile_columns), boundary = 3 * (padded_rows_ + 1);
    Buffer<T> row(3 * m), sides((columns + 1) * boundary);
    std::fill_n(row.get(), 3 * m, T(0));
    std::fill_n(sides.get(), (columns + 1) * boundary, T(0));
    Buffer<double> parts(2 * rows * columns);  // of the scalar gaps' gradients
    const BackwardTable table{b, n, m, row.get(), sides.get(), boundary, grad_open, grad_extend, sums, add};
    // From end to end, Z is h of the last cell; else its gradient arrives at every cell that an alignment may end with.
    if (call_.end_to_end && n > 0) sides.get()[columns * boundary + n] = grad_score(b);
    sweep(parallel, rows, columns, true, [&](int64_t r, int64_t c) {
      double* const part = parts.get() + 2 * (r * columns + c);
      backward_scratch_.with(*this, [&](const BackwardScratch& scratch) { backward_tile(table, r, c, scratch, part); });
    });
    if (call_.gap_kind == GapKind::scalar && grad_open != nullptr) {
      double open = 0, extend = 0;
      for (int64_t k = 0; k < rows * columns; ++k) {
        open += parts.get()[2 * k];
        extend += parts.get()[2 * k + 1];
      }
      *grad_open += T(open);
      *grad_extend += T(extend);
    }
  }

  struct TileScratch {
    int64_t strip_size;
    Buffer<T> s, go, ge, top, weights;
    explicit TileScratch(const Engine& engine)
        : strip_size(engine.strip_size()),
          s(engine.tile_size()),
          go(engine.tile_size()),
          ge(engine.tile_size()),
          top(6 * engine.strip_size() / W),
          weights(kNumWeights * engine.tile_size()) {}
    T* chain_weights(int64_t strip) const { return weights.get() + strip * kNumWeights * strip_size; }
  };

  // The transition probabilities of a tile, from its borders.
  void recompute_tile(int64_t b, int64_t n, int64_t m, int64_t r, int64_t c, const TileScratch& scratch) const {
    T* const state = call_.state + b * call_.state_size;
    // From end to end no cell has a share in Z but the last, whose gradient comes from beyond the table.
    const Ext<V> inverse_z = call_.end_to_end || V::kHard ? constant<V>(1, T(kZero)) : constant<V>(T(1) / state[0], -state[1]);
    const Tile at = tile(n, m, r, c);
    T* const top = scratch.top.get();
    start_row(top, at.columns);
    if (r > 0)
      for (int k = 0; k < 6; ++k) std::copy_n(row_checkpoint(state, r) + k * call_.M + at.j0, at.columns, top + k * at.columns);
    for (int64_t i0 = at.i0; i0 < at.i1; i0 += at.step) {
      const int rows = int(std::min(at.step, at.i1 - i0));
      load_similarity(b, i0, at, rows, scratch.s.get());
      with_gaps(b, i0, at, rows, scratch.go.get(), scratch.ge.get(), [&](const auto& gaps) {
        ForwardIo<V, std::decay_t<decltype(gaps)>> io{scratch.s.get(), gaps, scratch.chain_weights((i0 - at.i0) / W)};
        Ext<V> unused = constant<V>(1, 0);
        forward_chain<V, true>(chain(state, top, at.columns, i0, rows, at), scale_, inverse_z, io, unused);
      });
    }
  }

  // The transition probabilities of a cell of a recomputed tile, V::W apart, in the order of Weights.
  const T* cell_weights(int64_t n, int64_t m, int64_t i, int64_t j, const TileScratch& scratch) const {
    const Tile at = tile(n, m, i / call_.tile_rows, j / call_.tile_columns);
    const int64_t row = (i - at.i0) % at.step, t = row / W * at.columns + j - at.j0 + row % W;
    return scratch.chain_weights((i - at.i0 - row) / W) + t * kNumWeights * W + V::lane(int(row % W));
  }

 private:
  struct ForwardScratch {
    Buffer<T> s, go, ge, d, last;
    explicit ForwardScratch(const Engine& engine)
        : s(engine.tile_size()),
          go(engine.tile_size()),
          ge(engine.tile_size()),
          d(engine.tile_size()),
          last(6 * engine.call_.tile_rows) {}
  };

  struct BackwardScratch {
    TileScratch tile;
    Buffer<T> grad_match, grad_similarity, grad_open, grad_extend;
    explicit BackwardScratch(const Engine& engine)
        : tile(engine),
          grad_match(engine.tile_size()),
          grad_similarity(engine.tile_size()),
          grad_open(engine.tile_size()),
          grad_extend(engine.tile_size()) {}
  };

  // A tile of a problem: its cells, and how many of its rows are swept as a chain.
  struct Tile {
    int64_t r, c, i0, i1, j0, step;
    int columns;
  };

  Tile tile(int64_t n, int64_t m, int64_t r, int64_t c) const {
    Tile at{r, c, r * call_.tile_rows, 0, c * call_.tile_columns, W, 0};
    at.i1 = std::min(at.i0 + call_.tile_rows, n);
    at.columns = int(std::min(call_.tile_columns, m - at.j0));
    // What shared gaps have lies in the order of the whole table's chains: of a shorter problem, each strip is a chain.
    const bool whole = at.columns == table_columns(c) && at.i1 - at.i0 == table_rows(r);
    if (chains<V>(at.columns) && (!shared_ || whole)) at.step = call_.tile_rows;
    return at;
  }

  struct BackwardTable {
    int64_t b, n, m;
    T *row, *sides;  // the adjoint's borders: the row below, and the column after each column of tiles
    int64_t boundary;
    T *grad_open, *grad_extend;
    T* sums;
    bool add;
  };

  static void add_part(double& total_m, double& total_e, double m, double e) {
    const double top = std::max(total_e, e);
    total_m = total_m * std::exp2(total_e - top) + m * std::exp2(e - top);
    total_e = top;
  }

  void forward_tile(int64_t b, int64_t n, int64_t m, int64_t r, int64_t c, T* row, const ForwardScratch& scratch,
                    double* part) const {
    [[maybe_unused]] const typename V::Flush flush;
    T* const match = call_.match + b * call_.N * call_.M;
    T* const state = call_.state + b * call_.state_size;
    const Tile at = tile(n, m, r, c);
    if (r > 0)
      for (int k = 0; k < 6; ++k) std::copy_n(row + k * m + at.j0, at.columns, row_checkpoint(state, r) + k * call_.M + at.j0);
    Ext<V> total = constant<V>(1, T(kZero));
    const bool at_right = at.j0 + at.columns == m;
    for (int64_t i0 = at.i0; i0 < at.i1; i0 += at.step) {
      const int rows = int(std::min(at.step, at.i1 - i0));
      load_similarity(b, i0, at, rows, scratch.s.get());
      ForwardChain<T> k = chain(state, row + at.j0, m, i0, rows, at);
      if (!at_right) {
        k.right = {column_checkpoint(state, c + 1) + i0, padded_rows_};
      } else if (call_.end_to_end) {
        k.right = {scratch.last.get() + (i0 - at.i0), call_.tile_rows};
      }
      with_gaps(b, i0, at, rows, scratch.go.get(), scratch.ge.get(), [&](const auto& gaps) {
        ForwardIo<V, std::decay_t<decltype(gaps)>> io{scratch.s.get(), gaps, scratch.d.get()};
        forward_chain<V, false>(k, scale_, constant<V>(1, 0), io, total);
      });
      chain_out<V>(match + i0 * call_.M + at.j0, call_.M, scratch.d.get(), rows, at.columns);
    }
    alignas(64) T ms[W], es[W];
    V::store(ms, total.m);
    V::store(es, total.e);
    part[0] = 1;
    part[1] = kZero;
    if (!call_.end_to_end) {
      for (int l = 0; l < W; ++l) add_part(part[0], part[1], ms[l], es[l]);
    } else if (at.i1 == n && at_right) {
      part[0] = scratch.last.get()[n - 1 - at.i0];
      part[1] = scratch.last.get()[call_.tile_rows + n - 1 - at.i0];
    }
  }

  T grad_score(int64_t b) const {
    return call_.grad_score != nullptr && call_.state[b * call_.state_size + 1] >= kForbidden ? call_.grad_score[b] : T(0);
  }

  void backward_tile(const BackwardTable& table, int64_t r, int64_t c, const BackwardScratch& scratch, double* part) const {
    [[maybe_unused]] const typename V::Flush flush;
    recompute_tile(table.b, table.n, table.m, r, c, scratch.tile);
    const int64_t offset = table.b * call_.N * call_.M;
    const Tile at = tile(table.n, table.m, r, c);
    const T grad_z = call_.end_to_end ? T(0) : grad_score(table.b);
    const bool scalar = call_.gap_kind == GapKind::scalar, wanted = table.grad_open != nullptr;
    const bool sums = table.sums != nullptr, local = wanted && !scalar && !sums;
    part[0] = part[1] = 0;
    for (int64_t i0 = at.i0 + (at.i1 - at.i0 - 1) / at.step * at.step; i0 >= at.i0; i0 -= at.step) {
      const int rows = int(std::min(at.step, at.i1 - i0));
      const int64_t cell = offset + i0 * call_.M + at.j0, gap_cell = i0 * call_.M + at.j0, strip = (i0 - at.i0) / W;
      const T* grad = nullptr;
      if (call_.grad_match != nullptr) {
        // A cell that may not be matched (S = -inf) has D = -inf whatever S does: what arrives there, often NaN, is dropped.
        chain_in<V, true>(scratch.grad_match.get(), call_.grad_match + cell, call_.M, rows, at.columns, T(0),
                          call_.similarity + cell);
        grad = scratch.grad_match.get();
      }
      T* open = nullptr;
      T* extend = nullptr;
      if (sums) {
        open = tile_sums(table.sums, r, c) + strip_start<V>(strip, table_columns(c));
        extend = open + tile_size();
      } else if (local) {
        open = scratch.grad_open.get();
        extend = scratch.grad_extend.get();
      }
      BackwardIo<V> io{scratch.tile.chain_weights(strip),
                       grad,
                       scratch.grad_similarity.get(),
                       open,
                       extend,
                       sums && table.add,
                       V::set1(0),
                       V::set1(0)};
      BackwardChain<T> k;
      k.columns = at.columns;
      k.strips = int(ceil_div(rows, W));
      k.row = {table.row + at.j0, table.m};
      k.right = {table.sides + (c + 1) * table.boundary + i0, padded_rows_ + 1};
      k.left = {c > 0 ? table.sides + c * table.boundary + i0 : nullptr, padded_rows_ + 1};
      k.corner = k.right[0][k.strips * W];
      backward_chain<V>(k, V::set1(grad_z), io);
      chain_out<V>(call_.grad_similarity + cell, call_.M, scratch.grad_similarity.get(), rows, at.columns);
      if (local) {
        chain_out<V>(table.grad_open + gap_cell, call_.M, open, rows, at.columns);
        chain_out<V>(table.grad_extend + gap_cell, call_.M, extend, rows, at.columns);
      } else if (!sums) {
        part[0] += V::sum(io.open);
        part[1] += V::sum(io.extend);
      }
    }
  }

  int table_rows(int64_t r) const { return int(std::min(call_.tile_rows, call_.N - r * call_.tile_rows)); }
  int table_columns(int64_t c) const { return int(std::min(call_.tile_columns, call_.M - c * call_.tile_columns)); }
  // Numbers of a strip and of a tile in the order of a sweep.
  int64_t strip_size() const { return skewed<V>(std::min(call_.tile_columns, call_.M)); }
  int64_t tile_size() const { return call_.tile_rows / W * strip_size(); }
  T* tile_sums(T* sums, int64_t r, int64_t c) const { return sums + (r * tile_columns_ + c) * 2 * tile_size(); }
  T* row_checkpoint(T* state, int64_t r) const { return state + 2 + (r - 1) * 6 * call_.M; }
  T* column_checkpoint(T* state, int64_t c) const {
    return state + 2 + std::max<int64_t>(tile_rows_ - 1, 0) * 6 * call_.M + (c - 1) * 6 * padded_rows_;
  }

  // Above the table: h = 1 where an alignment may start, no gap to continue.
  void start_row(T* row, int64_t m) const {
    for (int k = 0; k < 6; ++k) std::fill_n(row + k * m, m, k == 1 ? start_ : k % 2 == 0 ? T(1) : T(kZero));
  }

  ForwardChain<T> chain(T* state, T* row, int64_t row_stride, int64_t i0, int rows, const Tile& at) const {
    const int64_t c = at.c;
    ForwardChain<T> k;
    k.columns = at.columns;
    k.strips = int(ceil_div(rows, W));
    k.row = {row, row_stride};
    k.right = {nullptr, 0};
    k.start = start_;
    k.corner_m = 1;
    k.corner_e = i0 == 0 && c == 0 ? T(0) : start_;
    if (c == 0) {
      k.left = {edge_, W};
      k.left_step = 0;
    } else {
      const T* const column = column_checkpoint(state, c);
      k.left = {column + i0, padded_rows_};
      k.left_step = W;
      if (i0 > 0) {
        k.corner_m = column[i0 - 1];
        k.corner_e = column[padded_rows_ + i0 - 1];
      }
    }
    return k;
  }

  void load_similarity(int64_t b, int64_t i0, const Tile& at, int rows, T* s) const {
    chain_in<V>(s, call_.similarity + (b * call_.N + i0) * call_.M + at.j0, call_.M, rows, at.columns,
                -std::numeric_limits<T>::infinity());
  }

  // Whether a gap weight lies within 2^-20 and 2^20: it needs no exponent of its own, and the results are the same.
  bool is_plain(T gap) const { return std::abs(gap) <= T(20 * 0.693147180559945309417 * call_.gamma); }

  // f(the gap weights of a chain); open and extend are memory for its penalties.
  template <class F>
  LACRAY_INLINE void with_gaps(int64_t b, int64_t i0, const Tile& at, int rows, T* open, T* extend, F&& f) const {
    const bool scalar = call_.gap_kind == GapKind::scalar;
    const T *const gap_open = call_.gap_open + b * call_.gap_step, *const gap_extend = call_.gap_extend + b * call_.gap_step;
    if (plain_scalars_)
      return f(SameGaps<V>{{plain_power<V>(V::set1(*gap_open), scale_), plain_power<V>(V::set1(*gap_extend), scale_)}});
    if (gap_table_ != nullptr && rows == std::min<int64_t>(at.step, call_.N - i0)) {
      const T* const tile_gaps = gap_table_ + (at.r * tile_columns_ + at.c) * 2 * tile_size();
      return f(TableGaps<V>{tile_gaps + 2 * strip_start<V>((i0 - at.i0) / W, table_columns(at.c))});
    }
    if (scalar) {
      std::fill_n(open, tile_size(), *gap_open);
      std::fill_n(extend, tile_size(), *gap_extend);
    } else {
      const int64_t cell = ((call_.gap_kind == GapKind::own ? b * call_.N : 0) + i0) * call_.M + at.j0;
      chain_in<V>(open, call_.gap_open + cell, call_.M, rows, at.columns, T(0));
      chain_in<V>(extend, call_.gap_extend + cell, call_.M, rows, at.columns, T(0));
    }
    f(CellGaps<V>{open, extend});
  }

  const SoftSw<T>& call_;
  mutable Pool<ForwardScratch> forward_scratch_;
  mutable Pool<BackwardScratch> backward_scratch_;
  bool shared_, plain_scalars_;
  const T* gap_table_ = nullptr;
  Scale<V> scale_;
  T start_;
  int64_t tile_rows_, tile_columns_, padded_rows_;
  alignas(64) T edge_[6 * W];
};

// The gap table of an engine, if it shares one.
template <class V>
class GapTable {
 public:
  GapTable(Engine<V>& engine, Parallel parallel) : engine_(engine), table_(engine.wants_gap_table() ? engine.gap_table_size() : 0) {
    if (!engine.wants_gap_table()) return;
    auto fill = [](void* self, int64_t r) { static_cast<GapTable*>(self)->fill(r); };
    parallel(engine.num_tile_rows(), fill, this);
    if (plain_) engine.use_gap_table(table_.get());
  }

 private:
  void fill(int64_t r) {
    if (!engine_.fill_gap_table(table_.get(), r)) plain_ = false;
  }

  Engine<V>& engine_;
  Buffer<typename V::T> table_;
  std::atomic<bool> plain_{true};
};

template <class V>
void run_forward(const SoftSw<typename V::T>& call, Parallel parallel) {
  Engine<V> engine(call);
  const GapTable<V> gaps(engine, parallel);
  if (call.by_diagonals) {
    for (int64_t b = 0; b < call.B; ++b) engine.forward(b, parallel);
  } else {
    parallel(call.B, [](void* e, int64_t b) { static_cast<const Engine<V>*>(e)->forward(b, nullptr); }, &engine);
  }
}

// The gradients of one group of problems; those of gaps that they share into the group's `sums`, if these are not null.
template <class V>
void backward_group(const Engine<V>& engine, int64_t group, typename V::T* sums, Parallel parallel) {
  using T = typename V::T;
  const SoftSw<T>& call = engine.call();
  const int64_t cells = call.gap_kind == GapKind::scalar ? 1 : call.N * call.M;
  T* const open = call.grad_gap_open != nullptr && sums == nullptr ? call.grad_gap_open + group * cells : nullptr;
  T* const extend = call.grad_gap_extend != nullptr && sums == nullptr ? call.grad_gap_extend + group * cells : nullptr;
  const int64_t groups = call.gap_kind == GapKind::own ? call.B : call.num_groups;
  const int64_t first = call.B * group / groups, last = call.B * (group + 1) / groups;
  if (call.gap_kind == GapKind::scalar && open != nullptr) *open = *extend = T(0);
  // The first problem writes the sums, unless it may be without some of their cells.
  if (sums != nullptr && call.lengths != nullptr) std::fill_n(sums, engine.sums_size(), T(0));
  for (int64_t b = first; b < last; ++b) engine.backward(b, open, extend, sums, b > first || call.lengths != nullptr, parallel);
}

template <class V>
void run_backward(const SoftSw<typename V::T>& call, Parallel parallel) {
  using T = typename V::T;
  Engine<V> engine(call);
  const GapTable<V> table(engine, parallel);
  const int64_t groups = call.gap_kind == GapKind::own ? call.B : call.num_groups;
  const bool sum = call.grad_gap_open != nullptr && shares_gap_table(call);
  Buffer<T> sums(sum ? groups * engine.sums_size() : 0);
  struct Context {
    const Engine<V>& engine;
    T* sums;
    int64_t groups;
    Parallel inside;
  } context{engine, sum ? sums.get() : nullptr, groups, call.by_diagonals ? parallel : nullptr};
  auto task = [](void* c, int64_t group) {
    const Context& context = *static_cast<Context*>(c);
    T* const sums = context.sums != nullptr ? context.sums + group * context.engine.sums_size() : nullptr;
    backward_group(context.engine, group, sums, context.inside);
  };
  if (call.by_diagonals)
    for (int64_t group = 0; group < groups; ++group) task(&context, group);
  else parallel(groups, task, &context);
  if (!sum) return;
  auto write = [](void* c, int64_t r) {
    const Context& context = *static_cast<Context*>(c);
    context.engine.write_sums(context.sums, context.groups, r);
  };
  parallel(engine.num_tile_rows(), write, &context);
}

}  // namespace LACRAY_ISA
}  // namespace lacray
