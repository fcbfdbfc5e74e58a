// forward and backward on B H rows of L samples with Lk taps, against sums in float64: prints y, du, dpregate, dpostgate, dk, dskip.
#include "device.h"
#include "onepass.cuh"
// after it: both include plan.cuh, once
#include "backward.cuh"
int main(int count, char** words) {
  const int B = atoi(words[1]), H = atoi(words[2]), L = atoi(words[3]), Lk = atoi(words[4]), splits = 2;
  const i64 s = (i64)H * L;
  auto u = normal(B * s), p = normal(B * s), q = normal(B * s), dy = normal(B * s), k = normal(H * Lk), skip = normal(H);
  std::vector<float> y(B * s + 16, NAN), du = y, dp = y, dq = y, dk(splits * H * Lk, NAN);
  std::vector<float4> kf(H * N / 2);
  launch((H + RPG - 1) / RPG, GROUP, GROUP, Fft::TABLE + RPG * Fft::SIZE * 8, [&] {
    SHARED(memory);
    Fft fft;
    c2 v[E];
    const int tid = threadIdx.x, h = blockIdx.x * RPG + tid / T, hh = h < H ? h : 0;
    fft.init(tid % T, (c2*)(memory + Fft::TABLE) + tid / T * Fft::SIZE, (float4*)memory, tid, GROUP);
    filter_row(v, k.data() + hh * Lk, skip[hh], Lk, fft.t);
    fft.forward(v, [] { group_sync<GROUP, GROUP>(0); });
    for (int j = 0; h < H && j < E / 2; j++)
      kf[((i64)h * (E / 2) + j) * T + fft.t] = make_float4(v[2 * j].x, v[2 * j].y, v[2 * j + 1].x, v[2 * j + 1].y);
  });
  const size_t base = Fft::TABLE + GROUPS * RPG * Fft::SIZE * 8;
  launch(H * splits, THREADS, GROUP, base + GROUPS * SLOTS * Slot::BYTES + (KF == 1 ? N * 8 : 0), [&] {
    forward(u.data(), p.data(), q.data(), y.data(), k.data(), kf.data(), skip.data(), s, L, s, L, s, L, s, L, Lk, B, H, L, Lk, 1, splits);
  });
  launch(H * splits, THREADS, GROUP, base + GROUPS * (KEEP * 8 + COPIES * Slot::BYTES), [&] {
    backward(
        dy.data(), u.data(), p.data(), q.data(), du.data(), dp.data(), dq.data(), dk.data(), kf.data(), s, L,
        s, L, s, L, s, L, s, L, s, L, s, L, B, H, L, Lk, splits, 0);
  });
  Error errors[6];
  std::vector<double> rk(H * Lk), rs(H);
  for (int b = 0; b < B; b++)
    for (int h = 0; h < H; h++) {
      const i64 o = b * s + h * L;
      for (int i = 0; i < L; i++) {
        const double v = (double)dy[o + i] * q[o + i], z = (double)u[o + i] * p[o + i];
        double x = skip[h] * v, w = skip[h] * z;
        for (int j = 0; j < Lk && i + j < L; j++) {
          const double later = (double)dy[o + i + j] * q[o + i + j];
          x += k[h * Lk + j] * later;
          rk[h * Lk + j] += later * z;
        }
        for (int j = 0; j < Lk && j <= i; j++) w += (double)k[h * Lk + j] * u[o + i - j] * p[o + i - j];
        rs[h] += v * z;
        errors[0].add(y[o + i], w * q[o + i]);
        errors[1].add(du[o + i], x * p[o + i]);
        errors[2].add(dp[o + i], x * u[o + i]);
        errors[3].add(dq[o + i], w * dy[o + i]);
      }
    }
  for (int i = 0; i < H * Lk; i++) errors[4].add((double)dk[i] + dk[H * Lk + i], rk[i]);
  for (int h = 0; h < H; h++) errors[5].add((double)dk[h * Lk] + dk[(H + h) * Lk], rs[h]);
}
