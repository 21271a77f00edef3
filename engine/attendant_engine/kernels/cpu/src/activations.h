// The nonlinearities of the models over a float vector, each within a few units in the last place of its formula.
//
// Rational approximations of erf and tanh of our own fit (relative error below 4e-7 in float32, exactly 1 where float32's
// value is), so that no value depends on a mathematical library. A NaN stays one. Included by *.isa.cpp files only.
#pragma once

#include "calls.h"
#include "simd.h"

namespace attendant::ATTENDANT_ISA {

// x * p(x^2) / q(x^2); beyond `bound` the quotient is at least 1 and is cut there.
template <int P, int Q>
inline Vec odd_rational(Vec x, float bound, const float (&p)[P], const float (&q)[Q]) {
    const Vec bounded = clamp(x, -bound, bound), square = mul(bounded, bounded);
    Vec numerator = broadcast(p[P - 1]), denominator = broadcast(q[Q - 1]);
    for (int i = P - 2; i >= 0; i--) numerator = fma(numerator, square, broadcast(p[i]));
    for (int i = Q - 2; i >= 0; i--) denominator = fma(denominator, square, broadcast(q[i]));
    return clamp(div(mul(bounded, numerator), denominator), -1.0f, 1.0f);
}

inline Vec erf(Vec x) {
    constexpr float p[] = {1.12837910652f,     0.198159337044f,     0.0503418445587f,  0.00363129586913f,
                           0.000140574455145f, -1.96309997591e-06f, 2.01485852226e-08f};
    constexpr float q[] = {1.0f, 0.508945882320f, 0.114271372557f, 0.0142058776692f, 0.000940338009968f};
    return odd_rational(x, 3.9f, p, q);
}

inline Vec tanh(Vec x) {
    constexpr float p[] = {
        1.0f, 0.130840182304f, 0.00310396519490f, 1.11543968160e-05f, -2.02255563441e-08f, 5.27809254636e-11f, -8.48904212441e-14f};
    constexpr float q[] = {1.0f, 0.464173465967f, 0.0244952142239f, 0.000254615792073f};
    return odd_rational(x, 9.0f, p, q);
}

inline Vec sigmoid(Vec x) { return div(broadcast(1.0f), add(broadcast(1.0f), exp(sub(zero(), x)))); }

// Hendrycks and Gimpel 2016: x times the normal distribution's cumulative probability, and its two approximations.
inline Vec gelu(Vec x) {
    const Vec half = mul(x, broadcast(0.5f));
    return fma(half, erf(mul(x, broadcast(0.70710678118654752f))), half);
}
// (1 + tanh u) / 2 is sigmoid(2u), which loses nothing where tanh is near -1.
inline Vec gelu_tanh(Vec x) {
    constexpr float k2SqrtTwoByPi = 1.59576912160573f;
    return mul(x, sigmoid(mul(x, fma(mul(x, x), broadcast(0.044715f * k2SqrtTwoByPi), broadcast(k2SqrtTwoByPi)))));
}
inline Vec quick_gelu(Vec x) { return mul(x, sigmoid(mul(x, broadcast(1.702f)))); }

inline Vec silu(Vec x) { return mul(x, sigmoid(x)); }
inline Vec relu(Vec x) { return max(zero(), x); }
inline Vec squared_relu(Vec x) {
    const Vec positive = relu(x);
    return mul(positive, positive);
}

// The branch is the same for every element of a call; where it is a template argument it costs nothing.
inline Vec activate(Vec x, Activation activation) {
    switch (activation) {
        case Activation::None:
            return x;
        case Activation::Gelu:
            return gelu(x);
        case Activation::GeluTanh:
            return gelu_tanh(x);
        case Activation::QuickGelu:
            return quick_gelu(x);
        case Activation::Relu:
            return relu(x);
        case Activation::SquaredRelu:
            return squared_relu(x);
        case Activation::Silu:
            return silu(x);
        case Activation::Tanh:
            return tanh(x);
    }
    return x;
}

}  // namespace attendant::ATTENDANT_ISA
