// The spectra of filters, for kernels that read them: one group of threads a block, RPG filters at a time.
// Options: RADIX1 RADIX2 RADIX3, SHIFT, PADDED as in onepass.cuh.
#define IO 0
#define PRE 0
#define STAGED 0
#define GROUPS 1
#include "plan.cuh"

// kf[h][pair][t]: the scaled spectrum in the order in which thread t of the transform holds it.
extern "C" __global__ void __launch_bounds__(GROUP) spectrum(
    float4* kf, const float* k, i64 k_sh, const float* skip, int H, int Lk, int per_group) {
  SHARED(memory);
  Fft fft;
  c2 v[E];
  int tid = threadIdx.x, h = blockIdx.x * RPG + tid / T, hh = h < H ? h : 0;
  fft.init(tid % T, (c2*)(memory + Fft::TABLE) + tid / T * Fft::SIZE, (float4*)memory, tid, GROUP);
  filter_row(v, k + hh / per_group * k_sh, skip ? skip[hh] : 0.f, Lk, fft.t);
  fft.forward(v, [] { group_sync<GROUP, GROUP>(0); });
  if (h < H) each<E / 2>([&](auto j) {
    constexpr int J = decltype(j)::v;
    kf[((i64)h * (E / 2) + J) * T + fft.t] = make_float4(v[2 * J].x, v[2 * J].y, v[2 * J + 1].x, v[2 * J + 1].y);
  });
}
