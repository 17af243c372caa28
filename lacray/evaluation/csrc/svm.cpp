// The dual of a support vector machine of two classes, by sequential minimal optimisation.
//
// Two multipliers at a time, chosen by second-order information (Fan, Chen, Lin 2005, WSS 2); what libsvm does, in the same order
// and with the same roundings (kernel values in float, all else in double, no fused multiply-add), but for its shrinking: it sets
// multipliers at their bounds aside for a while, which changes the way and not the tolerance.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace {

// A row of a table is a multiple of so many places.
constexpr int64_t kLanes = 8;
// Rows and columns that are transposed at a time.
constexpr int64_t kSquare = 4;
constexpr int64_t kBlock = 4 * kLanes;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// In place of a curvature that is not positive: that of two equal frames.
constexpr double kLeastCurvature = 1e-12;
// Gains in float are right to four roundings of 2^-24, so that the largest in double is among those above this share of the
// largest.
constexpr float kNear = 1 - 1e-6f;

#define LACRAY_PUBLIC extern "C" __attribute__((visibility("default")))
#define LACRAY_INLINE inline __attribute__((always_inline))

// What a machine computes side by side, a divisor of kLanes: wider vectors than it has are taken apart at a great loss.
template <int64_t kWide>
struct Vectors {
  typedef double Doubles __attribute__((vector_size(kWide * 8)));
  typedef int64_t Longs __attribute__((vector_size(kWide * 8)));
  typedef float Floats __attribute__((vector_size(kWide * 4)));
  typedef int32_t Ints __attribute__((vector_size(kWide * 4)));
};

template <typename V, typename T>
LACRAY_INLINE void load(V& v, const T* p) {
  std::memcpy(&v, p, sizeof v);
}
// As doubles.
template <typename V>
LACRAY_INLINE void widen(V& v, const float* p) {
  float __attribute__((vector_size(sizeof v / 2))) f;
  std::memcpy(&f, p, sizeof f);
  v = __builtin_convertvector(f, V);
}
template <typename T, typename V>
LACRAY_INLINE void store(T* p, const V& v) {
  std::memcpy(p, &v, sizeof v);
}
template <typename V>
LACRAY_INLINE bool any(const V& v) {
  uint64_t parts[sizeof v / 8], all = 0;
  std::memcpy(parts, &v, sizeof parts);
  for (const uint64_t part : parts) all |= part;
  return all != 0;
}

// Four floats of four rows to four of four columns.
LACRAY_INLINE void transpose(const float* in, int64_t in_width, float* out, int64_t out_width) {
  Vectors<kSquare>::Floats rows[kSquare];
  for (int64_t r = 0; r < kSquare; ++r) load(rows[r], in + r * in_width);
  for (int64_t c = 0; c < kSquare; ++c)
    store(out + c * out_width, Vectors<kSquare>::Floats{rows[0][c], rows[1][c], rows[2][c], rows[3][c]});
}

// A frame's kernel with all of the first class, then with all of the second.
struct Row {
  const float* parts[2];
};

struct Problem {
  // Classes of n[0] and n[1] frames, y = +1 and -1. Rows of kernels, and alpha, hold width[c] >= n[c] places for a class, a
  // multiple of kLanes; the places beyond are never read as frames, and must be finite.
  const int64_t *n, *width;
  // [2 a + b]: (n[a], width[b]), the kernel of class a with class b; 1 of a frame with itself.
  const float* const* kernels;
  double C, tolerance;
  // Iterations.
  int64_t most;
  // (width[0] + width[1]) out: the multipliers, 0..C; and y - sum_k y_k alpha_k K.
  double *alpha, *slope;
  // 3 (width[0] + width[1]).
  double* scratch;
};

// The number of iterations, -1 where `most` did not do.
template <int64_t kWide>
LACRAY_INLINE int64_t walk(const Problem& problem) {
  using Doubles = typename Vectors<kWide>::Doubles;
  using Longs = typename Vectors<kWide>::Longs;
  using Floats = typename Vectors<kWide>::Floats;
  using Ints = typename Vectors<kWide>::Ints;
  const int64_t *const n = problem.n, *const width = problem.width;
  const double C = problem.C;
  double *const alpha = problem.alpha, *const slope = problem.slope;
  const int64_t first = width[0], all = width[0] + width[1];
  // Added to a slope, they take it out of the race: of multipliers that cannot be raised along y, or lowered.
  double* const raisable = problem.scratch;
  double* const lowerable = raisable + all;
  // Up to a whole block, which fits: there are two lanes' worth of frames at least.
  float* const gains = reinterpret_cast<float*>(lowerable + all);
  std::memset(gains, 0, 2 * all * sizeof *gains);
  for (int64_t t = 0; t < all; ++t) {
    const bool is_first = t < first, is_real = is_first ? t < n[0] : t - first < n[1];
    alpha[t] = 0;
    slope[t] = is_first ? 1 : -1;
    raisable[t] = is_real && is_first ? 0 : -kInfinity;
    lowerable[t] = is_real && !is_first ? 0 : kInfinity;
  }
  // Of equals the last, here and below.
  int64_t i = n[0] - 1;
  double highest = 1, lowest = -1;
  Longs iota;
  for (int64_t lane = 0; lane < kWide; ++lane) iota[lane] = lane;
  for (int64_t iteration = 0; iteration < problem.most; ++iteration) {
    if (!(highest - lowest >= problem.tolerance)) return iteration;
    const auto row_of = [&](int64_t t) {
      const int64_t a = t < first ? 0 : 1, place = t - a * first;
      return Row{{problem.kernels[2 * a] + place * width[0], problem.kernels[2 * a + 1] + place * width[1]}};
    };
    const Row row_i = row_of(i);
    // With i, the one that promises most: in float, which divides three times as fast, then in double those that come near.
    Floats most_gain = Floats{};
    for (int part = 0; part < 2; ++part) {
      const int64_t offset = part * first;
      for (int64_t t = 0; t < width[part]; t += kWide) {
        Doubles own, bias;
        Floats kernel;
        load(own, slope + offset + t);
        load(bias, lowerable + offset + t);
        load(kernel, row_i.parts[part] + t);
        // Out of the race the gap is -inf.
        Floats gap = __builtin_convertvector(highest - (own + bias), Floats);
        gap = gap > 0.0f ? gap : Floats{};
        Floats half = 1.0f - kernel;
        half = half > float(kLeastCurvature / 2) ? half : Floats{} + float(kLeastCurvature / 2);
        const Floats gain = gap * gap / half;
        store(gains + offset + t, gain);
        most_gain = gain > most_gain ? gain : most_gain;
      }
    }
    float near = 0;
    for (int64_t lane = 0; lane < kWide; ++lane) near = most_gain[lane] > near ? most_gain[lane] : near;
    near *= kNear;
    int64_t j = -1;
    double best = -kInfinity;
    for (int64_t block = 0; block < all; block += kBlock) {
      Ints is_near = Ints{};
      for (int64_t t = block; t < block + kBlock; t += kWide) {
        Floats gain;
        load(gain, gains + t);
        is_near |= gain >= near;
      }
      if (!any(is_near)) continue;
      for (int64_t t = block; t < block + kBlock; ++t) {
        if (gains[t] < near) continue;
        const double gap = highest - (slope[t] + lowerable[t]);
        double curvature = 2.0 - 2.0 * double(t < first ? row_i.parts[0][t] : row_i.parts[1][t - first]);
        if (curvature <= 0) curvature = kLeastCurvature;
        const double exact = gap * gap / curvature;
        if (exact >= best) best = exact, j = t;
      }
    }
    if (j < 0) return iteration;
    const Row row_j = row_of(j);

    // The minimum along the line that keeps sum y alpha, within the bounds.
    const bool same = (i < first) == (j < first);
    const double y_i = i < first ? 1 : -1, y_j = j < first ? 1 : -1;
    double curvature = 2.0 - 2.0 * double(j < first ? row_i.parts[0][j] : row_i.parts[1][j - first]);
    if (curvature <= 0) curvature = kLeastCurvature;
    const double old_i = alpha[i], old_j = alpha[j];
    const double gradient_i = -y_i * slope[i], gradient_j = -y_j * slope[j];
    double new_i = old_i, new_j = old_j;
    if (same) {
      const double step = (gradient_i - gradient_j) / curvature, sum = old_i + old_j;
      new_i -= step, new_j += step;
      if (sum > C) {
        if (new_i > C) new_i = C, new_j = sum - C;
      } else if (new_j < 0) {
        new_j = 0, new_i = sum;
      }
      if (sum > C) {
        if (new_j > C) new_j = C, new_i = sum - C;
      } else if (new_i < 0) {
        new_i = 0, new_j = sum;
      }
    } else {
      const double step = (-gradient_i - gradient_j) / curvature, difference = old_i - old_j;
      new_i += step, new_j += step;
      if (difference > 0) {
        if (new_j < 0) new_j = 0, new_i = difference;
      } else if (new_i < 0) {
        new_i = 0, new_j = -difference;
      }
      if (difference > 0) {
        if (new_i > C) new_i = C, new_j = C - difference;
      } else if (new_j > C) {
        new_j = C, new_i = C + difference;
      }
    }
    alpha[i] = new_i, alpha[j] = new_j;
    for (const int64_t t : {i, j}) {
      const bool below = alpha[t] < C, above = alpha[t] > 0;
      raisable[t] = (t < first ? below : above) ? 0 : -kInfinity;
      lowerable[t] = (t < first ? above : below) ? 0 : kInfinity;
    }

    const double change_i = y_i * (new_i - old_i), change_j = y_j * (new_j - old_j);
    Doubles highs = Doubles{} - kInfinity, lows = Doubles{} + kInfinity;
    Longs at = Longs{} - 1;
    for (int part = 0; part < 2; ++part) {
      const int64_t offset = part * first;
      for (int64_t t = 0; t < width[part]; t += kWide) {
        Doubles own, kernel_i, kernel_j, up, down;
        load(own, slope + offset + t);
        widen(kernel_i, row_i.parts[part] + t);
        widen(kernel_j, row_j.parts[part] + t);
        load(up, raisable + offset + t);
        load(down, lowerable + offset + t);
        own -= kernel_i * change_i + kernel_j * change_j;
        store(slope + offset + t, own);
        up += own, down += own;
        const Longs is_higher = up >= highs;
        highs = is_higher ? up : highs;
        at = is_higher ? iota + (offset + t) : at;
        lows = down < lows ? down : lows;
      }
    }
    highest = -kInfinity, lowest = kInfinity, i = -1;
    for (int64_t lane = 0; lane < kWide; ++lane) {
      if (highs[lane] > highest || (highs[lane] == highest && at[lane] > i)) highest = highs[lane], i = at[lane];
      if (lows[lane] < lowest) lowest = lows[lane];
    }
  }
  return -1;
}

}  // namespace

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static int64_t walk_avx512(const Problem& problem) { return walk<8>(problem); }
__attribute__((target("avx2"))) static int64_t walk_avx2(const Problem& problem) { return walk<4>(problem); }
#endif

// How many doubles this processor takes side by side.
LACRAY_PUBLIC int64_t lacray_lanes() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return 8;
  if (__builtin_cpu_supports("avx2")) return 4;
#endif
  return 2;
}

// As Problem has it, with no more lanes than there are.
LACRAY_PUBLIC int64_t lacray_svm(int64_t lanes, const int64_t* n, const int64_t* width, const float* const* kernels, double C,
                                 double tolerance, int64_t most, double* alpha, double* slope, double* scratch) {
  const Problem problem = {n, width, kernels, C, tolerance, most, alpha, slope, scratch};
#if defined(__x86_64__)
  if (lanes == 8) return walk_avx512(problem);
  if (lanes == 4) return walk_avx2(problem);
#endif
  (void)lanes;
  return walk<2>(problem);
}

// The transpose (columns, rows) of a tile (rows, columns), in tables of rows of in_width and of out_width.
LACRAY_PUBLIC void lacray_transpose(int64_t rows, int64_t columns, const float* in, int64_t in_width, float* out,
                                    int64_t out_width) {
  for (int64_t c = 0; c < columns; c += kSquare)
    for (int64_t r = 0; r < rows; r += kSquare) {
      const float* const from = in + r * in_width + c;
      float* const to = out + c * out_width + r;
      if (r + kSquare <= rows && c + kSquare <= columns) {
        transpose(from, in_width, to, out_width);
      } else {
        for (int64_t j = 0; j < kSquare && c + j < columns; ++j)
          for (int64_t i = 0; i < kSquare && r + i < rows; ++i) to[j * out_width + i] = from[i * in_width + j];
      }
    }
}
