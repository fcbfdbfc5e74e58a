// The three passes forward on B H rows of L samples with L taps, causal or (SHIFT 0, L = N) circular, against sums in float64: prints
// the error of y.
#include "device.h"
inline bool __all_sync(unsigned all, bool mine) {
  float m = mine;
  for (int lane = 1; lane < 32; lane *= 2) m = std::min(m, __shfl_xor_sync(all, m, lane));
  return m != 0.f;
}
#include "long_forward.cuh"
int main(int count, char** words) {
  const int B = atoi(words[1]), H = atoi(words[2]), L = atoi(words[3]), N = N1 * N2;
  const float loud = atof(words[4]);  // samples of every second tile are so much larger
  const i64 s = (i64)H * L;
  auto u = normal(B * s), p = normal(B * s), q = normal(B * s), k = normal(s);
  for (i64 i = 0; i < B * s; i++) if (i % L % N2 / COLS % 2) u[i] *= loud;
  std::vector<float> ones(s + 16, 1.f), y(B * s + 16, NAN), tiles(B * H * TILES), rows(B * H * N1), filter_tiles(H * TILES);
  std::vector<Point> w((size_t)B * H * N), wk((size_t)H * N);
  const size_t column = 2 * (N1 * (COLS * (sizeof(Point) + 8) + 4) + 128);
  auto columns = [&](const float* x, const float* gate, Point* out, float* scales, int lines) {
    launch(2 * TILES, COLUMN_THREADS, 32, column, [&] { columns_forward(x, gate, out, scales, s, L, s, L, H, L, lines); });
  };
  columns(k.data(), ones.data(), wk.data(), filter_tiles.data(), H);
  columns(u.data(), p.data(), w.data(), tiles.data(), B * H);
  const size_t row = Fft::TABLE + RPG * (Fft::SIZE * 8 + N2 * sizeof(Point) + TILES * 4) + 384;
  launch(2 * N1, ROW_THREADS, ROW_THREADS, row, [&] { rows_product(w.data(), tiles.data(), rows.data(), wk.data(), filter_tiles.data(), B, H, 1, atoi(words[5])); });
  launch(4 * TILES, COLUMN_THREADS, 32, column, [&] { columns_inverse(w.data(), rows.data(), q.data(), y.data(), s, L, s, L, H, L, B * H, 2); });
  Error error;
  for (int r = 0; r < B * H; r++)
    for (int i = 0; i < L; i++) {
      double z = 0;
      for (int j = 0; j < (SHIFT ? i + 1 : L); j++) z += (double)k[r % H * L + (i - j + L) % L] * u[(i64)r * L + j] * (PRE ? p[(i64)r * L + j] : 1);
      error.add(y[(i64)r * L + i], z * (POST ? q[(i64)r * L + i] : 1));
    }
}
