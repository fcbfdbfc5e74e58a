// The recurrence of some systems and the spectra of their taps, against sums in float64 and a DFT: prints the worst row of each.
#include "device.h"
struct double2 { double x, y; };
inline double double_lanes[1024];
inline double __shfl_xor_sync(unsigned, double v, int mask) {
  double_lanes[threadIdx.x] = v;
  __syncwarp();
  const double r = double_lanes[threadIdx.x ^ mask];
  __syncwarp();
  return r;
}
#include "recurrence.cuh"
int main(int count, char** words) {
  const int H = atoi(words[1]), d = atoi(words[2]), L = atoi(words[3]), block = atoi(words[4]), bytes = atoi(words[5]), each_row = 2;
  auto fa = normal(H * d), fb = normal(H * d), fc = normal(H * d), skip = normal(H * each_row);
  for (int h = 0; h < H; h++) {
    // The last row has a double pole at 1 and one at -1, or as many of them as there are states.
    double sum = 0;
    for (int i = 0; i < d; i++) sum += std::abs(fa[h * d + i]);
    for (int i = 0; i < d; i++) fa[h * d + i] = h < H - 1 ? fa[h * d + i] / sum : 0;
    const int one = h * d + (SERIES ? 0 : d - 1), step = SERIES ? 1 : -1;
    if (h == H - 1 && d >= 3) fa[one] = 1, fa[one + step] = 1, fa[one + 2 * step] = -1;
    else if (h == H - 1) fa[h * d] = 1;
  }
  std::vector<Operand> a(fa.begin(), fa.end()), b(fb.begin(), fb.end()), c(fc.begin(), fc.end());
  std::vector<Tap> k(H * L, NAN);
#if SPECTRUM
  std::vector<float4> kf(H * each_row * N / 2, float4{NAN, NAN, NAN, NAN});
  const int group = GROUP;
#else
  std::vector<float4> kf(1);
  const int group = 32;
#endif
  launch(H, BLOCK, group, bytes, [&] {
    recurrence(a.data(), b.data(), c.data(), d, d, d, k.data(), kf.data(), skip.data(), each_row, d, d, L, block);
  });
  // The worst row's, relative to its norm.
  double worst = 0, worst_spectrum = 0;
  const auto distance = [](const auto& got, const auto& want, int n) {
    double off = 0, all = 0;
    for (int i = 0; i < n; i++) off += std::pow((double)got[i] - want[i], 2), all += std::pow((double)want[i], 2);
    return std::isfinite(off) && all > 0 ? std::sqrt(off / all) : INFINITY;
  };
  for (int h = 0; h < H; h++) {
    std::vector<double> s(L + d), row(L);
#if SERIES
    // b / (1 - sum_j a[j] z^(j+1))
    for (int t = 0; t < L; t++) {
      row[t] = t < d ? b[h * d + t] : 0;
      for (int j = 0; j < d && j < t; j++) row[t] += a[h * d + j] * row[t - 1 - j];
    }
#else
    // s[t] = c^T A^t e_1, k[l] = sum_i b[i] s[l + i]
    for (int t = 0; t < L + d; t++) {
      if (t < d) s[t] = c[h * d + t];
      else for (int i = 0; i < d; i++) s[t] += a[h * d + i] * s[t - d + i];
    }
    for (int l = 0; l < L; l++) for (int i = 0; i < d; i++) row[l] += b[h * d + i] * s[l + i];
#endif
    worst = max(worst, distance(k.data() + h * L, row, L));
#if SPECTRUM
    // As spectrum.cuh makes it of these taps.
    for (int e = 0; e < each_row; e++) {
      std::vector<float4> want(N / 2);
      std::vector<float> taps(row.begin(), row.end());
      launch(1, GROUP, GROUP, Fft::TABLE + RPG * Fft::SIZE * 8, [&] {
        SHARED(memory);
        Fft fft;
        c2 v[E];
        const int tid = threadIdx.x;
        fft.init(tid % T, (c2*)(memory + Fft::TABLE) + tid / T * Fft::SIZE, (float4*)memory, tid, GROUP);
        filter_row(v, taps.data(), skip[h * each_row + e], L, fft.t);
        fft.forward(v, [] { group_sync<GROUP, GROUP>(0); });
        for (int j = 0; tid < T && j < E / 2; j++) want[j * T + fft.t] = make_float4(v[2 * j].x, v[2 * j].y, v[2 * j + 1].x, v[2 * j + 1].y);
      });
      const float* got = (const float*)(kf.data() + (h * each_row + e) * (N / 2));
      worst_spectrum = max(worst_spectrum, distance(got, (const float*)want.data(), 2 * N));
    }
#endif
  }
  std::printf("%g\n%g\n", worst, worst_spectrum);
}
