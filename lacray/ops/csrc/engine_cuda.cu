// The CUDA engine: one launch per pass for all problems, whatever their number and length.
//
// A table is cut into tiles of 32 rows, one warp each: lane l sweeps row l, and neighbours exchange cells by shuffles
// (strip.h, with one float per thread as the vector). A warp takes the next tile by a ticket, in the order of the
// anti-diagonals of tiles over all problems, and waits for the tiles above and on its left, whose tickets are lower and
// therefore held by warps that run already: no deadlock, no grid-wide barrier, no host synchronisation.
//
// A tile's similarities, gaps and results pass through shared memory, read and written by rows (coalesced). Rows are
// tile_columns + 2 apart there, so that the 32 lanes of an anti-diagonal hit 32 banks.
//
// Nothing is summed by atomics: results are the same bit for bit in every run.
#define LACRAY_ISA cuda_warp
#include "engine_cuda.h"
#include "polynomials.h"
#include "strip.h"

namespace lacray {
namespace cuda_warp {

constexpr unsigned kAll = 0xffffffffu;

__device__ __forceinline__ int lane_id() { return int(threadIdx.x & 31); }

template <class T>
struct Bits;

template <>
struct Bits<float> {
  static constexpr float kLimit = 127;
  static __device__ __forceinline__ float mantissa(float a) {
    return isnan(a) ? a : __int_as_float((__float_as_int(a) & 0x007fffff) | 0x3f800000);
  }
  // Integers to and from the exponent field by way of 2^23, whose last bit is 1: conversions are slow.
  static __device__ __forceinline__ float exponent(float a) {
    return __int_as_float((__float_as_int(a) >> 23) | 0x4b000000) - (8388608.f + 127.f);
  }
  static __device__ __forceinline__ float power(float e) { return __int_as_float(__float_as_int(e + (8388608.f + 127.f)) << 23); }
  static __device__ __forceinline__ float reciprocal(float a) { return __frcp_rn(a); }
};

template <>
struct Bits<double> {
  static constexpr double kLimit = 1023;
  static __device__ __forceinline__ double mantissa(double a) {
    return isnan(a) ? a : __longlong_as_double((__double_as_longlong(a) & 0x000fffffffffffffll) | 0x3ff0000000000000ll);
  }
  static __device__ __forceinline__ double exponent(double a) { return double(int(__double_as_longlong(a) >> 52) - 1023); }
  static __device__ __forceinline__ double power(double e) {
    return __longlong_as_double(static_cast<long long>(int(e) + 1023) << 52);
  }
  static __device__ __forceinline__ double reciprocal(double a) { return 1.0 / a; }
};

template <class T_>
struct Warp {
  using T = T_;
  using R = T;
  using K = bool;
  static constexpr int W = 32;

  LACRAY_INLINE static R set1(T a) { return a; }
  LACRAY_INLINE static R load_rows(const T* p) { return p[lane_id()]; }
  LACRAY_INLINE static R add(R a, R b) { return a + b; }
  LACRAY_INLINE static R sub(R a, R b) { return a - b; }
  LACRAY_INLINE static R mul(R a, R b) { return a * b; }
  LACRAY_INLINE static R fma(R a, R b, R c) { return ::fma(a, b, c); }
  LACRAY_INLINE static R mul_error(R a, R b, R product) { return ::fma(a, b, -product); }
  // b where the two do not compare, as on the CPU.
  LACRAY_INLINE static R max(R a, R b) { return a > b ? a : b; }
  LACRAY_INLINE static R round(R a) { return ::rint(a); }
  LACRAY_INLINE static K less(R a, R b) { return a < b; }
  LACRAY_INLINE static R select(K k, R a, R b) { return k ? a : b; }
  LACRAY_INLINE static K rows(int first, int last) { return first <= lane_id() && lane_id() <= last; }
  LACRAY_INLINE static R reciprocal(R a) { return Bits<T>::reciprocal(a); }
  LACRAY_INLINE static R mantissa(R a) { return Bits<T>::mantissa(a); }
  LACRAY_INLINE static R exponent(R a) { return Bits<T>::exponent(a); }
  LACRAY_INLINE static R scale(R m, R e) {
    const T low = e > -Bits<T>::kLimit ? e : -Bits<T>::kLimit;
    return m * Bits<T>::power(low < Bits<T>::kLimit ? low : Bits<T>::kLimit);
  }
  LACRAY_INLINE static R exp2(R a) { return exp2_series<Warp>(a); }
  LACRAY_INLINE static R log2(R a) { return log2_series<Warp>(a); }
  LACRAY_INLINE static R up(R a, const T* first) {
    const R moved = __shfl_up_sync(kAll, a, 1);
    return lane_id() == 0 ? *first : moved;
  }
  LACRAY_INLINE static R down(R a, const T* last) {
    const R moved = __shfl_down_sync(kAll, a, 1);
    return lane_id() == W - 1 ? *last : moved;
  }
  LACRAY_INLINE static void store_first(T* p, R a) {
    if (lane_id() == 0) *p = a;
  }
  LACRAY_INLINE static void store_last(T* p, R a) {
    if (lane_id() == W - 1) *p = a;
  }
  LACRAY_INLINE static void store_row(T* p, int row, R a) {
    if (lane_id() == row) p[row] = a;
  }
  // In a fixed order.
  LACRAY_INLINE static T sum(R a) {
    for (int k = 16; k > 0; k /= 2) a += __shfl_xor_sync(kAll, a, k);
    return a;
  }
};

template <class T>
struct Tile {
  static constexpr int kColumns = int(cuda::tile_columns<T>());
  static constexpr int kStride = kColumns + 2;
  static constexpr int kCells = 32 * kStride;
  static constexpr int kSteps = kColumns + 31;
  static constexpr int kKept = 7;  // weights kept; the other three are 1 minus one of these

  int64_t b;
  int i0, j0, rows, columns;  // rows and columns within the problem's lengths; 0 outside
  int r, c;
  int n, m;
};

template <class T>
__device__ __forceinline__ bool outside(int row, int column, const Tile<T>& k) {
  return row >= k.rows || column >= k.columns;
}

// Shared memory <- a tile of a table, by rows; `padding` beyond the problem's lengths.
template <class T>
__device__ void read_tile(T* cells, const T* table, int64_t M, const Tile<T>& k, T padding) {
  constexpr int C = Tile<T>::kColumns;
  for (int q = lane_id(); q < 32 * C; q += 32) {
    const int row = q / C, column = q % C;
    cells[row * Tile<T>::kStride + column] = outside(row, column, k) ? padding : table[(k.i0 + row) * M + k.j0 + column];
  }
}

// A table <- shared memory; `blank` beyond the problem's lengths, whatever is in shared memory there.
template <class T>
__device__ void write_tile(T* table, const T* cells, int64_t N, int64_t M, const Tile<T>& k, T blank) {
  constexpr int C = Tile<T>::kColumns;
  for (int q = lane_id(); q < 32 * C; q += 32) {
    const int row = q / C, column = q % C;
    if (k.i0 + row < N && k.j0 + column < M)
      table[(k.i0 + row) * M + k.j0 + column] = outside(row, column, k) ? blank : cells[row * Tile<T>::kStride + column];
  }
}

// The next tile in the order of anti-diagonals over all problems, or false. `backward` turns the order round.
template <class T>
__device__ bool take(const SoftSw<T>& call, int* ticket, bool backward, Tile<T>& k) {
  const int tile_rows = int(ceil_div(call.N, 32)), tile_columns = int(ceil_div(call.M, Tile<T>::kColumns));
  const int64_t count = call.B * tile_rows * tile_columns;
  int64_t t = 0;
  if (lane_id() == 0) t = atomicAdd(ticket, 1);
  t = __shfl_sync(kAll, t, 0);
  if (t >= count) return false;
  if (backward) t = count - 1 - t;
  // Diagonals of tiles: diagonal q has the tiles (r, q - r).
  int64_t q = t / call.B;
  k.b = t % call.B;
  int diagonal = 0;
  for (;; ++diagonal) {
    const int first = diagonal < tile_columns ? 0 : diagonal - tile_columns + 1;
    const int last = diagonal < tile_rows ? diagonal : tile_rows - 1;
    const int length = last - first + 1;
    if (q < length) {
      k.r = first + int(q);
      break;
    }
    q -= length;
  }
  k.c = diagonal - k.r;
  k.i0 = k.r * 32;
  k.j0 = k.c * Tile<T>::kColumns;
  int64_t n = call.N, m = call.M;
  if (call.lengths != nullptr) {
    const int64_t ln = call.lengths[2 * k.b], lm = call.lengths[2 * k.b + 1];
    n = ln < 0 ? 0 : ln < n ? ln : n;
    m = lm < 0 ? 0 : lm < m ? lm : m;
  }
  if (n == 0 || m == 0) n = m = 0;
  k.n = int(n);
  k.m = int(m);
  k.rows = k.i0 < n ? int(n - k.i0 < 32 ? n - k.i0 : 32) : 0;
  k.columns = k.j0 < m ? int(m - k.j0 < Tile<T>::kColumns ? m - k.j0 : Tile<T>::kColumns) : 0;
  if (k.rows == 0 || k.columns == 0) k.rows = k.columns = 0;
  return true;
}

__device__ __forceinline__ void wait_for(const int* flag) {
  if (lane_id() == 0)
    while (*static_cast<const volatile int*>(flag) == 0) __nanosleep(64);
  __syncwarp();
  __threadfence();  // what the flag's owner wrote before it is read after it
}

__device__ __forceinline__ void announce(int* flag) {
  __threadfence();  // every lane's writes before the flag
  __syncwarp();
  if (lane_id() == 0) *static_cast<volatile int*>(flag) = 1;
}

template <class T>
struct Layout {
  int tile_rows, tile_columns;
  int64_t padded_rows;
  __device__ explicit Layout(const SoftSw<T>& call)
      : tile_rows(int(ceil_div(call.N, 32))),
        tile_columns(int(ceil_div(call.M, Tile<T>::kColumns))),
        padded_rows(int64_t(tile_rows) * 32) {}
  __device__ int64_t tile(int64_t b, int r, int c) const { return (b * tile_rows + r) * tile_columns + c; }
  __device__ T* row(const SoftSw<T>& call, int64_t b, int r) const {
    return call.state + b * call.state_size + 2 + int64_t(r - 1) * 6 * call.M;
  }
  __device__ T* column(const SoftSw<T>& call, int64_t b, int c) const {
    return call.state + b * call.state_size + 2 + int64_t(tile_rows > 1 ? tile_rows - 1 : 0) * 6 * call.M +
           int64_t(c - 1) * 6 * padded_rows;
  }
};

template <class T>
__device__ Scale<Warp<T>> scale_of(const SoftSw<T>& call) {
  const double up = 1.4426950408889634074 / call.gamma;
  Scale<Warp<T>> c;
  c.up = T(up);
  c.up_low = T(up - double(T(up)));
  c.down = -c.up;
  c.down_low = -c.up_low;
  c.gamma_log_2 = T(call.gamma * 0.693147180559945309417);
  return c;
}

template <class T>
struct CellIo {
  using V = Warp<T>;
  T* s;             // in shared memory; D replaces S
  const T *go, *ge;  // in shared memory, or null: a and b everywhere
  Ext<V> a, b;
  T* weights;  // in shared memory
  int columns;

  __device__ __forceinline__ int at(int t) const { return lane_id() * (Tile<T>::kStride - 1) + t; }
  __device__ __forceinline__ bool real(int t) const { return t >= lane_id() && t - lane_id() < columns; }
  __device__ __forceinline__ T similarity(int t) const { return real(t) ? s[at(t)] : T(-INFINITY); }
  __device__ __forceinline__ void gaps(int t, const Scale<V>& c, Ext<V>& open, Ext<V>& extend) const {
    if (go == nullptr) {
      open = a;
      extend = b;
    } else {
      open = power<V>(real(t) ? go[at(t)] : T(0), c.down, c.down_low);
      extend = power<V>(real(t) ? ge[at(t)] : T(0), c.down, c.down_low);
    }
  }
  __device__ __forceinline__ void put_match(int t, T d) {
    if (real(t)) s[at(t)] = d;
  }
  __device__ __forceinline__ T* weight(int t, int q) const { return weights + (t * Tile<T>::kKept + q) * 32 + lane_id(); }
  __device__ __forceinline__ void put_weights(int t, const Weights<V>& p) {
    *weight(t, 0) = p.pd;
    *weight(t, 1) = p.px;
    *weight(t, 2) = p.py;
    *weight(t, 3) = p.sd;
    *weight(t, 4) = p.qd;
    *weight(t, 5) = p.rs;
    *weight(t, 6) = p.pz;
  }
};

template <class T>
struct AdjointIo {
  using V = Warp<T>;
  const CellIo<T>& cells;
  T* g;              // in shared memory: the gradient of D, replaced by that of S
  T *g_open, *g_extend;  // in shared memory, or null: summed below
  bool has_grad;
  T open, extend;

  __device__ __forceinline__ void get_weights(int t, Weights<V>& p) const {
    p.pd = *cells.weight(t, 0);
    p.px = *cells.weight(t, 1);
    p.py = *cells.weight(t, 2);
    p.sd = *cells.weight(t, 3);
    p.qd = *cells.weight(t, 4);
    p.rs = *cells.weight(t, 5);
    p.pz = *cells.weight(t, 6);
    // Outside the tile all are zero, these too.
    const bool real = cells.real(t);
    p.sx = real ? T(1) - p.sd : T(0);
    p.qx = real ? T(1) - p.qd : T(0);
    p.ry = real ? T(1) - p.rs : T(0);
  }
  __device__ __forceinline__ T grad_match(int t) const { return has_grad && cells.real(t) ? g[cells.at(t)] : T(0); }
  __device__ __forceinline__ void put_gradients(int t, const Adjoint<V>& a) {
    if (cells.real(t)) {
      const int at = cells.at(t);
      g[at] = a.pd;
      if (g_open != nullptr) {
        g_open[at] = -(a.xd + a.ys);
        g_extend[at] = -(a.xx + a.yy);
      }
      open -= a.xd + a.ys;
      extend -= a.xx + a.yy;
    }
  }
};

// Stages a tile's S and gaps in shared memory.
template <class T>
__device__ CellIo<T> stage(const SoftSw<T>& call, const Scale<Warp<T>>& c, const Tile<T>& k, T* shared, T* weights) {
  using V = Warp<T>;
  T* const s = shared;
  T* const go = shared + Tile<T>::kCells;
  T* const ge = shared + 2 * Tile<T>::kCells;
  const int64_t problem = k.b * call.N * call.M;
  read_tile(s, call.similarity + problem, call.M, k, T(-INFINITY));
  CellIo<T> io{s, nullptr, nullptr, constant<V>(1, 0), constant<V>(1, 0), weights, k.columns};
  if (call.gap_kind == GapKind::scalar) {
    io.a = power<V>(*call.gap_open, c.down, c.down_low);
    io.b = power<V>(*call.gap_extend, c.down, c.down_low);
  } else {
    const int64_t offset = call.gap_kind == GapKind::own ? problem : 0;
    read_tile(go, call.gap_open + offset, call.M, k, T(0));
    read_tile(ge, call.gap_extend + offset, call.M, k, T(0));
    io.go = go;
    io.ge = ge;
  }
  return io;
}

// Stages the row above a tile, and says where its left border and corner are.
template <class T>
__device__ ForwardStrip<T> borders(const SoftSw<T>& call, const Layout<T>& layout, const Tile<T>& k, T* row, T* edge) {
  constexpr int C = Tile<T>::kColumns;
  for (int q = lane_id(); q < 6 * C; q += 32) {
    const int array = q / C, column = q % C;
    T value = array == 1 ? T(0) : array % 2 == 0 ? T(1) : T(kZero);
    if (k.r > 0 && column < k.columns) value = layout.row(call, k.b, k.r)[array * call.M + k.j0 + column];
    row[q] = value;
  }
  for (int array = 0; array < 6; ++array) edge[array * 32 + lane_id()] = array == 1 ? T(0) : array % 2 == 0 ? T(1) : T(kZero);
  ForwardStrip<T> f;
  f.columns = k.columns;
  f.row = {row, C};
  f.left = {edge, 32};
  f.right = {nullptr, 0};
  f.corner_m = 1;
  f.corner_e = 0;
  if (k.c > 0) {
    const T* const column = layout.column(call, k.b, k.c);
    f.left = {column + k.i0, long(layout.padded_rows)};
    if (k.r > 0) {
      f.corner_m = column[k.i0 - 1];
      f.corner_e = column[layout.padded_rows + k.i0 - 1];
    }
  }
  return f;
}

template <class T>
__device__ Ext<Warp<T>> total_of_warp(Ext<Warp<T>> z) {
  using V = Warp<T>;
  for (int k = 16; k > 0; k /= 2) {
    const Ext<V> other{__shfl_xor_sync(kAll, z.m, k), __shfl_xor_sync(kAll, z.e, k)};
    accumulate<V>(z, other);
  }
  return z;
}

template <class T>
__global__ void __launch_bounds__(32) forward_kernel(const SoftSw<T> call, cuda::Scratch<T> scratch) {
  using V = Warp<T>;
  constexpr int C = Tile<T>::kColumns;
  extern __shared__ __align__(16) char memory[];
  T* const cells = reinterpret_cast<T*>(memory);
  T* const row = cells + 3 * Tile<T>::kCells;
  T* const edge = row + 6 * C;
  const Scale<V> c = scale_of(call);
  const Layout<T> layout(call);
  int* const flags = scratch.counters + 1;
  Tile<T> k;
  while (take(call, scratch.counters, false, k)) {
    T* const match = call.match + k.b * call.N * call.M;
    T* const state = call.state + k.b * call.state_size;
    if (k.rows == 0) {
      write_tile(match, cells, call.N, call.M, k, T(-INFINITY));
      if (k.r == 0 && k.c == 0 && lane_id() == 0) {
        call.score[k.b] = T(-INFINITY);
        state[0] = 1;
        state[1] = T(kZero);
      }
      continue;
    }
    if (k.r > 0) wait_for(flags + layout.tile(k.b, k.r - 1, k.c));
    if (k.c > 0) wait_for(flags + layout.tile(k.b, k.r, k.c - 1));
    __syncwarp();
    CellIo<T> io = stage(call, c, k, cells, static_cast<T*>(nullptr));
    ForwardStrip<T> f = borders(call, layout, k, row, edge);
    if (k.j0 + k.columns < k.m) f.right = {layout.column(call, k.b, k.c + 1) + k.i0, long(layout.padded_rows)};
    __syncwarp();
    Ext<V> z = constant<V>(1, T(kZero));
    forward_strip<V, false>(f, c, constant<V>(1, 0), io, z);
    __syncwarp();
    if (k.i0 + 32 < k.n) {
      T* const below = layout.row(call, k.b, k.r + 1);
      for (int q = lane_id(); q < 6 * C; q += 32)
        if (q % C < k.columns) below[(q / C) * call.M + k.j0 + q % C] = row[q];
    }
    z = total_of_warp(z);
    T* const parts = scratch.values + 2 * layout.tile(k.b, 0, 0);
    if (lane_id() == 0) {
      parts[2 * (k.r * layout.tile_columns + k.c)] = z.m;
      parts[2 * (k.r * layout.tile_columns + k.c) + 1] = z.e;
    }
    announce(flags + layout.tile(k.b, k.r, k.c));
    write_tile(match, io.s, call.N, call.M, k, T(-INFINITY));
    if (k.i0 + 32 >= k.n && k.j0 + C >= k.m) {
      // The last tile: it waited, by way of the others, for all.
      __threadfence();
      Ext<V> total = constant<V>(1, T(kZero));
      for (int q = lane_id(); q < (k.r + 1) * (k.c + 1); q += 32) {
        const T* const part = parts + 2 * ((q / (k.c + 1)) * layout.tile_columns + q % (k.c + 1));
        accumulate<V>(total, Ext<V>{part[0], part[1]});
      }
      total = total_of_warp(total);
      if (lane_id() == 0) {
        const Ext<V> unit = normal<V>(total.m, total.e);
        state[0] = unit.m;
        state[1] = unit.e;
        call.score[k.b] = unit.e < T(kForbidden)
                              ? T(-INFINITY)
                              : T(call.gamma * (0.693147180559945309417 * double(unit.e) + log(double(unit.m))));
      }
    }
    __syncwarp();
  }
}

template <class T>
__global__ void __launch_bounds__(32) backward_kernel(const SoftSw<T> call, cuda::Scratch<T> scratch) {
  using V = Warp<T>;
  constexpr int C = Tile<T>::kColumns;
  extern __shared__ __align__(16) char memory[];
  T* const cells = reinterpret_cast<T*>(memory);  // S, gap_open, gap_extend, the gradient of D
  T* const g = cells + 3 * Tile<T>::kCells;
  T* const row = g + Tile<T>::kCells;
  T* const edge = row + 6 * C;
  T* const weights = edge + 6 * 32;
  const Scale<V> c = scale_of(call);
  const Layout<T> layout(call);
  int* const flags = scratch.counters + 1;
  const int64_t border = 3 * (call.M + int64_t(layout.tile_columns) * layout.padded_rows);
  const bool gaps = call.grad_gap_open != nullptr, scalar = call.gap_kind == GapKind::scalar;
  Tile<T> k;
  while (take(call, scratch.counters, true, k)) {
    const int64_t problem = k.b * call.N * call.M, tile = layout.tile(k.b, k.r, k.c);
    if (k.rows == 0) {
      write_tile(call.grad_similarity + problem, cells, call.N, call.M, k, T(0));
      if (gaps && scalar && lane_id() == 0) call.grad_gap_open[tile] = call.grad_gap_extend[tile] = T(0);
      if (gaps && !scalar) {
        write_tile(call.grad_gap_open + problem, cells, call.N, call.M, k, T(0));
        write_tile(call.grad_gap_extend + problem, cells, call.N, call.M, k, T(0));
      }
      continue;
    }
    const bool last_row = k.i0 + 32 >= k.n, last_column = k.j0 + C >= k.m;
    // The tile's own probabilities first: they need nothing from the tiles that this one waits for.
    CellIo<T> io = stage(call, c, k, cells, weights);
    ForwardStrip<T> f = borders(call, layout, k, row, edge);
    if (call.grad_match != nullptr) {
      read_tile(g, call.grad_match + problem, call.M, k, T(0));
      __syncwarp();
      // A forbidden match has D = -inf whatever S does: what arrives there (often NaN) is dropped.
      for (int q = lane_id(); q < Tile<T>::kCells; q += 32)
        if (q % Tile<T>::kStride < C && io.s[q] == T(-INFINITY)) g[q] = T(0);
    }
    __syncwarp();
    const T* const state = call.state + k.b * call.state_size;
    Ext<V> unused = constant<V>(1, 0);
    forward_strip<V, true>(f, c, constant<V>(T(1) / state[0], -state[1]), io, unused);
    __syncwarp();

    if (!last_row) wait_for(flags + layout.tile(k.b, k.r + 1, k.c));
    if (!last_column) wait_for(flags + layout.tile(k.b, k.r, k.c + 1));
    T* const row_below = scratch.values + k.b * border;  // pd, ys, yy
    T* const sides = row_below + 3 * call.M;             // pd, xd, xx of the first column of each column of tiles
    for (int q = lane_id(); q < 3 * C; q += 32)
      row[q] = last_row || q % C >= k.columns ? T(0) : row_below[(q / C) * call.M + k.j0 + q % C];
    for (int array = 0; array < 3; ++array) edge[array * 32 + lane_id()] = T(0);
    BackwardStrip<T> s;
    s.columns = k.columns;
    s.row = {row, C};
    s.right = {edge, 32};
    s.left = {nullptr, 0};
    s.corner = 0;
    if (!last_column) {
      const T* const side = sides + int64_t(k.c + 1) * 3 * layout.padded_rows;
      s.right = {side + k.i0, long(layout.padded_rows)};
      if (!last_row) s.corner = side[k.i0 + 32];
    }
    if (k.c > 0) s.left = {sides + int64_t(k.c) * 3 * layout.padded_rows + k.i0, long(layout.padded_rows)};
    __syncwarp();
    const bool own_cells = gaps && !scalar;
    AdjointIo<T> adjoint{io, g, own_cells ? cells + Tile<T>::kCells : nullptr, own_cells ? cells + 2 * Tile<T>::kCells : nullptr,
                         call.grad_match != nullptr, T(0), T(0)};
    const T grad_score = call.grad_score != nullptr && state[1] >= T(kForbidden) ? call.grad_score[k.b] : T(0);
    backward_strip<V>(s, grad_score, adjoint);
    __syncwarp();
    if (k.r > 0)
      for (int q = lane_id(); q < 3 * C; q += 32)
        if (q % C < k.columns) row_below[(q / C) * call.M + k.j0 + q % C] = row[q];
    announce(flags + tile);
    write_tile(call.grad_similarity + problem, g, call.N, call.M, k, T(0));
    if (own_cells) {
      write_tile(call.grad_gap_open + problem, adjoint.g_open, call.N, call.M, k, T(0));
      write_tile(call.grad_gap_extend + problem, adjoint.g_extend, call.N, call.M, k, T(0));
    } else if (gaps) {
      const T open = V::sum(adjoint.open), extend = V::sum(adjoint.extend);
      if (lane_id() == 0) {
        call.grad_gap_open[tile] = open;
        call.grad_gap_extend[tile] = extend;
      }
    }
    __syncwarp();
  }
}

#if defined(__CUDACC__)
template <class Kernel, class T>
const char* launch(Kernel kernel, const SoftSw<T>& call, cuda::Scratch<T> scratch, size_t shared, cudaStream_t stream) {
  int device = 0, processors = 0, per_processor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
  if (error == cudaSuccess) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_processor, kernel, 32, shared);
  if (error == cudaSuccess) {
    const int64_t tiles = call.B * cuda::num_tiles(call), resident = int64_t(processors) * per_processor;
    kernel<<<unsigned(tiles < resident ? tiles : resident), 32, shared, stream>>>(call, scratch);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}
#endif

}  // namespace cuda_warp

namespace cuda {

template <class T>
const char* forward(const SoftSw<T>& call, Scratch<T> scratch, void* stream) {
  using Tile = cuda_warp::Tile<T>;
  const size_t shared = sizeof(T) * (3 * Tile::kCells + 6 * Tile::kColumns + 6 * 32);
  return cuda_warp::launch(cuda_warp::forward_kernel<T>, call, scratch, shared, static_cast<cudaStream_t>(stream));
}

template <class T>
const char* backward(const SoftSw<T>& call, Scratch<T> scratch, void* stream) {
  using Tile = cuda_warp::Tile<T>;
  const size_t shared =
      sizeof(T) * (4 * Tile::kCells + 6 * Tile::kColumns + 6 * 32 + size_t(Tile::kSteps) * Tile::kKept * 32);
  return cuda_warp::launch(cuda_warp::backward_kernel<T>, call, scratch, shared, static_cast<cudaStream_t>(stream));
}

template const char* forward(const SoftSw<float>&, Scratch<float>, void*);
template const char* forward(const SoftSw<double>&, Scratch<double>, void*);
template const char* backward(const SoftSw<float>&, Scratch<float>, void*);
template const char* backward(const SoftSw<double>&, Scratch<double>, void*);

}  // namespace cuda
}  // namespace lacray
