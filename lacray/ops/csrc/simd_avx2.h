// 8 floats or 4 doubles. Rows lie in reverse, the last one in lane 0, which is the cheapest to store.
#pragma once

#include <immintrin.h>

#include "polynomials.h"

namespace lacray {
namespace LACRAY_ISA {

// Denormals cost hundreds of cycles and are worth less than 1e-30 of any sum here: flushed while the engine runs.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
};

struct Avx2Float {
  using T = float;
  using R = __m256;
  using K = __m256;
  using Flush = FlushDenormals;
  static constexpr bool kHard = false;
  static constexpr int W = 8;

  LACRAY_INLINE static R set1(T a) { return _mm256_set1_ps(a); }
  LACRAY_INLINE static R load(const T* p) { return _mm256_loadu_ps(p); }
  LACRAY_INLINE static void store(T* p, R a) { _mm256_storeu_ps(p, a); }
  LACRAY_INLINE static R add(R a, R b) { return _mm256_add_ps(a, b); }
  LACRAY_INLINE static R sub(R a, R b) { return _mm256_sub_ps(a, b); }
  LACRAY_INLINE static R mul(R a, R b) { return _mm256_mul_ps(a, b); }
  LACRAY_INLINE static R fma(R a, R b, R c) { return _mm256_fmadd_ps(a, b, c); }
  LACRAY_INLINE static R mul_sub(R a, R b, R c) { return _mm256_fmsub_ps(a, b, c); }
  LACRAY_INLINE static R max(R a, R b) { return _mm256_max_ps(a, b); }
  LACRAY_INLINE static R round(R a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  LACRAY_INLINE static K less(R a, R b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  LACRAY_INLINE static R select(K k, R a, R b) { return _mm256_blendv_ps(b, a, k); }
  LACRAY_INLINE static K lanes(int first, int last) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i outside =
        _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), lane), _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(last)));
    return _mm256_castsi256_ps(_mm256_xor_si256(outside, _mm256_set1_epi32(-1)));
  }
  LACRAY_INLINE static R reciprocal(R a) { return _mm256_div_ps(set1(1), a); }
  LACRAY_INLINE static R mantissa(R a) {
    const R m = _mm256_or_ps(_mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x007fffff))), set1(1));
    return select(_mm256_cmp_ps(a, a, _CMP_UNORD_Q), a, m);
  }
  LACRAY_INLINE static R exponent(R a) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(_mm256_castps_si256(a), 23), _mm256_set1_epi32(127)));
  }
  LACRAY_INLINE static R scale(R m, R e) {
    const R clamped = _mm256_min_ps(_mm256_max_ps(e, set1(-127)), set1(127));
    const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(clamped), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(m, _mm256_castsi256_ps(power));
  }
  LACRAY_INLINE static R exp2(R a) { return exp2_series<Avx2Float>(a); }
  LACRAY_INLINE static R log2(R a) { return log2_series<Avx2Float>(a); }
  LACRAY_INLINE static R down(R a, const T* last) {
    return _mm256_blend_ps(_mm256_permutevar8x32_ps(a, _mm256_setr_epi32(7, 0, 1, 2, 3, 4, 5, 6)), set1(*last), 1);
  }
  LACRAY_INLINE static R up(R a, const T* first) {
    return _mm256_blend_ps(_mm256_permutevar8x32_ps(a, _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0)), set1(*first), 128);
  }
  LACRAY_INLINE static void store_last(T* p, R a) { _mm_store_ss(p, _mm256_castps256_ps128(a)); }
  LACRAY_INLINE static void store_first(T* p, R a) { _mm_store_ss(p, _mm_permute_ps(_mm256_extractf128_ps(a, 1), 3)); }
  LACRAY_INLINE static int lane(int row) { return W - 1 - row; }
  LACRAY_INLINE static K rows(int first, int last) { return lanes(lane(last), lane(first)); }
  LACRAY_INLINE static R load_rows(const T* p) {
    return _mm256_permutevar8x32_ps(load(p), _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0));
  }
  LACRAY_INLINE static void store_row(T* p, int row, R a) {
    _mm256_maskstore_ps(p + row - lane(row), _mm256_castps_si256(rows(row, row)), a);
  }
  LACRAY_INLINE static T sum(R a) {
    alignas(32) T v[W];
    store(v, a);
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
  }

  static constexpr bool kTransposes = true;
  LACRAY_INLINE static R load(const T* p, K k, R otherwise) {
    return _mm256_blendv_ps(otherwise, _mm256_maskload_ps(p, _mm256_castps_si256(k)), k);
  }
  LACRAY_INLINE static void store(T* p, K k, R a) { _mm256_maskstore_ps(p, _mm256_castps_si256(k), a); }
  // 8 x 8: pairs, fours, then halves of registers.
  LACRAY_INLINE static void transpose(R* r) {
    R u[8];
    for (int g = 0; g < 8; g += 4) {
      const R a = _mm256_unpacklo_ps(r[g], r[g + 1]), b = _mm256_unpackhi_ps(r[g], r[g + 1]);
      const R c = _mm256_unpacklo_ps(r[g + 2], r[g + 3]), d = _mm256_unpackhi_ps(r[g + 2], r[g + 3]);
      u[g] = _mm256_shuffle_ps(a, c, 0x44);
      u[g + 1] = _mm256_shuffle_ps(a, c, 0xee);
      u[g + 2] = _mm256_shuffle_ps(b, d, 0x44);
      u[g + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int c = 0; c < 4; ++c) {
      r[c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x20);
      r[4 + c] = _mm256_permute2f128_ps(u[c], u[4 + c], 0x31);
    }
  }
};

struct Avx2Double {
  using T = double;
  using R = __m256d;
  using K = __m256d;
  using Flush = FlushDenormals;
  static constexpr bool kHard = false;
  static constexpr int W = 4;

  LACRAY_INLINE static R set1(T a) { return _mm256_set1_pd(a); }
  LACRAY_INLINE static R load(const T* p) { return _mm256_loadu_pd(p); }
  LACRAY_INLINE static void store(T* p, R a) { _mm256_storeu_pd(p, a); }
  LACRAY_INLINE static R add(R a, R b) { return _mm256_add_pd(a, b); }
  LACRAY_INLINE static R sub(R a, R b) { return _mm256_sub_pd(a, b); }
  LACRAY_INLINE static R mul(R a, R b) { return _mm256_mul_pd(a, b); }
  LACRAY_INLINE static R fma(R a, R b, R c) { return _mm256_fmadd_pd(a, b, c); }
  LACRAY_INLINE static R mul_sub(R a, R b, R c) { return _mm256_fmsub_pd(a, b, c); }
  LACRAY_INLINE static R max(R a, R b) { return _mm256_max_pd(a, b); }
  LACRAY_INLINE static R round(R a) { return _mm256_round_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  LACRAY_INLINE static K less(R a, R b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  LACRAY_INLINE static R select(K k, R a, R b) { return _mm256_blendv_pd(b, a, k); }
  LACRAY_INLINE static K lanes(int first, int last) {
    const __m256i lane = _mm256_setr_epi64x(0, 1, 2, 3);
    const __m256i outside =
        _mm256_or_si256(_mm256_cmpgt_epi64(_mm256_set1_epi64x(first), lane), _mm256_cmpgt_epi64(lane, _mm256_set1_epi64x(last)));
    return _mm256_castsi256_pd(_mm256_xor_si256(outside, _mm256_set1_epi64x(-1)));
  }
  LACRAY_INLINE static R reciprocal(R a) { return _mm256_div_pd(set1(1), a); }
  LACRAY_INLINE static R mantissa(R a) {
    const R m = _mm256_or_pd(_mm256_and_pd(a, _mm256_castsi256_pd(_mm256_set1_epi64x(0x000fffffffffffff))), set1(1));
    return select(_mm256_cmp_pd(a, a, _CMP_UNORD_Q), a, m);
  }
  // The exponent field becomes the low bits of 2^52, from which 2^52 is taken off: there is no conversion of 64-bit integers.
  LACRAY_INLINE static R exponent(R a) {
    const R magic = set1(4503599627370496.0);
    const __m256i field = _mm256_srli_epi64(_mm256_castpd_si256(a), 52);
    return _mm256_sub_pd(_mm256_castsi256_pd(_mm256_or_si256(field, _mm256_castpd_si256(magic))), set1(4503599627370496.0 + 1023));
  }
  LACRAY_INLINE static R scale(R m, R e) {
    const R clamped = _mm256_min_pd(_mm256_max_pd(e, set1(-1023)), set1(1023));
    const R shifted = _mm256_add_pd(clamped, set1(4503599627370496.0 + 1023));
    return _mm256_mul_pd(m, _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(shifted), 52)));
  }
  LACRAY_INLINE static R exp2(R a) { return exp2_series<Avx2Double>(a); }
  LACRAY_INLINE static R log2(R a) { return log2_series<Avx2Double>(a); }
  LACRAY_INLINE static R down(R a, const T* last) {
    return _mm256_blend_pd(_mm256_permute4x64_pd(a, _MM_SHUFFLE(2, 1, 0, 3)), set1(*last), 1);
  }
  LACRAY_INLINE static R up(R a, const T* first) {
    return _mm256_blend_pd(_mm256_permute4x64_pd(a, _MM_SHUFFLE(0, 3, 2, 1)), set1(*first), 8);
  }
  LACRAY_INLINE static void store_last(T* p, R a) { _mm_store_sd(p, _mm256_castpd256_pd128(a)); }
  LACRAY_INLINE static void store_first(T* p, R a) { _mm_storeh_pd(p, _mm256_extractf128_pd(a, 1)); }
  LACRAY_INLINE static int lane(int row) { return W - 1 - row; }
  LACRAY_INLINE static K rows(int first, int last) { return lanes(lane(last), lane(first)); }
  LACRAY_INLINE static R load_rows(const T* p) { return _mm256_permute4x64_pd(load(p), _MM_SHUFFLE(0, 1, 2, 3)); }
  LACRAY_INLINE static void store_row(T* p, int row, R a) {
    _mm256_maskstore_pd(p + row - lane(row), _mm256_castpd_si256(rows(row, row)), a);
  }
  LACRAY_INLINE static T sum(R a) {
    alignas(32) T v[W];
    store(v, a);
    return (v[0] + v[1]) + (v[2] + v[3]);
  }
  static constexpr bool kTransposes = false;
};

}  // namespace LACRAY_ISA
}  // namespace lacray
