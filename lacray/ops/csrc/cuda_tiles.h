// What the CUDA engines share: one launch per pass for all problems, whatever their number and length.
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
#pragma once

#define LACRAY_ISA cuda_warp
#include "engine_cuda.h"
#include "polynomials.h"

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
  static constexpr bool kHard = false;

  LACRAY_INLINE static R set1(T a) { return a; }
  LACRAY_INLINE static R load_rows(const T* p) { return p[lane_id()]; }
  LACRAY_INLINE static R add(R a, R b) { return a + b; }
  LACRAY_INLINE static R sub(R a, R b) { return a - b; }
  LACRAY_INLINE static R mul(R a, R b) { return a * b; }
  LACRAY_INLINE static R fma(R a, R b, R c) { return ::fma(a, b, c); }
  LACRAY_INLINE static R mul_sub(R a, R b, R c) { return ::fma(a, b, -c); }
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
template <class Call, class T>
__device__ bool take(const Call& call, int* ticket, bool backward, Tile<T>& k) {
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

// One lane speaks for its warp: what the others wrote comes before its fence by the barrier, and what they read after. That is
// the order of a grid-wide barrier in CUDA's cooperative groups.
__device__ __forceinline__ void wait_for(const int* flag) {
  if (lane_id() == 0) {
    while (*static_cast<const volatile int*>(flag) == 0) __nanosleep(64);
    __threadfence();
  }
  __syncwarp();
}

__device__ __forceinline__ void announce(int* flag) {
  __syncwarp();
  if (lane_id() == 0) {
    __threadfence();
    *static_cast<volatile int*>(flag) = 1;
  }
}

// Where a problem's checkpoints are (calls.h).
template <class Call, class T>
struct Layout {
  const Call& call;
  int64_t arrays;
  int tile_rows, tile_columns;
  int64_t padded_rows;
  __device__ Layout(const Call& call, int64_t arrays)
      : call(call),
        arrays(arrays),
        tile_rows(int(ceil_div(call.N, 32))),
        tile_columns(int(ceil_div(call.M, Tile<T>::kColumns))),
        padded_rows(int64_t(tile_rows) * 32) {}
  __device__ int64_t tile(int64_t b, int r, int c) const { return (b * tile_rows + r) * tile_columns + c; }
  __device__ T* row(int64_t b, int r) const { return call.state + b * call.state_size + 2 + int64_t(r - 1) * arrays * call.M; }
  __device__ T* column(int64_t b, int c) const {
    return call.state + b * call.state_size + 2 + int64_t(tile_rows > 1 ? tile_rows - 1 : 0) * arrays * call.M +
           int64_t(c - 1) * arrays * padded_rows;
  }
};

// Copies `arrays` rows of a tile's columns between shared and device memory.
template <class T>
__device__ void copy_rows(T* to, int64_t to_stride, const T* from, int64_t from_stride, int arrays, int columns) {
  for (int q = lane_id(); q < arrays * columns; q += 32)
    to[(q / columns) * to_stride + q % columns] = from[(q / columns) * from_stride + q % columns];
}

template <class T>
__device__ Scale<Warp<T>> scale_of(double gamma) {
  const double up = 1.4426950408889634074 / gamma;
  Scale<Warp<T>> c;
  c.up = T(up);
  c.down = -c.up;
  c.gamma_log_2 = T(gamma * 0.693147180559945309417);
  return c;
}

#if defined(__CUDACC__)
template <class Kernel, class Call, class T>
const char* launch(Kernel kernel, const Call& call, cuda::Scratch<T> scratch, size_t shared, cudaStream_t stream) {
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
}  // namespace lacray
