// The spectra of filters, for kernels that read them: one group of threads a block, RPG filters at a time.
// Options: RADIX1 RADIX2 RADIX3, SHIFT, PADDED as in onepass.cuh; LEAD (1: taps before lag 0, with SHIFT = 1).
//
// Taps on both sides of lag 0 cost nothing. The frequencies k - 1/4 are roots of x^N = i: lag -m is x^(N - m) / i, one more
// coefficient, imaginary. What it makes of the real input's sample s >= m wraps around once, times i: real, at s - m, as it should;
// of s < m it stays imaginary, and is dropped with the tail of the causal half.
#define IO 0
#define PRE 0
#define STAGED 0
#define GROUPS 1
#include "plan.cuh"

// kf[h][pair][t]: the scaled spectrum in the order in which thread t of the transform holds it.
extern "C" __global__ void __launch_bounds__(GROUP) spectrum(
    float4* kf, const float* k, i64 k_sh, const float* skip, int H, int Lk, int per_group, int lead) {
  SHARED(memory);
  Fft fft;
  c2 v[E];
  int tid = threadIdx.x, h = blockIdx.x * RPG + tid / T, hh = h < H ? h : 0;
  fft.init(tid % T, (c2*)(memory + Fft::TABLE) + tid / T * Fft::SIZE, (float4*)memory, tid, GROUP);
  k += hh / per_group * k_sh;
  filter_row(v, k + lead, skip ? skip[hh] : 0.f, Lk - lead, fft.t);
  auto sync = [] { group_sync<GROUP, GROUP>(0); };
#if LEAD
  each<E>([&](auto j) {
    const int n = lead + fft.t + T * decltype(j)::v - N;
    v[decltype(j)::v].y = n < 0 ? 0.f : k[n] * (-1.f / N);
  });
  Twiddle<RADIX1> first;
  first.set((float)SHIFT / 4);
  fft.forward(v, first, sync);
#else
  fft.forward(v, sync);
#endif
  if (h < H) each<E / 2>([&](auto j) {
    constexpr int J = decltype(j)::v;
    kf[((i64)h * (E / 2) + J) * T + fft.t] = make_float4(v[2 * J].x, v[2 * J].y, v[2 * J + 1].x, v[2 * J + 1].y);
  });
}
