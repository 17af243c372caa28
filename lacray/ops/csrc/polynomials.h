// exp2 on [-0.5, 0.5] and log((1 + u) / (1 - u)) on |u| <= 0.172, to the last bit or two of the type.
#pragma once

#include "cell.h"

namespace lacray {
namespace LACRAY_ISA {

template <class V>
LACRAY_INLINE typename V::R exp2_series(typename V::R f) {
  using T = typename V::T;
  if constexpr (sizeof(T) == 4) {
    // Chebyshev fit of degree 6, error 2.5e-9.
    typename V::R r = V::set1(T(1.5461444724808513e-4));
    r = V::fma(r, f, V::set1(T(1.3400428177711937e-3)));
    r = V::fma(r, f, V::set1(T(9.61805667843204e-3)));
    r = V::fma(r, f, V::set1(T(5.550327226669895e-2)));
    r = V::fma(r, f, V::set1(T(2.4022650922289554e-1)));
    r = V::fma(r, f, V::set1(T(6.931472067028329e-1)));
    return V::fma(r, f, V::set1(T(1)));
  } else {
    // exp's own series: 0.3466^14 / 14! is 4e-18.
    const typename V::R x = V::mul(f, V::set1(T(0.693147180559945309417)));
    typename V::R r = V::set1(T(1.0 / 6227020800.0));
    r = V::fma(r, x, V::set1(T(1.0 / 479001600.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 39916800.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 3628800.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 362880.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 40320.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 5040.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 720.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 120.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 24.0)));
    r = V::fma(r, x, V::set1(T(1.0 / 6.0)));
    r = V::fma(r, x, V::set1(T(0.5)));
    r = V::fma(r, x, V::set1(T(1)));
    return V::fma(r, x, V::set1(T(1)));
  }
}

// log((1 + u) / (1 - u)) = 2 (u + u^3 / 3 + u^5 / 5 + ...)
template <class V>
LACRAY_INLINE typename V::R area_tangent_series(typename V::R u) {
  using T = typename V::T;
  const typename V::R q = V::mul(u, u);
  typename V::R r;
  if constexpr (sizeof(T) == 4) {
    r = V::set1(T(2.0 / 9));
  } else {
    r = V::set1(T(2.0 / 21));
    r = V::fma(r, q, V::set1(T(2.0 / 19)));
    r = V::fma(r, q, V::set1(T(2.0 / 17)));
    r = V::fma(r, q, V::set1(T(2.0 / 15)));
    r = V::fma(r, q, V::set1(T(2.0 / 13)));
    r = V::fma(r, q, V::set1(T(2.0 / 11)));
    r = V::fma(r, q, V::set1(T(2.0 / 9)));
  }
  r = V::fma(r, q, V::set1(T(2.0 / 7)));
  r = V::fma(r, q, V::set1(T(2.0 / 5)));
  r = V::fma(r, q, V::set1(T(2.0 / 3)));
  return V::mul(u, V::fma(r, q, V::set1(T(2))));
}

}  // namespace LACRAY_ISA
}  // namespace lacray
