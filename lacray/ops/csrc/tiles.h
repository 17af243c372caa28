// What the CPU engines share: memory, tables to and from the skewed order of a strip, the order of tiles.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#include "calls.h"
#include "cell.h"

namespace lacray {
namespace LACRAY_ISA {

// Memory that calls hand on to each other: the system takes as long to give it as a small problem takes to align.
class Blocks {
 public:
  struct Block {
    void* data = nullptr;
    size_t size = 0;
  };
  // At least `size` bytes, aligned to a cache line, uninitialised.
  static Block take(size_t size) {
    size = (size + 63) / 64 * 64;
    {
      Blocks& all = instance();
      const std::lock_guard<std::mutex> lock(all.mutex_);
      for (size_t k = all.free_.size(); k-- > 0;) {
        const Block block = all.free_[k];
        if (block.size < size || block.size > 2 * size) continue;
        all.free_.erase(all.free_.begin() + int64_t(k));
        all.held_ -= block.size;
        return block;
      }
    }
    void* const data = std::aligned_alloc(64, size);
    if (data == nullptr) throw std::bad_alloc();
    return {data, size};
  }
  static void give(Block block) {
    Blocks& all = instance();
    const std::lock_guard<std::mutex> lock(all.mutex_);
    all.free_.push_back(block);
    all.held_ += block.size;
    while (all.held_ > all.most_) {
      all.held_ -= all.free_.front().size;
      std::free(all.free_.front().data);
      all.free_.erase(all.free_.begin());
    }
  }

 private:
  static Blocks& instance() {
    static Blocks* const blocks = new Blocks;  // never destroyed: threads may outlive static objects
    return *blocks;
  }
  std::mutex mutex_;
  std::vector<Block> free_;
  size_t held_ = 0;
  const size_t most_ = (size_t(4) << 20) * std::max(2u, std::thread::hardware_concurrency());
};

template <class T>
class Buffer {  // uninitialised, aligned to a cache line
 public:
  explicit Buffer(int64_t size) : block_(Blocks::take(size_t(std::max<int64_t>(size, 1)) * sizeof(T))) {}
  ~Buffer() { Blocks::give(block_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() const { return static_cast<T*>(block_.data); }

 private:
  Blocks::Block block_;
};

// Step t of a strip: its row l at column t - l of the table, or `padding` outside rows x columns. W rows are read W columns at
// a time, each row one column further left than the row above, and transposed.
// kUnless: `padding` also where `unless` is -inf. `joins`: what the strip before left in the rows that are not in
// this one yet stays.
template <class V, bool kUnless = false>
void skew_in(typename V::T* out, const typename V::T* source, int64_t row_stride, int rows, int columns, typename V::T padding,
             bool joins, const typename V::T* unless) {
  constexpr int W = V::W;
  using Limits = std::numeric_limits<typename V::T>;
  if constexpr (V::kTransposes) {
    const typename V::R pad = V::set1(padding);
    [[maybe_unused]] auto forbidden = [](typename V::R u) { return V::less(u, V::set1(Limits::lowest())); };
    for (int t = 0; t < columns + W - 1; t += W) {
      typename V::R r[W];
      if (rows == W && t >= W - 1 && t + W <= columns) {  // all within
#pragma GCC unroll 16
        for (int l = 0; l < W; ++l) {
          r[V::lane(l)] = V::load(source + l * row_stride + (t - l));
          if constexpr (kUnless)
            r[V::lane(l)] = V::select(forbidden(V::load(unless + l * row_stride + (t - l))), pad, r[V::lane(l)]);
        }
        V::transpose(r);
#pragma GCC unroll 16
        for (int k = 0; k < W; ++k) V::store(out + (t + k) * W, r[k]);
        continue;
      }
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        if (l >= rows) {
          r[V::lane(l)] = pad;
          continue;
        }
        const auto real = V::lanes(l - t, columns - 1 - t + l);
        r[V::lane(l)] = V::load(source + l * row_stride + (t - l), real, pad);
        if constexpr (kUnless)
          r[V::lane(l)] = V::select(forbidden(V::load(unless + l * row_stride + (t - l), real, pad)), pad, r[V::lane(l)]);
      }
      V::transpose(r);
      if (joins && t == 0) {
#pragma GCC unroll 16
        for (int k = 0; k < W; ++k) r[k] = V::select(V::rows(0, k), r[k], V::load(out + k * W));
      }
#pragma GCC unroll 16
      for (int k = 0; k < W; ++k) V::store(out + (t + k) * W, r[k]);
    }
    return;
  }
  for (int l = 0; l < W; ++l) {
    typename V::T* o = out + V::lane(l);
    for (int t = 0; t < l && !joins; ++t) o[t * W] = padding;
    if (l < rows) {
      const typename V::T* s = source + l * row_stride;
      const typename V::T* const bound = kUnless ? unless + l * row_stride : s;
      for (int c = 0; c < columns; ++c) o[(c + l) * W] = kUnless && bound[c] == -Limits::infinity() ? padding : s[c];
    } else {
      for (int c = 0; c < columns; ++c) o[(c + l) * W] = padding;
    }
    for (int t = columns + l; t < columns + W - 1; ++t) o[t * W] = padding;
  }
}

template <class V>
void skew_out(typename V::T* target, int64_t row_stride, const typename V::T* in, int rows, int columns) {
  constexpr int W = V::W;
  if constexpr (V::kTransposes) {
    for (int t = 0; t < columns + W - 1; t += W) {
      typename V::R r[W];
#pragma GCC unroll 16
      for (int k = 0; k < W; ++k) r[k] = V::load(in + (t + k) * W);
      V::transpose(r);
      if (rows == W && t >= W - 1 && t + W <= columns) {  // all within
#pragma GCC unroll 16
        for (int l = 0; l < W; ++l) V::store(target + l * row_stride + (t - l), r[V::lane(l)]);
        continue;
      }
#pragma GCC unroll 16
      for (int l = 0; l < W; ++l) {
        if (l >= rows) continue;
        V::store(target + l * row_stride + (t - l), V::lanes(l - t, columns - 1 - t + l), r[V::lane(l)]);
      }
    }
    return;
  }
  for (int l = 0; l < rows; ++l) {
    const typename V::T* s = in + l * W + V::lane(l);
    typename V::T* o = target + l * row_stride;
    for (int c = 0; c < columns; ++c) o[c] = s[c * W];
  }
}

// Steps of a strip, up to whole blocks of W, in numbers.
template <class V>
int64_t skewed(int64_t columns) {
  return ceil_div(columns + V::W - 1, V::W) * V::W * V::W;
}

// Rows of a table in the order of a chain (strip.h), or strip by strip where they are too narrow for one.
template <class V>
bool chains(int columns) {
  return columns >= V::W;
}

// Where strip s of a chain begins in its order; from one that is no chain to the next there are skewed(columns).
template <class V>
int64_t strip_start(int64_t s, int columns) {
  return chains<V>(columns) ? s * columns * V::W : s * skewed<V>(columns);
}

template <class V, bool kUnless = false>
void chain_in(typename V::T* out, const typename V::T* source, int64_t row_stride, int rows, int columns, typename V::T padding,
              const typename V::T* unless = nullptr) {
  for (int i = 0; i < rows; i += V::W) {
    const int64_t skip = i * row_stride;
    skew_in<V, kUnless>(out + strip_start<V>(i / V::W, columns), source + skip, row_stride, std::min(V::W, rows - i), columns,
                        padding, i > 0 && chains<V>(columns), unless != nullptr ? unless + skip : nullptr);
  }
}

template <class V>
void chain_out(typename V::T* target, int64_t row_stride, const typename V::T* in, int rows, int columns) {
  for (int i = 0; i < rows; i += V::W)
    skew_out<V>(target + i * row_stride, row_stride, in + strip_start<V>(i / V::W, columns), std::min(V::W, rows - i), columns);
}

// Scratch memory that tiles hand on to each other: a new piece for each of them costs as much as a quarter of its sweep.
template <class Scratch>
class Pool {
 public:
  // use(scratch) with a piece that nobody else has; a new one is Scratch(argument).
  template <class Argument, class F>
  void with(const Argument& argument, F&& use) {
    std::unique_ptr<Scratch> scratch;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!free_.empty()) {
        scratch = std::move(free_.back());
        free_.pop_back();
      }
    }
    if (scratch == nullptr) scratch = std::make_unique<Scratch>(argument);
    use(*scratch);
    const std::lock_guard<std::mutex> lock(mutex_);
    free_.push_back(std::move(scratch));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

// f(k) for every k in [0, count), at the same time where there is a `parallel`.
template <class F>
void run(Parallel parallel, int64_t count, F&& f) {
  if (parallel == nullptr || count == 1) {
    for (int64_t k = 0; k < count; ++k) f(k);
  } else {
    parallel(count, [](void* context, int64_t k) { (*static_cast<std::remove_reference_t<F>*>(context))(k); }, &f);
  }
}

// f(r, c) for every tile, diagonal by diagonal: those of one diagonal at the same time where there is a `parallel`.
template <class F>
void sweep(Parallel parallel, int64_t rows, int64_t columns, bool backward, F&& f) {
  for (int64_t k = 0; k < rows + columns - 1; ++k) {
    const int64_t q = backward ? rows + columns - 2 - k : k;
    const int64_t first = std::max<int64_t>(0, q - columns + 1), last = std::min(q, rows - 1);
    run(parallel, last - first + 1, [&](int64_t i) { f(first + i, q - first - i); });
  }
}

struct Size {
  int64_t n, m;
};

// The real rows and columns of problem b; 0 x 0 where there are none.
template <class Call>
Size size_of(const Call& call, int64_t b) {
  if (call.lengths == nullptr) return {call.N, call.M};
  const int64_t n = std::clamp<int64_t>(call.lengths[2 * b], 0, call.N);
  const int64_t m = std::clamp<int64_t>(call.lengths[2 * b + 1], 0, call.M);
  return n > 0 && m > 0 ? Size{n, m} : Size{0, 0};
}

// `value` in the cells of an N x M table beyond n x m.
template <class T>
void blank(T* table, int64_t N, int64_t M, int64_t n, int64_t m, T value) {
  for (int64_t i = 0; i < n; ++i) std::fill(table + i * M + m, table + (i + 1) * M, value);
  std::fill(table + n * M, table + N * M, value);
}

template <class V>
Scale<V> scale_of(double gamma) {
  using T = typename V::T;
  // In the hard limit values stay in their own unit.
  const double up = V::kHard ? 1 : 1.4426950408889634074 / gamma;
  Scale<V> scale;
  scale.up = V::set1(T(up));
  scale.down = V::set1(-T(up));
  scale.gamma_log_2 = V::set1(V::kHard ? T(1) : T(gamma * 0.693147180559945309417));
  return scale;
}

}  // namespace LACRAY_ISA
}  // namespace lacray
