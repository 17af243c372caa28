// The CUDA engine of dynamic time warping.
#include "cuda_tiles.h"
#include "dtw_strip.h"

namespace lacray {
namespace cuda_warp {

template <class T>
struct CostIo {
  using V = Warp<T>;
  T* cells;  // in shared memory: C, replaced by R; or the gradient of R, replaced by that of C
  T* shares;
  int columns;

  __device__ __forceinline__ int at(int t) const { return lane_id() * (Tile<T>::kStride - 1) + t; }
  __device__ __forceinline__ bool real(int t) const { return t >= lane_id() && t - lane_id() < columns; }
  __device__ __forceinline__ T cost_at(int t) const { return real(t) ? cells[at(t)] : T(INFINITY); }
  __device__ __forceinline__ void put_table(int t, T r) {
    if (real(t)) cells[at(t)] = r;
  }
  __device__ __forceinline__ T* share(int t, int q) const { return shares + (t * kNumShares + q) * 32 + lane_id(); }
  __device__ __forceinline__ void put_shares(int t, const Shares<V>& p) {
    *share(t, 0) = p.diagonal;
    *share(t, 1) = p.above;
    *share(t, 2) = p.left;
  }
  __device__ __forceinline__ void get_shares(int t, Shares<V>& p) const { p = {*share(t, 0), *share(t, 1), *share(t, 2)}; }
  __device__ __forceinline__ T grad_table(int t) const { return real(t) ? if_reached<V>(*share(t, 2), cells[at(t)]) : T(0); }
  __device__ __forceinline__ void put_gradient(int t, T g) {
    if (real(t)) cells[at(t)] = g;
  }
};

// Whether the band leaves anything of a tile.
template <class T>
__device__ bool in_band(const Dtw<T>& call, const Tile<T>& k) {
  return call.band < 0 || (k.j0 - (k.i0 + k.rows - 1) <= call.band && k.i0 - (k.j0 + k.columns - 1) <= call.band);
}

// Stages a tile's costs, infinite outside the band, and its borders.
template <class T, class Minimum>
__device__ DtwForwardChain<T, Minimum> stage_dtw(const Dtw<T>& call, const Layout<Dtw<T>, T>& layout, const Tile<T>& k, T* cells,
                                                 T* row, T* edge) {
  constexpr int C = Tile<T>::kColumns, A = Minimum::kArrays;
  read_tile(cells, call.cost + k.b * call.N * call.M, call.M, k, T(INFINITY));
  __syncwarp();
  if (call.band >= 0) {
    for (int q = lane_id(); q < 32 * C; q += 32) {
      const int i = k.i0 + q / C, j = k.j0 + q % C;
      if ((i > j ? i - j : j - i) > call.band) cells[q / C * Tile<T>::kStride + q % C] = T(INFINITY);
    }
  }
  for (int q = lane_id(); q < A * C; q += 32) {
    const int array = q / C, column = q % C;
    row[q] = k.r > 0 && column < k.columns ? layout.row(k.b, k.r)[array * call.M + k.j0 + column] : Minimum::unreached(array);
  }
  const T* const column = k.c > 0 ? layout.column(k.b, k.c) : nullptr;
  DtwForwardChain<T, Minimum> f;
  f.columns = k.columns;
  f.strips = 1;
  f.left_step = 0;
  f.row = {row, C};
  f.left = {edge, 32};
  f.right = {nullptr, 0};
  for (int a = 0; a < A; ++a) {
    edge[a * 32 + lane_id()] = Minimum::unreached(a);
    f.corner[a] = k.r == 0 && k.c == 0           ? Minimum::origin(a)
                  : column != nullptr && k.r > 0 ? column[a * layout.padded_rows + k.i0 - 1]
                                                 : Minimum::unreached(a);
  }
  if (column != nullptr) f.left = {column + k.i0, long(layout.padded_rows)};
  __syncwarp();
  return f;
}

template <class T, class Minimum>
__global__ void __launch_bounds__(32) dtw_forward_kernel(const Dtw<T> call, cuda::Scratch<T> scratch) {
  using V = Warp<T>;
  constexpr int C = Tile<T>::kColumns, A = Minimum::kArrays;
  extern __shared__ __align__(16) char memory[];
  T* const cells = reinterpret_cast<T*>(memory);
  T* const row = cells + Tile<T>::kCells;
  T* const edge = row + A * C;
  const Scale<V> c = scale_of<T>(call.gamma);
  const Layout<Dtw<T>, T> layout(call, A);
  int* const flags = scratch.counters + 1;
  Tile<T> k;
  while (take(call, scratch.counters, false, k)) {
    T* const table = call.table + k.b * call.N * call.M;
    if (k.rows == 0) {
      write_tile(table, cells, call.N, call.M, k, T(INFINITY));
      if (k.r == 0 && k.c == 0 && lane_id() == 0) call.value[k.b] = call.state[k.b * call.state_size] = T(INFINITY);
      continue;
    }
    if (k.r > 0) wait_for(flags + layout.tile(k.b, k.r - 1, k.c));
    if (k.c > 0) wait_for(flags + layout.tile(k.b, k.r, k.c - 1));
    __syncwarp();
    const bool to_right = k.j0 + k.columns < k.m, to_below = k.i0 + 32 < k.n;
    T* const right = to_right ? layout.column(k.b, k.c + 1) + k.i0 : nullptr;
    if (in_band(call, k)) {
      DtwForwardChain<T, Minimum> f = stage_dtw<T, Minimum>(call, layout, k, cells, row, edge);
      f.right = {right, long(layout.padded_rows)};
      CostIo<T> io{cells, nullptr, k.columns};
      dtw_forward_chain<V, Minimum, true, false>(f, c, io);
      __syncwarp();
    } else {
      for (int q = lane_id(); q < Tile<T>::kCells; q += 32) cells[q] = T(INFINITY);
      for (int q = lane_id(); q < A * C; q += 32) row[q] = Minimum::unreached(q / C);
      for (int a = 0; a < A && to_right; ++a) right[a * layout.padded_rows + lane_id()] = Minimum::unreached(a);
      __syncwarp();
    }
    if (to_below) copy_rows(layout.row(k.b, k.r + 1) + k.j0, call.M, row, C, A, k.columns);
    announce(flags + layout.tile(k.b, k.r, k.c));
    write_tile(table, cells, call.N, call.M, k, T(INFINITY));
    if (!to_right && !to_below && lane_id() == 0)
      call.value[k.b] = call.state[k.b * call.state_size] = cells[(k.n - 1 - k.i0) * Tile<T>::kStride + k.m - 1 - k.j0];
    __syncwarp();
  }
}

template <class T, class Minimum>
__global__ void __launch_bounds__(32) dtw_backward_kernel(const Dtw<T> call, cuda::Scratch<T> scratch) {
  using V = Warp<T>;
  constexpr int C = Tile<T>::kColumns, A = Minimum::kArrays;
  extern __shared__ __align__(16) char memory[];
  T* const cells = reinterpret_cast<T*>(memory);
  T* const row = cells + Tile<T>::kCells;  // 2 C at least: what the row below passes on takes two arrays
  T* const edge = row + 2 * C;
  T* const shares = edge + 2 * 32;
  const Scale<V> c = scale_of<T>(call.gamma);
  const Layout<Dtw<T>, T> layout(call, A);
  int* const flags = scratch.counters + 1;
  const int64_t border = 2 * (call.M + int64_t(layout.tile_columns) * layout.padded_rows);
  Tile<T> k;
  while (take(call, scratch.counters, true, k)) {
    const int64_t problem = k.b * call.N * call.M, tile = layout.tile(k.b, k.r, k.c);
    if (k.rows == 0) {
      write_tile(call.grad_cost + problem, cells, call.N, call.M, k, T(0));
      continue;
    }
    const bool last_row = k.i0 + 32 >= k.n, last_column = k.j0 + C >= k.m, inside = in_band(call, k);
    CostIo<T> io{cells, shares, k.columns};
    if (inside) {
      const DtwForwardChain<T, Minimum> f = stage_dtw<T, Minimum>(call, layout, k, cells, row, edge);
      dtw_forward_chain<V, Minimum, false, true>(f, c, io);
      __syncwarp();
      if (call.grad_table != nullptr) {
        read_tile(cells, call.grad_table + problem, call.M, k, T(0));
      } else {
        for (int q = lane_id(); q < Tile<T>::kCells; q += 32) cells[q] = T(0);
      }
      __syncwarp();
      if (last_row && last_column && call.grad_value != nullptr && call.state[k.b * call.state_size] < T(INFINITY) &&
          lane_id() == 0)
        cells[(k.n - 1 - k.i0) * Tile<T>::kStride + k.m - 1 - k.j0] += call.grad_value[k.b];
    } else {
      for (int q = lane_id(); q < Tile<T>::kCells; q += 32) cells[q] = T(0);
    }
    if (!last_row) wait_for(flags + layout.tile(k.b, k.r + 1, k.c));
    if (!last_column) wait_for(flags + layout.tile(k.b, k.r, k.c + 1));
    T* const row_below = scratch.values + k.b * border;  // up, to the diagonal
    T* const sides = row_below + 2 * call.M;             // to the left, to the diagonal, of each column of tiles
    T* const own_side = sides + int64_t(k.c) * 2 * layout.padded_rows + k.i0;
    if (inside) {
      for (int q = lane_id(); q < 2 * C; q += 32)
        row[q] = last_row || q % C >= k.columns ? T(0) : row_below[(q / C) * call.M + k.j0 + q % C];
      for (int array = 0; array < 2; ++array) edge[array * 32 + lane_id()] = T(0);
      DtwBackwardChain<T> s;
      s.columns = k.columns;
      s.strips = 1;
      s.row = {row, C};
      s.right = {edge, 32};
      s.left = {k.c > 0 ? own_side : nullptr, long(layout.padded_rows)};
      s.corner = 0;
      if (!last_column) {
        const T* const side = sides + int64_t(k.c + 1) * 2 * layout.padded_rows;
        s.right = {side + k.i0, long(layout.padded_rows)};
        if (!last_row) s.corner = side[layout.padded_rows + k.i0 + 32];
      }
      __syncwarp();
      dtw_backward_chain<V>(s, io);
    } else {
      for (int q = lane_id(); q < 2 * C; q += 32) row[q] = T(0);
      for (int array = 0; array < 2 && k.c > 0; ++array) own_side[array * layout.padded_rows + lane_id()] = T(0);
    }
    __syncwarp();
    if (k.r > 0) copy_rows(row_below + k.j0, call.M, row, C, 2, k.columns);
    announce(flags + tile);
    write_tile(call.grad_cost + problem, cells, call.N, call.M, k, T(0));
    __syncwarp();
  }
}

template <class T, class Minimum>
const char* launch_dtw(const Dtw<T>& call, cuda::Scratch<T> scratch, bool backward, void* stream) {
  using Tile = cuda_warp::Tile<T>;
  constexpr int A = Minimum::kArrays;
  if (!backward)
    return launch(dtw_forward_kernel<T, Minimum>, call, scratch, sizeof(T) * (Tile::kCells + A * (Tile::kColumns + 32)),
                  static_cast<cudaStream_t>(stream));
  const size_t shared = sizeof(T) * (Tile::kCells + 2 * (Tile::kColumns + 32) + size_t(Tile::kSteps) * kNumShares * 32);
  return launch(dtw_backward_kernel<T, Minimum>, call, scratch, shared, static_cast<cudaStream_t>(stream));
}

template <class T>
const char* launch_dtw(const Dtw<T>& call, cuda::Scratch<T> scratch, bool backward, void* stream) {
  return call.minimum == Minimum::soft ? launch_dtw<T, SoftMinimum<Warp<T>>>(call, scratch, backward, stream)
                                       : launch_dtw<T, SmoothMinimum<Warp<T>>>(call, scratch, backward, stream);
}

}  // namespace cuda_warp

namespace cuda {

template <class T>
const char* forward(const Dtw<T>& call, Scratch<T> scratch, void* stream) {
  return cuda_warp::launch_dtw(call, scratch, false, stream);
}

template <class T>
const char* backward(const Dtw<T>& call, Scratch<T> scratch, void* stream) {
  return cuda_warp::launch_dtw(call, scratch, true, stream);
}

template const char* forward(const Dtw<float>&, Scratch<float>, void*);
template const char* forward(const Dtw<double>&, Scratch<double>, void*);
template const char* backward(const Dtw<float>&, Scratch<float>, void*);
template const char* backward(const Dtw<double>&, Scratch<double>, void*);

}  // namespace cuda
}  // namespace lacray
