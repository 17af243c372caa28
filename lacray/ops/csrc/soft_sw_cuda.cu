// The CUDA engine of soft Smith-Waterman.
#include "cuda_tiles.h"
#include "strip.h"

namespace lacray {
namespace cuda_warp {

template <class T>
using SoftSwLayout = Layout<SoftSw<T>, T>;

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
  __device__ __forceinline__ GapWeights<Ext<V>> gaps(int t, const Scale<V>& c) const {
    if (go == nullptr) return {a, b};
    return {power<V>(real(t) ? go[at(t)] : T(0), c.down), power<V>(real(t) ? ge[at(t)] : T(0), c.down)};
  }
  __device__ __forceinline__ void put_match(int t, T d) {
    if (real(t)) s[at(t)] = d;
  }
  __device__ __forceinline__ T* weight(int t, int q) const { return weights + (t * kNumWeights + q) * 32 + lane_id(); }
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
  }
  __device__ __forceinline__ T grad_match(int t) const { return has_grad && cells.real(t) ? g[cells.at(t)] : T(0); }
  __device__ __forceinline__ void put_gradients(int t, const Adjoint<V>& a, int, int) {
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
    io.a = power<V>(call.gap_open[k.b * call.gap_step], c.down);
    io.b = power<V>(call.gap_extend[k.b * call.gap_step], c.down);
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
__device__ ForwardChain<T> borders(const SoftSw<T>& call, const SoftSwLayout<T>& layout, const Tile<T>& k, T* row, T* edge) {
  constexpr int C = Tile<T>::kColumns;
  const T start = call.end_to_end ? T(kZero) : T(0);
  auto outside = [&](int array) { return array == 1 ? start : array % 2 == 0 ? T(1) : T(kZero); };
  for (int q = lane_id(); q < 6 * C; q += 32) {
    const int array = q / C, column = q % C;
    row[q] = k.r > 0 && column < k.columns ? layout.row(k.b, k.r)[array * call.M + k.j0 + column] : outside(array);
  }
  for (int array = 0; array < 6; ++array) edge[array * 32 + lane_id()] = outside(array);
  ForwardChain<T> f;
  f.columns = k.columns;
  f.strips = 1;
  f.left_step = 0;
  f.start = start;
  f.row = {row, C};
  f.left = {edge, 32};
  f.right = {nullptr, 0};
  f.corner_m = 1;
  f.corner_e = k.r == 0 && k.c == 0 ? T(0) : start;
  if (k.c > 0) {
    const T* const column = layout.column(k.b, k.c);
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
  const Scale<V> c = scale_of<T>(call.gamma);
  const SoftSwLayout<T> layout(call, kSoftSwArrays);
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
    ForwardChain<T> f = borders(call, layout, k, row, edge);
    if (k.j0 + k.columns < k.m) f.right = {layout.column(k.b, k.c + 1) + k.i0, long(layout.padded_rows)};
    else if (call.end_to_end) f.right = {edge, 32};  // every lane has read its own edge by then
    __syncwarp();
    Ext<V> z = constant<V>(1, T(kZero));
    forward_chain<V, false>(f, c, constant<V>(1, 0), io, z);
    __syncwarp();
    if (k.i0 + 32 < k.n) copy_rows(layout.row(k.b, k.r + 1) + k.j0, call.M, row, C, 6, k.columns);
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
      if (call.end_to_end) total = {edge[k.n - 1 - k.i0], edge[32 + k.n - 1 - k.i0]};
      if (lane_id() == 0) {
        // The exponent that a NaN comes with says nothing: it is neither zero nor forbidden, and its gradient is NaN.
        const Ext<V> unit = isnan(total.m) ? constant<V>(total.m, T(0)) : normal<V>(total.m, total.e);
        state[0] = unit.m;
        state[1] = unit.e;
        call.score[k.b] = unit.e < T(kForbidden) ? T(-INFINITY)
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
  const Scale<V> c = scale_of<T>(call.gamma);
  const SoftSwLayout<T> layout(call, kSoftSwArrays);
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
    ForwardChain<T> f = borders(call, layout, k, row, edge);
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
    forward_chain<V, true>(f, c, call.end_to_end ? constant<V>(1, T(kZero)) : constant<V>(T(1) / state[0], -state[1]), io, unused);
    __syncwarp();

    if (!last_row) wait_for(flags + layout.tile(k.b, k.r + 1, k.c));
    if (!last_column) wait_for(flags + layout.tile(k.b, k.r, k.c + 1));
    T* const row_below = scratch.values + k.b * border;  // pd, ys, yy
    T* const sides = row_below + 3 * call.M;             // pd, xd, xx of the first column of each column of tiles
    for (int q = lane_id(); q < 3 * C; q += 32)
      row[q] = last_row || q % C >= k.columns ? T(0) : row_below[(q / C) * call.M + k.j0 + q % C];
    for (int array = 0; array < 3; ++array) edge[array * 32 + lane_id()] = T(0);
    BackwardChain<T> s;
    s.columns = k.columns;
    s.strips = 1;
    s.row = {row, C};
    s.right = {edge, 32};
    s.left = {nullptr, 0};
    s.corner = 0;
    const T grad_score = call.grad_score != nullptr && state[1] >= T(kForbidden) ? call.grad_score[k.b] : T(0);
    if (call.end_to_end && last_row && last_column) {
      // Z is h of the last cell: its gradient comes from beyond the corner.
      if (k.n - k.i0 < 32 && lane_id() == k.n - k.i0) edge[lane_id()] = grad_score;
      if (k.n - k.i0 == 32) s.corner = grad_score;
    }
    if (!last_column) {
      const T* const side = sides + int64_t(k.c + 1) * 3 * layout.padded_rows;
      s.right = {side + k.i0, long(layout.padded_rows)};
      if (!last_row) s.corner = side[k.i0 + 32];
    }
    if (k.c > 0) s.left = {sides + int64_t(k.c) * 3 * layout.padded_rows + k.i0, long(layout.padded_rows)};
    __syncwarp();
    const bool own_cells = gaps && !scalar;
    AdjointIo<T> adjoint{io,
                         g,
                         own_cells ? cells + Tile<T>::kCells : nullptr,
                         own_cells ? cells + 2 * Tile<T>::kCells : nullptr,
                         call.grad_match != nullptr,
                         T(0),
                         T(0)};
    backward_chain<V>(s, call.end_to_end ? T(0) : grad_score, adjoint);
    __syncwarp();
    if (k.r > 0) copy_rows(row_below + k.j0, call.M, row, C, 3, k.columns);
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
      sizeof(T) * (4 * Tile::kCells + 6 * Tile::kColumns + 6 * 32 + size_t(Tile::kSteps) * cuda_warp::kNumWeights * 32);
  return cuda_warp::launch(cuda_warp::backward_kernel<T>, call, scratch, shared, static_cast<cudaStream_t>(stream));
}

template const char* forward(const SoftSw<float>&, Scratch<float>, void*);
template const char* forward(const SoftSw<double>&, Scratch<double>, void*);
template const char* backward(const SoftSw<float>&, Scratch<float>, void*);
template const char* backward(const SoftSw<double>&, Scratch<double>, void*);

}  // namespace cuda
}  // namespace lacray
