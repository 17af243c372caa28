// W lanes as an array: the portable engine, and the one that the sanitizers run.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "polynomials.h"

namespace lacray {
namespace LACRAY_ISA {

template <class T_>
struct Bits;
template <>
struct Bits<float> {
  using I = int32_t;
  static constexpr int kFraction = 23, kBias = 127;
};
template <>
struct Bits<double> {
  using I = int64_t;
  static constexpr int kFraction = 52, kBias = 1023;
};

struct NoFlush {};

template <class T_, int W_>
struct Plain {
  using T = T_;
  using Flush = NoFlush;
  using I = typename Bits<T>::I;
  static constexpr int W = W_;
  struct R {
    T v[W];
  };
  struct K {
    bool v[W];
  };

  template <class F>
  LACRAY_INLINE static R map(F f) {
    R r;
    for (int l = 0; l < W; ++l) r.v[l] = f(l);
    return r;
  }
  LACRAY_INLINE static R set1(T a) { return map([&](int) { return a; }); }
  LACRAY_INLINE static R load(const T* p) { return map([&](int l) { return p[l]; }); }
  LACRAY_INLINE static void store(T* p, R a) { std::memcpy(p, a.v, sizeof a.v); }
  LACRAY_INLINE static R add(R a, R b) { return map([&](int l) { return a.v[l] + b.v[l]; }); }
  LACRAY_INLINE static R sub(R a, R b) { return map([&](int l) { return a.v[l] - b.v[l]; }); }
  LACRAY_INLINE static R mul(R a, R b) { return map([&](int l) { return a.v[l] * b.v[l]; }); }
  LACRAY_INLINE static R fma(R a, R b, R c) { return map([&](int l) { return a.v[l] * b.v[l] + c.v[l]; }); }
  // a * b - product, exactly.
  LACRAY_INLINE static R mul_error(R a, R b, R product) {
    return map([&](int l) {
      if constexpr (sizeof(T) == 4) return T(double(a.v[l]) * double(b.v[l]) - double(product.v[l]));
      else return std::fma(a.v[l], b.v[l], -product.v[l]);
    });
  }
  // b where the two do not compare, as the vector instructions have it.
  LACRAY_INLINE static R max(R a, R b) { return map([&](int l) { return a.v[l] > b.v[l] ? a.v[l] : b.v[l]; }); }
  // To the nearest integer: in [2^23, 2^24) floats are the integers. Beyond that a is one already. Faster than a call.
  LACRAY_INLINE static R round(R a) {
    constexpr T kIntegers = T(I(1) << Bits<T>::kFraction);
    return map([&](int l) {
      const T size = std::fabs(a.v[l]);
      const T rounded = (size + kIntegers) - kIntegers;
      return size < kIntegers ? std::copysign(rounded, a.v[l]) : a.v[l];
    });
  }
  LACRAY_INLINE static K less(R a, R b) {
    K k;
    for (int l = 0; l < W; ++l) k.v[l] = a.v[l] < b.v[l];
    return k;
  }
  LACRAY_INLINE static R select(K k, R a, R b) { return map([&](int l) { return k.v[l] ? a.v[l] : b.v[l]; }); }
  LACRAY_INLINE static K lanes(int first, int last) {
    K k;
    for (int l = 0; l < W; ++l) k.v[l] = l >= first && l <= last;
    return k;
  }
  LACRAY_INLINE static R reciprocal(R a) { return map([&](int l) { return T(1) / a.v[l]; }); }
  // For normal positive values: a = mantissa * 2^exponent with mantissa in [1, 2). A NaN stays one.
  LACRAY_INLINE static R mantissa(R a) {
    return map([&](int l) {
      I i;
      std::memcpy(&i, &a.v[l], sizeof i);
      i = (i & ((I(1) << Bits<T>::kFraction) - 1)) | (I(Bits<T>::kBias) << Bits<T>::kFraction);
      T m;
      std::memcpy(&m, &i, sizeof m);
      return a.v[l] == a.v[l] ? m : a.v[l];
    });
  }
  LACRAY_INLINE static R exponent(R a) {
    return map([&](int l) {
      I i;
      std::memcpy(&i, &a.v[l], sizeof i);
      return T((i >> Bits<T>::kFraction) - Bits<T>::kBias);
    });
  }
  // m * 2^e for e <= 127 (1023); 0 where 2^e is not a normal number.
  LACRAY_INLINE static R scale(R m, R e) {
    return map([&](int l) {
      const T low = T(-Bits<T>::kBias), high = T(Bits<T>::kBias);
      const T c = e.v[l] > low ? (e.v[l] < high ? e.v[l] : high) : low;
      const I i = (I(c) + Bits<T>::kBias) << Bits<T>::kFraction;
      T power;
      std::memcpy(&power, &i, sizeof power);
      return m.v[l] * power;
    });
  }
  LACRAY_INLINE static R exp2(R a) { return exp2_series<Plain>(a); }
  LACRAY_INLINE static R area_tangent(R a) { return area_tangent_series<Plain>(a); }

  // Lane l takes lane l - 1; lane 0 takes *first.
  LACRAY_INLINE static R up(R a, const T* first) { return map([&](int l) { return l == 0 ? *first : a.v[l - 1]; }); }
  LACRAY_INLINE static R down(R a, const T* last) { return map([&](int l) { return l == W - 1 ? *last : a.v[l + 1]; }); }
  LACRAY_INLINE static void store_first(T* p, R a) { *p = a.v[0]; }
  LACRAY_INLINE static void store_last(T* p, R a) { *p = a.v[W - 1]; }
  // p[lane] = a[lane]
  LACRAY_INLINE static void store_lane(T* p, int lane, R a) { p[lane] = a.v[lane]; }
  LACRAY_INLINE static T sum(R a) {
    T s = 0;
    for (int l = 0; l < W; ++l) s += a.v[l];
    return s;
  }
};

}  // namespace LACRAY_ISA
}  // namespace lacray
