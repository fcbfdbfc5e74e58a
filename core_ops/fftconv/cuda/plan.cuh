// What the one-launch kernels share: sizes from the options, the filter as a row, its spectrum.
#pragma once
#include "io.cuh"
typedef Row<RADIX1, RADIX2, RADIX3, SHIFT, 4, PADDED> Fft;
constexpr int N = Fft::N, E = Fft::E, T = Fft::T;
constexpr int GROUP = T < 32 ? 32 : T, RPG = GROUP / T, THREADS = GROUP * GROUPS;
constexpr int SLOTS = STAGED ? 2 + PRE : 0;
typedef Stage<N, RPG, GROUP> Slot;

// The taps of a filter, scaled; the skip connection is one more tap at lag 0.
FI void filter_row(c2* v, const float* k, float skip, int Lk, int t) {
  each<E>([&](auto j) {
    int n = t + T * decltype(j)::v;
    v[decltype(j)::v].x = ((n < Lk ? k[n] : 0.f) + (n == 0 ? skip : 0.f)) * (1.f / N);
  });
}
// f(j, spectrum of this thread at j), read from ks = kf[h] + t, EVERY pairs at a time (0: all).
template <int EVERY, class F> FI void with_spectrum(const float4* ks, F f) {
  each<E / 2>([&](auto j) {
    constexpr int J = decltype(j)::v;
    float4 p = EVERY ? ks[J * T] : __ldg(ks + J * T);
    f(Int<2 * J>{}, make_float2(p.x, p.y));
    f(Int<2 * J + 1>{}, make_float2(p.z, p.w));
    if constexpr (EVERY > 0) if constexpr (J % EVERY == EVERY - 1) FENCE_READS();
  });
}
