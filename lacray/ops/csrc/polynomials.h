// exp2 on [-0.5, 0.5] and log2 on [1, 2), to the last bit or two of the type.
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

// log2(m) for m in [1, 2), relative to its own size; 0 at 1 exactly.
template <class V>
LACRAY_INLINE typename V::R log2_series(typename V::R m) {
  using T = typename V::T;
  using R = typename V::R;
  if constexpr (sizeof(T) == 4) {
    // (m - 1) times a Chebyshev fit of degree 8, relative error 3.4e-8.
    const R u = V::sub(m, V::set1(1));
    R r = V::set1(T(0.007395402112248414));
    r = V::fma(r, u, V::set1(T(-0.04194500882618038)));
    r = V::fma(r, u, V::set1(T(0.11183207376218021)));
    r = V::fma(r, u, V::set1(T(-0.19623895175607226)));
    r = V::fma(r, u, V::set1(T(0.27522121226268376)));
    r = V::fma(r, u, V::set1(T(-0.3582990695742736)));
    r = V::fma(r, u, V::set1(T(0.48067888958949984)));
    r = V::fma(r, u, V::set1(T(-0.7213395131455262)));
    r = V::fma(r, u, V::set1(T(1.4426949917298633)));
    return V::mul(r, u);
  } else {
    // m brought to [0.71, 1.42), then log(m) = 2 artanh(u), u = (m - 1) / (m + 1), |u| <= 0.172.
    const auto large = V::less(V::set1(T(1.41421356237309504880)), m);
    const R n = V::select(large, V::mul(m, V::set1(T(0.5))), m);
    const R u = V::mul(V::sub(n, V::set1(1)), V::reciprocal(V::add(n, V::set1(1))));
    const R q = V::mul(u, u);
    R r = V::set1(T(2.0 / 21));
    r = V::fma(r, q, V::set1(T(2.0 / 19)));
    r = V::fma(r, q, V::set1(T(2.0 / 17)));
    r = V::fma(r, q, V::set1(T(2.0 / 15)));
    r = V::fma(r, q, V::set1(T(2.0 / 13)));
    r = V::fma(r, q, V::set1(T(2.0 / 11)));
    r = V::fma(r, q, V::set1(T(2.0 / 9)));
    r = V::fma(r, q, V::set1(T(2.0 / 7)));
    r = V::fma(r, q, V::set1(T(2.0 / 5)));
    r = V::fma(r, q, V::set1(T(2.0 / 3)));
    r = V::mul(u, V::fma(r, q, V::set1(T(2))));
    return V::fma(r, V::set1(T(1.4426950408889634074)), V::select(large, V::set1(1), V::set1(0)));
  }
}

}  // namespace LACRAY_ISA
}  // namespace lacray
