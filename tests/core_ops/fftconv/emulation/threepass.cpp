// The three passes on B H rows of L samples with L taps, against sums in float64: prints the error of y.
#include "device.h"
#include "threepass.cuh"
int main(int count, char** words) {
  const int B = atoi(words[1]), H = atoi(words[2]), L = atoi(words[3]), N = N1 * N2;
  const i64 s = (i64)H * L;
  auto u = normal(B * s), p = normal(B * s), q = normal(B * s), k = normal(s);
  std::vector<float> ones(s + 16, 1.f), y(B * s + 16, NAN), tiles(B * H * TILES), rows(B * H * N1), filter_tiles(H * TILES);
  std::vector<Point> w((size_t)B * H * N), wk((size_t)H * N);
  const size_t column = EXCHANGE + N1 * COLS * (sizeof(Point) + 8) + N1 * 4 + 128;
  auto columns = [&](const float* x, const float* gate, Point* out, float* scales, int lines) {
    launch(2 * TILES, COLUMN_THREADS, 32, column, [&] { columns_forward(x, gate, out, scales, s, L, s, L, H, L, lines); });
  };
  columns(k.data(), ones.data(), wk.data(), filter_tiles.data(), H);
  columns(u.data(), p.data(), w.data(), tiles.data(), B * H);
  const size_t row = Fft::TABLE + GROUPS * RPG * (Fft::SIZE * 8 + N2 * sizeof(Point) + TILES * 4) + 128;
  launch(N1, ROW_THREADS, GROUP, row, [&] { rows_product(w.data(), tiles.data(), rows.data(), wk.data(), filter_tiles.data(), B, H, 1); });
  launch(TILES, COLUMN_THREADS, 32, column, [&] { columns_inverse(w.data(), rows.data(), q.data(), y.data(), s, L, s, L, H, L, B * H); });
  Error error;
  for (int r = 0; r < B * H; r++)
    for (int i = 0; i < L; i++) {
      double z = 0;
      for (int j = 0; j <= i; j++) z += (double)k[r % H * L + i - j] * u[(i64)r * L + j] * p[(i64)r * L + j];
      error.add(y[(i64)r * L + i], z * q[(i64)r * L + i]);
    }
}
