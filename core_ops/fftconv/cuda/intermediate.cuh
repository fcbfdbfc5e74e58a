// What passes over long rows hand to one another: W (B H, N1, N2), 4 bytes a point, two fp16 with a power-of-two scale for a tile (from
// columns) or a row (from rows). WIDE: two fp32, without scales. LOW: what columns write are 23-bit integers, their low bytes apart, 2
// bytes a point, with a scale for what a warp writes: WIDTH columns of every COL3-th line.
// N1 = COL1 COL3, N2 = RADIX1 RADIX2 RADIX3, a tile is COLS columns.
#pragma once
#include "io.cuh"
#ifndef LOW
#define LOW 0
#endif
#ifndef HOST_EMULATION
FI unsigned bytes_of(unsigned a, unsigned b, unsigned which) { return __byte_perm(a, b, which); }
// The larger one, a NaN if one is.
FI float max_nan(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
#endif
template <int W> struct Stored { typedef unsigned type; };
template <> struct Stored<1> { typedef float2 type; };
typedef Stored<WIDE>::type Point;
constexpr int SN = SHIFT, SD = 4, N1 = COL1 * COL3, N2 = RADIX1 * RADIX2 * RADIX3, TILES = N2 / COLS;
constexpr int WIDTH = LOW && COLS > 32 ? 32 : COLS, SCALES = N2 / WIDTH;
constexpr int COLUMN_THREADS = COLS * COL3, EXCHANGE = N1 * COLS * (int)sizeof(c2);

// A tile of LINES lines of BYTES bytes, STEP bytes apart in memory, packed in shared memory; only the first `left` bytes from `from`
// on exist, the rest is zero.
template <int LINES, int BYTES, i64 STEP, int THREADS> FI void fetch_tile(void* to, const void* from, i64 left) {
  constexpr int LANES = BYTES / 16, EACH = LINES * LANES / THREADS;
  static_assert(EACH * THREADS == LINES * LANES, "a tile is a whole number of pieces for each thread");
  const i64 at = threadIdx.x / LANES * STEP + threadIdx.x % LANES * 16;
  const char* p = (const char*)from + at;
  char* q = (char*)to + threadIdx.x * 16;
  if (left >= (LINES - 1) * STEP + BYTES)
    each<EACH>([&](auto i) { copy16(q + decltype(i)::v * THREADS * 16, p + decltype(i)::v * (THREADS / LANES) * STEP, 16); });
  else
    for (int i = 0; i < EACH; i++) {
      i64 rest = left - at - i * (THREADS / LANES) * STEP;
      const char* piece = rest > 0 ? p + i * (THREADS / LANES) * STEP : (const char*)from;
      copy16(q + i * THREADS * 16, piece, rest >= 16 ? 16 : (rest > 0 ? (int)rest : 0));
    }
}
template <int COUNT, int THREADS> FI void fetch_line(void* to, const float* from, int thread) {
  for (int i = thread; i < COUNT / 4; i += THREADS) copy16((char*)to + i * 16, from + i * 4, 16);
}

// The power of two that brings a largest magnitude m near 2^TOP, and its inverse.
template <int TOP> FI float scale_for(float m, float* inverse) {
  int e = __float_as_int(m) >> 23;
  e = e <= TOP ? TOP + 1 : e;
  *inverse = __int_as_float((e - TOP) << 23);
  return __int_as_float((254 + TOP - e) << 23);
}
FI float larger(float m, c2 v) { return max_nan(m, max_nan(fabsf(v.x), fabsf(v.y))); }
// The largest m over WIDTH neighbouring lanes.
template <int WIDTH> FI float lanes_max(float m) {
  each<log2i(WIDTH)>([&](auto l) { m = max_nan(m, __shfl_xor_sync(0xffffffffu, m, 1 << decltype(l)::v)); });
  return m;
}

// 23-bit integers, |x| <= 2^22, as the mantissas of 1.5 2^23 + x: two of them in 4 bytes and 2 low ones.
constexpr float MIDDLE = 12582912.f;
FI c2 unpack_low(unsigned high, unsigned low, float scale) {
  low |= 0x4b000000u;
  const float x = __int_as_float(bytes_of(high, low, 0x7104)), y = __int_as_float(bytes_of(high, low, 0x7325));
  return make_float2(fmaf(x, scale, -MIDDLE * scale), fmaf(y, scale, -MIDDLE * scale));
}
FI unsigned pack_low(c2 v, float scale, unsigned short* low) {
  const unsigned x = __float_as_int(fmaf(v.x, scale, MIDDLE)), y = __float_as_int(fmaf(v.y, scale, MIDDLE));
  *low = (unsigned short)bytes_of(x, y, 0x40);
  return bytes_of(x, y, 0x6521);
}
