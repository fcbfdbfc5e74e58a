// backward_pair on B H rows of L samples with Lk taps, against sums in float64: prints du, dpregate, dpostgate, dk.
#include "device.h"
#include "backward_pair.cuh"
int main(int count, char** words) {
  const int B = atoi(words[1]), H = atoi(words[2]), L = atoi(words[3]), Lk = atoi(words[4]), splits = 2;
  const i64 s = (i64)H * L;
  auto u = normal(B * s), p = normal(B * s), q = normal(B * s), dy = normal(B * s), k = normal(H * Lk);
  std::vector<float> du(B * s + 16, NAN), dp = du, dq = du, dk(splits * H * Lk, NAN);
  std::vector<float4> kf(H * N / 2);
  launch(H, GROUP, GROUP, Fft::TABLE + Fft::SIZE * 8, [&] {
    SHARED(memory);
    Fft fft;
    c2 v[E];
    const int t = threadIdx.x, h = blockIdx.x;
    fft.init(t, (c2*)(memory + Fft::TABLE), (float4*)memory, t, GROUP);
    filter_row(v, k.data() + h * Lk, 0.f, Lk, t);
    fft.forward(v, [] { group_sync<GROUP, GROUP>(0); });
    for (int j = 0; j < E / 2; j++)
      kf[((i64)h * (E / 2) + j) * T + t] = make_float4(v[2 * j].x, v[2 * j].y, v[2 * j + 1].x, v[2 * j + 1].y);
  });
  launch(2 * H * splits, THREADS, GROUP, Fft::TABLE + Fft::SIZE * 8 + N * 4, [&] {
    backward_pair(
        dy.data(), u.data(), p.data(), q.data(), du.data(), dp.data(), dq.data(), dk.data(), kf.data(), s, L, s, L, s, L, s, L, s, L, s, L,
        s, L, B, H, L, Lk, splits, 0);
  }, 2);
  Error errors[4];
  std::vector<double> rk(H * Lk);
  for (int b = 0; b < B; b++)
    for (int h = 0; h < H; h++) {
      const i64 o = b * s + h * L;
      std::vector<double> v(L), z(L);
      for (int i = 0; i < L; i++) v[i] = (double)dy[o + i] * q[o + i], z[i] = (double)u[o + i] * p[o + i];
      for (int i = 0; i < L; i++) {
        double x = 0, w = 0;
        for (int j = 0; j < Lk && i + j < L; j++) x += k[h * Lk + j] * v[i + j], rk[h * Lk + j] += v[i + j] * z[i];
        for (int j = 0; j < Lk && j <= i; j++) w += (double)k[h * Lk + j] * z[i - j];
        errors[0].add(du[o + i], x * p[o + i]);
        errors[1].add(dp[o + i], x * u[o + i]);
        errors[2].add(dq[o + i], w * dy[o + i]);
      }
    }
  for (int i = 0; i < H * Lk; i++) errors[3].add((double)dk[i] + dk[H * Lk + i], rk[i]);
}
