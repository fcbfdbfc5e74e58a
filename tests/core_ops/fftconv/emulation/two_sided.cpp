// A filter with `lead` taps before lag 0: its spectrum and the forward that reads it, against sums in float64: prints y.
#include "device.h"
#include "onepass.cuh"
// after it: both include plan.cuh, once
#include "spectrum.cuh"
int main(int count, char** words) {
  const int B = atoi(words[1]), H = atoi(words[2]), L = atoi(words[3]), Lk = atoi(words[4]), lead = atoi(words[5]);
  const i64 s = (i64)H * L;
  auto u = normal(B * s), k = normal(H * Lk), skip = normal(H);
  std::vector<float> y(B * s + 16, NAN);
  std::vector<float4> kf(H * N / 2);
  launch((H + RPG - 1) / RPG, GROUP, GROUP, Fft::TABLE + RPG * Fft::SIZE * 8,
         [&] { spectrum(kf.data(), k.data(), Lk, skip.data(), H, Lk, 1, lead); });
  launch(H, THREADS, GROUP, Fft::TABLE + GROUPS * (RPG * Fft::SIZE * 8 + SLOTS * Slot::BYTES), [&] {
    forward(u.data(), nullptr, nullptr, y.data(), k.data(), kf.data(), nullptr, s, L, 0, 0, 0, 0, s, L, Lk, B, H, L, Lk, 1, 1);
  });
  Error error;
  for (int b = 0; b < B; b++)
    for (int h = 0; h < H; h++)
      for (int i = 0; i < L; i++) {
        double w = (double)skip[h] * u[b * s + h * L + i];
        for (int j = 0; j < L; j++) {
          const int m = lead + i - j;
          if (m >= 0 && m < Lk) w += (double)k[h * Lk + m] * u[b * s + h * L + j];
        }
        error.add(y[b * s + h * L + i], w);
      }
}
