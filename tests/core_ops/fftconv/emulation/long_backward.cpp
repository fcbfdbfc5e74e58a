// The gradients by three passes on B H rows of L samples with L taps, against sums in float64: prints du, dpregate, dpostgate, dk.
#include "device.h"
#include "columns.cuh"
#include "long_backward.cuh"
int main(int count, char** words) {
  const int B = atoi(words[1]), H = atoi(words[2]), L = atoi(words[3]), N = N1 * N2;
  const i64 s = (i64)H * L;
  auto u = normal(B * s), p = normal(B * s), q = normal(B * s), dy = normal(B * s), k = normal(s);
  std::vector<float> du(B * s + 16, NAN), dp = du, dq = du, filter_tiles(H * COL3 * SCALES), ones(s + 16, 1.f);
  std::vector<Point> wu((size_t)B * H * N), wy = wu, wk((size_t)H * N);
  std::vector<unsigned short> low_u((size_t)B * H * (N + 8)), low_y = low_u, low_k((size_t)H * (N + 8));
  std::vector<float> tiles_u(B * H * COL3 * SCALES), tiles_y = tiles_u, rows_u(B * H * N1), rows_y = rows_u;
  std::vector<c2> wd((size_t)H * N, c2{NAN, NAN});
  std::vector<FilterPoint> filter(wk.size());
  const size_t column = EXCHANGE + N1 * COLS * (sizeof(Point) + 8) + N1 * 4 + 128;
  // channels of low bytes stand apart
  const i64 low_sh = N + 8, low_sb = H * low_sh;
  auto columns = [&](const float* x, const float* gate, Point* out, unsigned short* low, float* scales, int lines) {
    launch(2 * TILES, COLUMN_THREADS, 32, column, [&] {
#if LOW
      columns_forward(x, gate, out, scales, low, low_sb, low_sh, s, L, s, L, H, L, lines);
#else
      columns_forward(x, gate, out, scales, s, L, s, L, H, L, lines);
#endif
    });
  };
  columns(k.data(), ones.data(), wk.data(), low_k.data(), filter_tiles.data(), H);
  for (size_t i = 0; i < wk.size(); i++) {
    const size_t line = LOW ? i / N * COL3 + i % N / N2 % COL3 : i / N;
    const float scale = filter_tiles[line * SCALES + i % N2 / WIDTH];
#if WIDE
    filter[i] = wk[i];
#else
    filter[i] = unpack_low(wk[i], low_k[i / N * low_sh + i % N], scale);
#endif
  }
  columns(u.data(), p.data(), wu.data(), low_u.data(), tiles_u.data(), B * H);
  columns(dy.data(), q.data(), wy.data(), low_y.data(), tiles_y.data(), B * H);
  const size_t row = Fft::TABLE + SIDES * (Fft::SIZE * 8 + LANE) + 2 * SIDES * TRADE * 16 + KEPT + 128;
  launch(N1 / PAIRS, THREADS, GROUP, row, [&] {
    rows_gradient(
        wu.data(), wy.data(), low_u.data(), low_y.data(), low_sb, low_sh, tiles_u.data(), tiles_y.data(), rows_u.data(),
        rows_y.data(), filter.data(), filter_tiles.data(), wd.data(), B, H, 1);
  });
  launch(TILES, COLUMN_THREADS, 32, column, [&] {
    columns_inverse(wu.data(), rows_u.data(), dy.data(), dq.data(), s, L, s, L, H, L, B * H);
  });
  launch(TILES, COLUMN_THREADS, 32, column, [&] {
    columns_inverse_pair(
        wy.data(), rows_y.data(), p.data(), u.data(), du.data(), dp.data(), s, L, s, L, s, L, s, L, H, L, B * H);
  });
  Error errors[4];
  std::vector<double> rk(s);
  for (int b = 0; b < B; b++)
    for (int h = 0; h < H; h++) {
      const i64 o = b * s + h * L;
      std::vector<double> v(L), z(L);
      for (int i = 0; i < L; i++) v[i] = (double)dy[o + i] * q[o + i], z[i] = (double)u[o + i] * p[o + i];
      for (int i = 0; i < L; i++) {
        double x = 0, w = 0;
        for (int j = i; j < L; j++) x += k[h * L + j - i] * v[j], rk[h * L + j - i] += v[j] * z[i];
        for (int j = 0; j <= i; j++) w += (double)k[h * L + i - j] * z[j];
        errors[0].add(du[o + i], x * p[o + i]);
        errors[1].add(dp[o + i], x * u[o + i]);
        errors[2].add(dq[o + i], w * dy[o + i]);
      }
    }
  // the last pass over wd, point by point
  for (int h = 0; h < H; h++)
    for (int n = 0; n < L; n++) {
      double x = 0;
      for (int k1 = 0; k1 < N1; k1++) {
        const double angle = 2 * M_PI * (k1 - (double)SN / SD) * n / N2 / N1;
        const c2 a = wd[((size_t)h * N1 + k1) * N2 + n % N2];
        x += a.x * std::cos(angle) - a.y * std::sin(angle);
      }
      errors[3].add(x, rk[h * L + n]);
    }
}
