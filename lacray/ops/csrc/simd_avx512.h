// 16 floats or 8 doubles. Exponents are taken apart and put back by one instruction each.
// Rows lie in reverse, the last one in lane 0, which is the cheapest to store: one leaves at the bottom in every step.
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

struct Avx512Float {
  using T = float;
  using R = __m512;
  using K = __mmask16;
  using Flush = FlushDenormals;
  static constexpr bool kHard = false;
  static constexpr int W = 16;

  LACRAY_INLINE static R set1(T a) { return _mm512_set1_ps(a); }
  LACRAY_INLINE static R load(const T* p) { return _mm512_loadu_ps(p); }
  LACRAY_INLINE static void store(T* p, R a) { _mm512_storeu_ps(p, a); }
  LACRAY_INLINE static R add(R a, R b) { return _mm512_add_ps(a, b); }
  LACRAY_INLINE static R sub(R a, R b) { return _mm512_sub_ps(a, b); }
  LACRAY_INLINE static R mul(R a, R b) { return _mm512_mul_ps(a, b); }
  LACRAY_INLINE static R fma(R a, R b, R c) { return _mm512_fmadd_ps(a, b, c); }
  LACRAY_INLINE static R mul_sub(R a, R b, R c) { return _mm512_fmsub_ps(a, b, c); }
  LACRAY_INLINE static R max(R a, R b) { return _mm512_max_ps(a, b); }
  LACRAY_INLINE static R round(R a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  LACRAY_INLINE static K less(R a, R b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  LACRAY_INLINE static R select(K k, R a, R b) { return _mm512_mask_blend_ps(k, b, a); }
  LACRAY_INLINE static K lanes(int first, int last) {
    const unsigned up_to = last >= W ? 0xffffu : last < 0 ? 0u : (2u << last) - 1;
    return K(first <= 0 ? up_to : first >= W ? 0u : up_to & ~((1u << first) - 1));
  }
  LACRAY_INLINE static R reciprocal(R a) {
    const R r = _mm512_rcp14_ps(a);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, set1(1)), r);
  }
  LACRAY_INLINE static R mantissa(R a) { return _mm512_getmant_ps(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src); }
  LACRAY_INLINE static R exponent(R a) { return _mm512_getexp_ps(a); }
  LACRAY_INLINE static R scale(R m, R e) { return _mm512_scalef_ps(m, e); }
  LACRAY_INLINE static R exp2(R a) { return exp2_series<Avx512Float>(a); }
  LACRAY_INLINE static R log2(R a) { return log2_series<Avx512Float>(a); }
  LACRAY_INLINE static R down(R a, const T* last) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(a), _mm512_castps_si512(set1(*last)), W - 1));
  }
  LACRAY_INLINE static R up(R a, const T* first) {
    return _mm512_castsi512_ps(_mm512_alignr_epi32(_mm512_castps_si512(set1(*first)), _mm512_castps_si512(a), 1));
  }
  LACRAY_INLINE static void store_last(T* p, R a) { _mm_store_ss(p, _mm512_castps512_ps128(a)); }
  LACRAY_INLINE static void store_first(T* p, R a) {
    const __m128 high = _mm512_extractf32x4_ps(a, 3);
    _mm_store_ss(p, _mm_permute_ps(high, 3));
  }
  LACRAY_INLINE static int lane(int row) { return W - 1 - row; }
  LACRAY_INLINE static K rows(int first, int last) { return lanes(lane(last), lane(first)); }
  LACRAY_INLINE static R load_rows(const T* p) {
    return _mm512_permutexvar_ps(_mm512_set_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), load(p));
  }
  LACRAY_INLINE static void store_row(T* p, int row, R a) { _mm512_mask_storeu_ps(p + row - lane(row), K(1u << lane(row)), a); }
  LACRAY_INLINE static T sum(R a) { return _mm512_reduce_add_ps(a); }

  static constexpr bool kTransposes = true;
  LACRAY_INLINE static R load(const T* p, K k, R otherwise) { return _mm512_mask_loadu_ps(otherwise, k, p); }
  LACRAY_INLINE static void store(T* p, K k, R a) { _mm512_mask_storeu_ps(p, k, a); }
  // 16 x 16: pairs, fours, then quarters of registers.
  LACRAY_INLINE static void transpose(R* r) {
    R u[16];
    for (int g = 0; g < 16; g += 4) {
      const R a = _mm512_unpacklo_ps(r[g], r[g + 1]), b = _mm512_unpackhi_ps(r[g], r[g + 1]);
      const R c = _mm512_unpacklo_ps(r[g + 2], r[g + 3]), d = _mm512_unpackhi_ps(r[g + 2], r[g + 3]);
      u[g] = pairs<0>(a, c);
      u[g + 1] = pairs<1>(a, c);
      u[g + 2] = pairs<0>(b, d);
      u[g + 3] = pairs<1>(b, d);
    }
    for (int c = 0; c < 4; ++c) {
      const R a = _mm512_shuffle_f32x4(u[c], u[4 + c], 0x88), b = _mm512_shuffle_f32x4(u[c], u[4 + c], 0xdd);
      const R d = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0x88), e = _mm512_shuffle_f32x4(u[8 + c], u[12 + c], 0xdd);
      r[c] = _mm512_shuffle_f32x4(a, d, 0x88);
      r[4 + c] = _mm512_shuffle_f32x4(b, e, 0x88);
      r[8 + c] = _mm512_shuffle_f32x4(a, d, 0xdd);
      r[12 + c] = _mm512_shuffle_f32x4(b, e, 0xdd);
    }
  }

 private:
  template <int kHigh>
  LACRAY_INLINE static R pairs(R a, R b) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(kHigh ? _mm512_unpackhi_pd(x, y) : _mm512_unpacklo_pd(x, y));
  }
};

struct Avx512Double {
  using T = double;
  using R = __m512d;
  using K = __mmask8;
  using Flush = FlushDenormals;
  static constexpr bool kHard = false;
  static constexpr int W = 8;

  LACRAY_INLINE static R set1(T a) { return _mm512_set1_pd(a); }
  LACRAY_INLINE static R load(const T* p) { return _mm512_loadu_pd(p); }
  LACRAY_INLINE static void store(T* p, R a) { _mm512_storeu_pd(p, a); }
  LACRAY_INLINE static R add(R a, R b) { return _mm512_add_pd(a, b); }
  LACRAY_INLINE static R sub(R a, R b) { return _mm512_sub_pd(a, b); }
  LACRAY_INLINE static R mul(R a, R b) { return _mm512_mul_pd(a, b); }
  LACRAY_INLINE static R fma(R a, R b, R c) { return _mm512_fmadd_pd(a, b, c); }
  LACRAY_INLINE static R mul_sub(R a, R b, R c) { return _mm512_fmsub_pd(a, b, c); }
  LACRAY_INLINE static R max(R a, R b) { return _mm512_max_pd(a, b); }
  LACRAY_INLINE static R round(R a) { return _mm512_roundscale_pd(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  LACRAY_INLINE static K less(R a, R b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  LACRAY_INLINE static R select(K k, R a, R b) { return _mm512_mask_blend_pd(k, b, a); }
  LACRAY_INLINE static K lanes(int first, int last) {
    const unsigned up_to = last >= W ? 0xffu : last < 0 ? 0u : (2u << last) - 1;
    return K(first <= 0 ? up_to : first >= W ? 0u : up_to & ~((1u << first) - 1));
  }
  LACRAY_INLINE static R reciprocal(R a) { return _mm512_div_pd(set1(1), a); }
  LACRAY_INLINE static R mantissa(R a) { return _mm512_getmant_pd(a, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src); }
  LACRAY_INLINE static R exponent(R a) { return _mm512_getexp_pd(a); }
  LACRAY_INLINE static R scale(R m, R e) { return _mm512_scalef_pd(m, e); }
  LACRAY_INLINE static R exp2(R a) { return exp2_series<Avx512Double>(a); }
  LACRAY_INLINE static R log2(R a) { return log2_series<Avx512Double>(a); }
  LACRAY_INLINE static R down(R a, const T* last) {
    return _mm512_castsi512_pd(_mm512_alignr_epi64(_mm512_castpd_si512(a), _mm512_castpd_si512(set1(*last)), W - 1));
  }
  LACRAY_INLINE static R up(R a, const T* first) {
    return _mm512_castsi512_pd(_mm512_alignr_epi64(_mm512_castpd_si512(set1(*first)), _mm512_castpd_si512(a), 1));
  }
  LACRAY_INLINE static void store_last(T* p, R a) { _mm_store_sd(p, _mm512_castpd512_pd128(a)); }
  LACRAY_INLINE static void store_first(T* p, R a) { _mm_storeh_pd(p, _mm512_extractf64x2_pd(a, 3)); }
  LACRAY_INLINE static int lane(int row) { return W - 1 - row; }
  LACRAY_INLINE static K rows(int first, int last) { return lanes(lane(last), lane(first)); }
  LACRAY_INLINE static R load_rows(const T* p) { return _mm512_permutexvar_pd(_mm512_set_epi64(0, 1, 2, 3, 4, 5, 6, 7), load(p)); }
  LACRAY_INLINE static void store_row(T* p, int row, R a) { _mm512_mask_storeu_pd(p + row - lane(row), K(1u << lane(row)), a); }
  LACRAY_INLINE static T sum(R a) { return _mm512_reduce_add_pd(a); }
  static constexpr bool kTransposes = false;
};

}  // namespace LACRAY_ISA
}  // namespace lacray
