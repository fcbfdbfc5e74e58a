// The gradients of a filter with `lead` taps before lag 0, by one block a row or (PAIRED) two, against sums in float64: prints du, dpostgate, dk.
#include "device.h"
#if PAIRED
#include "backward_pair.cuh"
constexpr int CLUSTERS = 2, BYTES = Fft::TABLE + Fft::SIZE * 8 + N * 4;
constexpr auto kernel = backward_pair;
#else
#include "backward.cuh"
constexpr int CLUSTERS = 1, BYTES = Fft::TABLE + GROUPS * ((RPG * Fft::SIZE + KEEP) * 8 + COPIES * Slot::BYTES);
constexpr auto kernel = backward;
#endif
// after it: both include plan.cuh, once, and it has options of its own
#include "spectrum.cuh"
int main(int count, char** words) {
  const int B = atoi(words[1]), H = atoi(words[2]), L = atoi(words[3]), Lk = atoi(words[4]), lead = atoi(words[5]), splits = 2;
  const i64 s = (i64)H * L;
  auto u = normal(B * s), p = normal(B * s), q = normal(B * s), dy = normal(B * s), k = normal(H * Lk);
  std::vector<float> du(B * s + 16, NAN), dp = du, dq = du, dk(splits * H * Lk, NAN);
  std::vector<float4> kf(H * N / 2);
  launch((H + RPG - 1) / RPG, GROUP, GROUP, Fft::TABLE + RPG * Fft::SIZE * 8,
         [&] { spectrum(kf.data(), k.data(), Lk, nullptr, H, Lk, 1, lead); });
  launch(CLUSTERS * H * splits, THREADS, GROUP, BYTES, [&] {
    kernel(dy.data(), u.data(), p.data(), q.data(), du.data(), dp.data(), dq.data(), dk.data(), kf.data(), s, L, s, L, s, L, s, L, s, L,
           s, L, s, L, B, H, L, Lk, splits, lead);
  }, CLUSTERS);
  Error errors[3];
  std::vector<double> rk(H * Lk);
  for (int b = 0; b < B; b++)
    for (int h = 0; h < H; h++) {
      const i64 o = b * s + h * L;
      std::vector<double> x(L), y(L);
      for (int n = 0; n < L; n++)
        for (int j = 0; j < L; j++) {
          const int m = lead + n - j;
          if (m < 0 || m >= Lk) continue;
          const double v = (double)dy[o + n] * q[o + n], z = (double)u[o + j] * p[o + j];
          x[j] += k[h * Lk + m] * v, y[n] += k[h * Lk + m] * z, rk[h * Lk + m] += v * z;
        }
      for (int n = 0; n < L; n++) errors[0].add(du[o + n], x[n] * p[o + n]), errors[1].add(dq[o + n], y[n] * dy[o + n]);
    }
  for (int i = 0; i < H * Lk; i++) errors[2].add((double)dk[i] + dk[H * Lk + i], rk[i]);
}
