// Alignments as paths: the best one, or ones drawn from their distribution, by walking back through the transition
// probabilities of a forward pass. Tiles are recomputed as in the backward pass, and only those that a walk enters.
#pragma once

#include <vector>

#include "soft_sw_engine.h"

namespace lacray {
namespace LACRAY_ISA {

// The k-th number in [0, 1) of a stream: splitmix64 of a counter, so a walk does not depend on the others or on threads.
class Stream {
 public:
  Stream(int64_t seed, int64_t problem, int64_t walk)
      : state_(mix(mix(mix(uint64_t(seed)) + uint64_t(problem)) + uint64_t(walk))) {}
  double next() { return double(mix(state_ += 0x9e3779b97f4a7c15ull) >> 11) * 0x1p-53; }

 private:
  static uint64_t mix(uint64_t z) {
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  }
  uint64_t state_;
};

enum class Place { h, s, d, x, y, ended };  // as in cell.h: what the walk is in at its cell

struct Walk {
  int64_t i, j;
  Place place;
  int64_t length;
  Stream stream;
};

inline void place(Walk& walk, int64_t cell, Size size) {
  walk.i = cell / size.m;
  walk.j = cell % size.m;
  walk.place = Place::d;
}

// (count, 2), last pair first.
inline void reverse_path(int64_t* path, int64_t count) {
  for (int64_t k = 0; k < count / 2; ++k) std::swap_ranges(path + 2 * k, path + 2 * k + 2, path + 2 * (count - 1 - k));
}

// Where the walks begin: at h of the last cell, or at a match, by its share in Z.
inline void start_walks(const Walks& walks, int64_t b, Size size, std::vector<Walk>& all) {
  const SoftSw<double>& call = walks.call;
  for (int64_t k = 0; k < walks.num_walks; ++k) all.push_back({size.n - 1, size.m - 1, Place::h, 0, Stream(walks.seed, b, k)});
  const double score = call.score[b];
  if (size.n == 0 || !std::isfinite(score)) {
    for (Walk& walk : all) walk.place = Place::ended;
    return;
  }
  if (call.end_to_end) return;
  const double* const match = call.match + b * call.N * call.M;
  std::vector<std::pair<double, int64_t>> draws;
  for (int64_t k = 0; k < walks.num_walks; ++k) draws.push_back({walks.best ? 0 : all[size_t(k)].stream.next(), k});
  std::sort(draws.begin(), draws.end());
  double sum = 0;
  size_t next = 0;
  int64_t last = 0;
  for (int64_t cell = 0; cell < size.n * size.m; ++cell) {
    const double d = match[cell / size.m * call.M + cell % size.m];
    const double share = walks.best ? (d == score ? 1 : 0) : std::exp((d - score) / call.gamma);
    if (share > 0) last = cell;
    sum += share;
    for (; next < draws.size() && draws[next].first < sum; ++next) place(all[size_t(draws[next].second)], cell, size);
  }
  // Rounding may leave the sum a little short of 1.
  for (; next < draws.size(); ++next) place(all[size_t(draws[next].second)], last, size);
}

template <class V>
void walk_problem(const Walks& walks, const Engine<V>& engine, int64_t b) {
  const SoftSw<double>& call = walks.call;
  engine.forward(b, nullptr);
  const Size size = size_of(call, b);
  if (walks.best && !call.end_to_end) {
    const double* const match = call.match + b * call.N * call.M;
    double highest = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < size.n; ++i)
      for (int64_t j = 0; j < size.m; ++j) {
        const double d = match[i * call.M + j];
        if (!(d <= highest)) highest = d;  // a NaN stays
      }
    call.score[b] = highest;
  }
  std::vector<Walk> all;
  start_walks(walks, b, size, all);
  const typename Engine<V>::TileScratch scratch(engine);
  int64_t* const paths = walks.paths + b * walks.num_walks * walks.path_length * 2;
  std::fill_n(paths, walks.num_walks * walks.path_length * 2, int64_t(-1));
  sweep(nullptr, ceil_div(size.n, call.tile_rows), ceil_div(size.m, call.tile_columns), true, [&](int64_t r, int64_t c) {
    const int64_t i0 = r * call.tile_rows, j0 = c * call.tile_columns;
    bool computed = false;
    for (int64_t k = 0; k < walks.num_walks; ++k) {
      Walk& walk = all[size_t(k)];
      while (walk.place != Place::ended && walk.i >= i0 && walk.j >= j0) {
        if (!computed) engine.recompute_tile(b, size.n, size.m, r, c, scratch);
        computed = true;
        const double* const p = engine.cell_weights(size.n, size.m, walk.i, walk.j, scratch);
        auto share = [&](int q) { return p[q * V::W]; };  // in the order of Weights
        const double u = walk.stream.next();
        switch (walk.place) {
          case Place::h: {
            const double d = share(0), x = share(1), y = share(2);
            if (u < d) walk.place = Place::d;
            else if (u < d + x) walk.place = Place::x;
            else if (u < d + x + y) walk.place = Place::y;
            // From end to end the shares make 1, up to rounding.
            else if (call.end_to_end && d + x + y > 0.5) walk.place = y > 0 ? Place::y : x > 0 ? Place::x : Place::d;
            else walk.place = Place::ended;
            break;
          }
          case Place::s:
            walk.place = u < share(3) ? Place::d : Place::x;
            break;
          case Place::d: {
            int64_t* const out = paths + (k * walks.path_length + walk.length++) * 2;
            out[0] = walk.i--;
            out[1] = walk.j--;
            walk.place = walk.i < 0 || walk.j < 0 ? Place::ended : Place::h;
            break;
          }
          case Place::x:
            walk.place = u < share(4) ? Place::d : Place::x;
            if (--walk.j < 0) walk.place = Place::ended;
            break;
          default:
            walk.place = u < share(5) ? Place::s : Place::y;
            if (--walk.i < 0) walk.place = Place::ended;
        }
      }
    }
  });
  for (int64_t k = 0; k < walks.num_walks; ++k) reverse_path(paths + k * walks.path_length * 2, all[size_t(k)].length);
}

template <class V>
void run_walks(const Walks& walks, Parallel parallel) {
  struct Context {
    const Walks& walks;
    Engine<V> engine;
  } context{walks, Engine<V>(walks.call)};
  parallel(
      walks.call.B,
      [](void* c, int64_t b) { walk_problem<V>(static_cast<Context*>(c)->walks, static_cast<Context*>(c)->engine, b); }, &context);
}

// The best warping path of each problem: a plain dynamic programme with one byte a cell to trace it back.
inline void dtw_path(const DtwPath& call, int64_t b) {
  const Size size = size_of(call, b);
  const int64_t length = call.N + call.M - 1;
  int64_t* const path = call.paths + b * length * 2;
  std::fill_n(path, length * 2, int64_t(-1));
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  std::vector<double> above(size_t(size.m), kInfinity), row(size_t(size.m));
  std::vector<signed char> from(size_t(size.n * size.m));
  for (int64_t i = 0; i < size.n; ++i) {
    for (int64_t j = 0; j < size.m; ++j) {
      const double diagonal = i == 0 && j == 0 ? 0 : i == 0 || j == 0 ? kInfinity : above[size_t(j - 1)];
      const double up = above[size_t(j)], left = j == 0 ? kInfinity : row[size_t(j - 1)];
      // The first of equal ones: diagonal, above, left. A NaN is passed on.
      double least = diagonal;
      signed char way = 0;
      if (up < least || std::isnan(up)) least = up, way = 1;
      if (left < least || std::isnan(left)) least = left, way = 2;
      const bool inside = call.band < 0 || std::abs(i - j) <= call.band;
      row[size_t(j)] = inside ? call.cost[(b * call.N + i) * call.M + j] + least : kInfinity;
      from[size_t(i * size.m + j)] = way;
    }
    std::swap(row, above);
  }
  call.value[b] = size.n == 0 ? kInfinity : above[size_t(size.m - 1)];
  if (!std::isfinite(call.value[b])) return;
  int64_t count = 0;
  for (int64_t i = size.n - 1, j = size.m - 1; i >= 0 && j >= 0;) {
    path[2 * count] = i;
    path[2 * count++ + 1] = j;
    const signed char way = from[size_t(i * size.m + j)];
    i -= way != 2;
    j -= way != 1;
  }
  reverse_path(path, count);
}

}  // namespace LACRAY_ISA
}  // namespace lacray
