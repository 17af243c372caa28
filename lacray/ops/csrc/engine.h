// The CPU engine: tables cut into tiles of kTileRows x tile_columns cells, tiles into strips of V::W rows.
//
// Forward keeps the borders of the tiles and nothing else; backward recomputes each tile from them. That is 0.2 values
// per cell of saved state instead of ten, and faster than writing and reading the ten.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>

#include "soft_sw.h"
#include "strip.h"

namespace lacray {
namespace LACRAY_ISA {

template <class T>
class Buffer {  // uninitialised, aligned to a cache line
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(std::aligned_alloc(64, size_t(ceil_div(std::max<int64_t>(size, 1) * sizeof(T), 64) * 64)))) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Buffer() { std::free(data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return data_; }

 private:
  T* data_;
};

// out[t * W + l] = source[l, t - l], or `padding` outside rows x columns. W rows are read W columns at a time, each row one
// column further left than the row above, and transposed.
// kOnly: `padding` also where `only` is -inf.
template <class V, bool kOnly = false>
void skew_in(typename V::T* out, const typename V::T* source, int64_t row_stride, int rows, int columns, typename V::T padding,
             const typename V::T* only = nullptr) {
  constexpr int W = V::W;
  if constexpr (V::kTransposes) {
    const typename V::R pad = V::set1(padding);
    for (int t = 0; t < columns + W - 1; t += W) {
      typename V::R r[W];
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        if (l >= rows) {
          r[l] = pad;
          continue;
        }
        const auto real = V::lanes(l - t, columns - 1 - t + l);
        r[l] = V::load(source + l * row_stride + (t - l), real, pad);
        if constexpr (kOnly) {
          const typename V::R lowest = V::set1(std::numeric_limits<typename V::T>::lowest());
          r[l] = V::select(V::less(V::load(only + l * row_stride + (t - l), real, pad), lowest), pad, r[l]);
        }
      }
      V::transpose(r);
#pragma GCC unroll 16
      for (int k = 0; k < W; ++k) V::store(out + (t + k) * W, r[k]);
    }
    return;
  }
  for (int l = 0; l < W; ++l) {
    typename V::T* o = out + l;
    for (int t = 0; t < l; ++t) o[t * W] = padding;
    if (l < rows) {
      const typename V::T* s = source + l * row_stride;
      const typename V::T* const bound = kOnly ? only + l * row_stride : s;
      for (int c = 0; c < columns; ++c)
        o[(c + l) * W] = kOnly && bound[c] == -std::numeric_limits<typename V::T>::infinity() ? padding : s[c];
    } else {
      for (int c = 0; c < columns; ++c) o[(c + l) * W] = padding;
    }
    for (int t = columns + l; t < columns + W - 1; ++t) o[t * W] = padding;
  }
}

template <class V, bool kAdd>
void skew_out(typename V::T* target, int64_t row_stride, const typename V::T* in, int rows, int columns) {
  constexpr int W = V::W;
  if constexpr (V::kTransposes) {
    for (int t = 0; t < columns + W - 1; t += W) {
      typename V::R r[W];
#pragma GCC unroll 16
      for (int k = 0; k < W; ++k) r[k] = V::load(in + (t + k) * W);
      V::transpose(r);
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        if (l >= rows) continue;
        typename V::T* const o = target + l * row_stride + (t - l);
        const auto real = V::lanes(l - t, columns - 1 - t + l);
        V::store(o, real, kAdd ? V::add(r[l], V::load(o, real, r[l])) : r[l]);
      }
    }
    return;
  }
  for (int l = 0; l < rows; ++l) {
    const typename V::T* s = in + l * W + l;
    typename V::T* o = target + l * row_stride;
    for (int c = 0; c < columns; ++c) o[c] = kAdd ? o[c] + s[c * W] : s[c * W];
  }
}

template <class V>
struct Gaps {
  const typename V::T *open, *extend;  // skewed cells, or null
  const typename V::T* table;          // skewed gap weights (a and b as mantissa and exponent), or null
  Ext<V> a, b;                         // the same everywhere, where there is neither
  LACRAY_INLINE void operator()(int t, const Scale<V>& c, Ext<V>& at_open, Ext<V>& at_extend) const {
    if (table != nullptr) {
      const typename V::T* const p = table + int64_t(t) * 4 * V::W;
      at_open = {V::load(p), V::load(p + V::W)};
      at_extend = {V::load(p + 2 * V::W), V::load(p + 3 * V::W)};
    } else if (open != nullptr) {
      at_open = power<V>(V::load(open + t * V::W), c.down, c.down_low);
      at_extend = power<V>(V::load(extend + t * V::W), c.down, c.down_low);
    } else {
      at_open = a;
      at_extend = b;
    }
  }
};

template <class V>
struct ForwardIo {
  const typename V::T* s;
  Gaps<V> gap;
  typename V::T* out;  // D, or the weights
  LACRAY_INLINE typename V::R similarity(int t) const { return V::load(s + t * V::W); }
  LACRAY_INLINE void gaps(int t, const Scale<V>& c, Ext<V>& a, Ext<V>& b) const { gap(t, c, a, b); }
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
  R open, extend;
  LACRAY_INLINE void get_weights(int t, Weights<V>& p) const {
    R* const values = &p.pd;
    for (int q = 0; q < kNumWeights; ++q) values[q] = V::load(weights + (int64_t(t) * kNumWeights + q) * V::W);
  }
  LACRAY_INLINE R grad_match(int t) const { return grad != nullptr ? V::load(grad + t * V::W) : V::set1(0); }
  LACRAY_INLINE void put_gradients(int t, const Adjoint<V>& a) {
    V::store(grad_similarity + t * V::W, a.pd);
    const R o = V::sub(V::set1(0), V::add(a.xd, a.ys)), e = V::sub(V::set1(0), V::add(a.xx, a.yy));
    if (grad_open != nullptr) {
      V::store(grad_open + t * V::W, o);
      V::store(grad_extend + t * V::W, e);
    } else {
      open = V::add(open, o);
      extend = V::add(extend, e);
    }
  }
};

template <class V>
class Engine {
 public:
  using T = typename V::T;
  static constexpr int W = V::W;
  static_assert(kTileRows % W == 0);

  explicit Engine(const SoftSw<T>& call) : call_(call) {
    const double up = 1.4426950408889634074 / call.gamma;
    scale_.up = V::set1(T(up));
    scale_.up_low = V::set1(T(up - double(T(up))));
    scale_.down = V::set1(-T(up));
    scale_.down_low = V::set1(-T(up - double(T(up))));
    scale_.gamma = V::set1(T(call.gamma));
    tile_rows_ = ceil_div(call.N, kTileRows);
    tile_columns_ = ceil_div(call.M, call.tile_columns);
    padded_rows_ = tile_rows_ * kTileRows;
    for (int k = 0; k < 6; ++k)
      for (int l = 0; l < W; ++l) edge_[k * W + l] = k == 0 ? T(1) : k == 1 ? T(0) : k % 2 == 0 ? T(1) : T(kZero);
  }

  // Where many problems share (N, M) gaps, their weights are computed once. Up to the size of a cache.
  bool shares_gap_table() const {
    return call_.gap_kind == GapKind::shared && call_.B >= 4 && num_strips() * tile_columns_ * strip_gaps() <= (1 << 20);
  }
  int64_t num_strips() const { return ceil_div(call_.N, W); }
  int64_t gap_table_size() const { return num_strips() * tile_columns_ * strip_gaps(); }
  void use_gap_table(const T* table) { gap_table_ = table; }
  void fill_gap_table(T* table, int64_t strip) const {
    [[maybe_unused]] const typename V::Flush flush;
    const int64_t i0 = strip * W, width = std::min(call_.tile_columns, call_.M);
    const int rows = int(std::min<int64_t>(W, call_.N - i0));
    Buffer<T> go(skewed(width)), ge(skewed(width));
    for (int64_t c = 0; c < tile_columns_; ++c) {
      const int64_t j0 = c * call_.tile_columns, at = i0 * call_.M + j0;
      const int columns = int(std::min(call_.tile_columns, call_.M - j0));
      skew_in<V>(go.get(), call_.gap_open + at, call_.M, rows, columns, T(0));
      skew_in<V>(ge.get(), call_.gap_extend + at, call_.M, rows, columns, T(0));
      T* const out = table + (strip * tile_columns_ + c) * strip_gaps();
      for (int t = 0; t < columns + W - 1; ++t) {
        const Ext<V> a = power<V>(V::load(go.get() + t * W), scale_.down, scale_.down_low);
        const Ext<V> b = power<V>(V::load(ge.get() + t * W), scale_.down, scale_.down_low);
        V::store(out + t * 4 * W, a.m);
        V::store(out + (t * 4 + 1) * W, a.e);
        V::store(out + (t * 4 + 2) * W, b.m);
        V::store(out + (t * 4 + 3) * W, b.e);
      }
    }
  }

  void forward(int64_t b) const {
    [[maybe_unused]] const typename V::Flush flush;
    const auto [n, m] = size(b);
    T* const match = call_.match + b * call_.N * call_.M;
    blank(match, n, m, -std::numeric_limits<T>::infinity());
    T* const state = call_.state + b * call_.state_size;
    std::fill_n(state, call_.state_size, T(0));  // parts stay unused: they must not differ between runs
    const int64_t width = std::min(call_.tile_columns, m);
    Buffer<T> row(6 * m), s(skewed(width)), go(skewed(width)), ge(skewed(width)), d(skewed(width));
    start_row(row.get(), m);
    double total_m = 1, total_e = kZero;
    for (int64_t r = 0; r * kTileRows < n; ++r) {
      if (r > 0)
        for (int k = 0; k < 6; ++k) std::copy_n(row.get() + k * m, m, row_checkpoint(state, r) + k * call_.M);
      for (int64_t c = 0; c * call_.tile_columns < m; ++c) {
        const int64_t j0 = c * call_.tile_columns, columns = std::min(call_.tile_columns, m - j0);
        Ext<V> total = constant<V>(1, T(kZero));
        for (int64_t i0 = r * kTileRows; i0 < std::min((r + 1) * kTileRows, n); i0 += W) {
          const int rows = int(std::min<int64_t>(W, n - i0));
          ForwardIo<V> io{s.get(), load_cells(b, i0, j0, rows, int(columns), s.get(), go.get(), ge.get()), d.get()};
          ForwardStrip<T> k = strip(state, row.get() + j0, m, i0, c, int(columns));
          if (j0 + columns < m) k.right = {column_checkpoint(state, c + 1) + i0, padded_rows_};
          forward_strip<V, false>(k, scale_, constant<V>(1, 0), io, total);
          skew_out<V, false>(match + i0 * call_.M + j0, call_.M, d.get(), rows, int(columns));
        }
        alignas(64) T ms[W], es[W];
        V::store(ms, total.m);
        V::store(es, total.e);
        for (int l = 0; l < W; ++l) {
          const double e = std::max<double>(total_e, es[l]);
          total_m = total_m * std::exp2(total_e - e) + double(ms[l]) * std::exp2(es[l] - e);
          total_e = e;
        }
      }
    }
    const double shift = total_m > 0 ? std::floor(std::log2(total_m)) : 0;
    state[0] = T(total_m * std::exp2(-shift));
    state[1] = T(total_e + shift);
    call_.score[b] = total_e < kForbidden ? -std::numeric_limits<T>::infinity()
                                          : T(call_.gamma * (0.693147180559945309417 * total_e + std::log(total_m)));
  }

  // open and extend: () or (N, M) or null; (N, M) is added to for shared gaps and written for a problem's own.
  void backward(int64_t b, T* grad_open, T* grad_extend) const {
    [[maybe_unused]] const typename V::Flush flush;
    const auto [n, m] = size(b);
    const int64_t offset = b * call_.N * call_.M;
    T* const grad_similarity = call_.grad_similarity + offset;
    blank(grad_similarity, n, m, T(0));
    const bool own = call_.gap_kind == GapKind::own, per_cell = call_.gap_kind != GapKind::scalar && grad_open != nullptr;
    if (own && grad_open != nullptr) {
      blank(grad_open, n, m, T(0));
      blank(grad_extend, n, m, T(0));
    }
    const T* const state = call_.state + b * call_.state_size;
    const int64_t width = std::min(call_.tile_columns, m);
    const int64_t strips = kTileRows / W, boundary = 3 * (padded_rows_ + 1);
    const int64_t num_columns = m > 0 ? ceil_div(m, call_.tile_columns) : 0;
    Buffer<T> row(3 * m), top(6 * width), s(skewed(width)), go(skewed(width)), ge(skewed(width));
    Buffer<T> weights(strips * kNumWeights * skewed(width)), sides((num_columns + 1) * boundary);
    Buffer<T> gd(call_.grad_match != nullptr ? skewed(width) : 0), gs(skewed(width));
    Buffer<T> g_open(per_cell ? skewed(width) : 0), g_extend(per_cell ? skewed(width) : 0);
    std::fill_n(row.get(), 3 * m, T(0));
    std::fill_n(sides.get(), (num_columns + 1) * boundary, T(0));
    const T grad_score = call_.grad_score != nullptr && state[1] >= kForbidden ? call_.grad_score[b] : T(0);
    const Ext<V> inverse_z = constant<V>(T(1) / state[0], -state[1]);
    double sum_open = 0, sum_extend = 0;
    for (int64_t r = ceil_div(n, kTileRows) - 1; r >= 0; --r) {
      const int64_t first = r * kTileRows, last = std::min(first + kTileRows, n);
      for (int64_t c = num_columns - 1; c >= 0; --c) {
        const int64_t j0 = c * call_.tile_columns, columns = std::min(call_.tile_columns, m - j0);
        if (r == 0) {
          start_row(top.get(), columns);
        } else {
          for (int k = 0; k < 6; ++k)
            std::copy_n(row_checkpoint(const_cast<T*>(state), r) + k * call_.M + j0, columns, top.get() + k * columns);
        }
        for (int64_t i0 = first; i0 < last; i0 += W) {
          const int rows = int(std::min<int64_t>(W, n - i0));
          ForwardIo<V> io{s.get(), load_cells(b, i0, j0, rows, int(columns), s.get(), go.get(), ge.get()),
                          weights.get() + (i0 - first) / W * kNumWeights * skewed(width)};
          ForwardStrip<T> k = strip(const_cast<T*>(state), top.get(), columns, i0, c, int(columns));
          Ext<V> unused = constant<V>(1, 0);
          forward_strip<V, true>(k, scale_, inverse_z, io, unused);
        }
        for (int64_t i0 = first + (last - first - 1) / W * W; i0 >= first; i0 -= W) {
          const int rows = int(std::min<int64_t>(W, n - i0));
          const int64_t cell = i0 * call_.M + j0;
          // A cell that may not be matched (S = -inf) has D = -inf whatever S does: what arrives there, often NaN, is dropped.
          if (call_.grad_match != nullptr)
            skew_in<V, true>(gd.get(), call_.grad_match + offset + cell, call_.M, rows, int(columns), T(0),
                             call_.similarity + offset + cell);
          BackwardIo<V> io{weights.get() + (i0 - first) / W * kNumWeights * skewed(width),
                           call_.grad_match != nullptr ? gd.get() : nullptr,
                           gs.get(),
                           per_cell ? g_open.get() : nullptr,
                           per_cell ? g_extend.get() : nullptr,
                           V::set1(0),
                           V::set1(0)};
          BackwardStrip<T> k;
          k.columns = int(columns);
          k.row = {row.get() + j0, m};
          k.right = {sides.get() + (c + 1) * boundary + i0, padded_rows_ + 1};
          k.left = {c > 0 ? sides.get() + c * boundary + i0 : nullptr, padded_rows_ + 1};
          k.corner = k.right[0][W];
          backward_strip<V>(k, V::set1(grad_score), io);
          skew_out<V, false>(grad_similarity + cell, call_.M, gs.get(), rows, int(columns));
          if (per_cell && own) {
            skew_out<V, false>(grad_open + cell, call_.M, g_open.get(), rows, int(columns));
            skew_out<V, false>(grad_extend + cell, call_.M, g_extend.get(), rows, int(columns));
          } else if (per_cell) {
            skew_out<V, true>(grad_open + cell, call_.M, g_open.get(), rows, int(columns));
            skew_out<V, true>(grad_extend + cell, call_.M, g_extend.get(), rows, int(columns));
          } else {
            sum_open += V::sum(io.open);
            sum_extend += V::sum(io.extend);
          }
        }
      }
    }
    if (!per_cell && grad_open != nullptr) {
      *grad_open += T(sum_open);
      *grad_extend += T(sum_extend);
    }
  }

 private:
  struct Size {
    int64_t n, m;
  };

  Size size(int64_t b) const {
    if (call_.lengths == nullptr) return {call_.N, call_.M};
    const int64_t n = std::clamp<int64_t>(call_.lengths[2 * b], 0, call_.N);
    const int64_t m = std::clamp<int64_t>(call_.lengths[2 * b + 1], 0, call_.M);
    return n > 0 && m > 0 ? Size{n, m} : Size{0, 0};
  }

  // Steps of a strip, up to whole blocks of W.
  static int64_t skewed(int64_t columns) { return ceil_div(columns + W - 1, W) * W * W; }
  int64_t strip_gaps() const { return 4 * skewed(std::min(call_.tile_columns, call_.M)); }
  T* row_checkpoint(T* state, int64_t r) const { return state + 2 + (r - 1) * 6 * call_.M; }
  T* column_checkpoint(T* state, int64_t c) const {
    return state + 2 + std::max<int64_t>(tile_rows_ - 1, 0) * 6 * call_.M + (c - 1) * 6 * padded_rows_;
  }

  // Above the table: h = 1 (an alignment may start), no gap to continue.
  static void start_row(T* row, int64_t m) {
    for (int k = 0; k < 6; ++k) std::fill_n(row + k * m, m, k == 1 ? T(0) : k % 2 == 0 ? T(1) : T(kZero));
  }

  // `value` in the cells beyond n x m.
  void blank(T* table, int64_t n, int64_t m, T value) const {
    for (int64_t i = 0; i < n; ++i) std::fill(table + i * call_.M + m, table + (i + 1) * call_.M, value);
    std::fill(table + n * call_.M, table + call_.N * call_.M, value);
  }

  ForwardStrip<T> strip(T* state, T* row, int64_t row_stride, int64_t i0, int64_t c, int columns) const {
    ForwardStrip<T> k;
    k.columns = columns;
    k.row = {row, row_stride};
    k.right = {nullptr, 0};
    k.corner_m = 1;
    k.corner_e = 0;
    if (c == 0) {
      k.left = {edge_, W};
    } else {
      const T* const column = column_checkpoint(state, c);
      k.left = {column + i0, padded_rows_};
      if (i0 > 0) {
        k.corner_m = column[i0 - 1];
        k.corner_e = column[padded_rows_ + i0 - 1];
      }
    }
    return k;
  }

  Gaps<V> load_cells(int64_t b, int64_t i0, int64_t j0, int rows, int columns, T* s, T* go, T* ge) const {
    const int64_t cell = i0 * call_.M + j0, problem = b * call_.N * call_.M;
    skew_in<V>(s, call_.similarity + problem + cell, call_.M, rows, columns, -std::numeric_limits<T>::infinity());
    if (gap_table_ != nullptr && rows == std::min<int64_t>(W, call_.N - i0))
      return {nullptr, nullptr, gap_table_ + (i0 / W * tile_columns_ + j0 / call_.tile_columns) * strip_gaps(), constant<V>(1, 0), constant<V>(1, 0)};
    if (call_.gap_kind == GapKind::scalar)
      return {nullptr, nullptr, nullptr, power<V>(V::set1(*call_.gap_open), scale_.down, scale_.down_low),
              power<V>(V::set1(*call_.gap_extend), scale_.down, scale_.down_low)};
    const int64_t at = cell + (call_.gap_kind == GapKind::own ? problem : 0);
    skew_in<V>(go, call_.gap_open + at, call_.M, rows, columns, T(0));
    skew_in<V>(ge, call_.gap_extend + at, call_.M, rows, columns, T(0));
    return {go, ge, nullptr, constant<V>(1, 0), constant<V>(1, 0)};
  }

  const SoftSw<T>& call_;
  const T* gap_table_ = nullptr;
  Scale<V> scale_;
  int64_t tile_rows_, tile_columns_, padded_rows_;
  alignas(64) T edge_[6 * W];
};

// The gap table of an engine, if it shares one.
template <class V>
class GapTable {
 public:
  GapTable(Engine<V>& engine, Parallel parallel)
      : engine_(engine), table_(engine.shares_gap_table() ? engine.gap_table_size() : 0) {
    if (!engine.shares_gap_table()) return;
    parallel(
        engine.num_strips(),
        [](void* self, int64_t strip) {
          static_cast<GapTable*>(self)->engine_.fill_gap_table(static_cast<GapTable*>(self)->table_.get(), strip);
        },
        this);
    engine.use_gap_table(table_.get());
  }

 private:
  Engine<V>& engine_;
  Buffer<typename V::T> table_;
};

template <class V>
void run_forward(const SoftSw<typename V::T>& call, Parallel parallel) {
  Engine<V> engine(call);
  const GapTable<V> gaps(engine, parallel);
  parallel(call.B, [](void* e, int64_t b) { static_cast<const Engine<V>*>(e)->forward(b); }, &engine);
}

template <class V>
struct BackwardTask {
  const Engine<V>& engine;
  const SoftSw<typename V::T>& call;
};

template <class V>
void run_backward(const SoftSw<typename V::T>& call, Parallel parallel) {
  using T = typename V::T;
  Engine<V> engine(call);
  const GapTable<V> table(engine, parallel);
  BackwardTask<V> task{engine, call};
  const bool own = call.gap_kind == GapKind::own;
  parallel(
      own ? call.B : call.num_groups,
      [](void* context, int64_t index) {
        const BackwardTask<V>& task = *static_cast<BackwardTask<V>*>(context);
        const SoftSw<T>& call = task.call;
        const int64_t cells = call.gap_kind == GapKind::scalar ? 1 : call.N * call.M;
        T* const open = call.grad_gap_open != nullptr ? call.grad_gap_open + index * cells : nullptr;
        T* const extend = call.grad_gap_extend != nullptr ? call.grad_gap_extend + index * cells : nullptr;
        if (call.gap_kind == GapKind::own) {
          task.engine.backward(index, open, extend);
          return;
        }
        if (open != nullptr) {
          std::fill_n(open, cells, T(0));
          std::fill_n(extend, cells, T(0));
        }
        const int64_t first = call.B * index / call.num_groups, last = call.B * (index + 1) / call.num_groups;
        for (int64_t b = first; b < last; ++b) task.engine.backward(b, open, extend);
      },
      &task);
}

}  // namespace LACRAY_ISA
}  // namespace lacray
