// v, and S at the queries.
extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) spline_forward(
    const real* __restrict__ full, const real* __restrict__ knots, const real* __restrict__ x, real* __restrict__ y,
    real* __restrict__ v, int series, int n, int queries, int size, int knots_stride, int x_stride) {
  SHARED(memory);
  const int warp = threadIdx.x / 32, thread = threadIdx.x % 32, mine = thread / LANES, lane = thread % LANES;
  const int first = (blockIdx.x * WARPS + warp) * SERIES, b = first + mine;
  if (first >= series) return;
  Kept& kept = ((Kept*)memory)[warp];
  const bool live = b < series;
  {
    const long long row = (long long)b * size;
    const Cells cells(full + row, knots + (long long)b * knots_stride, lane, n, live);
    cells.keep(kept, mine);
    real inner[HELD][ORDER - 1], at_start[HELD], at_end[HELD], moved[HELD], d[HELD];
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      at_start[e] = at_end[e] = 0;
#pragma unroll
      for (int k = 1; k < ORDER; k++) {
        inner[e][k - 1] = cells.inner(e, k);
        at_start[e] += START(k) * inner[e][k - 1], at_end[e] += END(k) * inner[e][k - 1];
      }
    }
    const real given_left = live ? full[row] : real(0), given_right = live ? full[row + size - 1] : real(0);
    System system;
    system.build(cells.width, lane, n);
    LEFT ? earlier<1>(moved, at_end, lane) : later<1>(moved, at_start, lane);
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e + 1 - LEFT;
      const real start = LEFT ? at_start[e] : moved[e], end = LEFT ? moved[e] : at_end[e];
      d[e] = (start * system.left[e] - end * system.right[e]) * system.share[e];
      if (LEFT && i == 0) d[e] = (start - given_left * system.right[e]) / K;
      if (RIGHT && i == n) d[e] = (given_right * system.left[e] - end) / K;
      if (!LEFT && i == 1) d[e] -= system.low[e] * given_left;
      if (!RIGHT && i == n - 1) d[e] -= system.up[e] * given_right;
    }
    system.solve(d, lane, n);
    real* at_knots = kept.at_knots[mine];
    real* out = v + (long long)b * (n + 1);
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e + 1 - LEFT;
      if (i < n + RIGHT) {
        at_knots[i] = d[e];
        if (live) out[i] = d[e];
      }
    }
    if (!LEFT && lane == 0) {
      at_knots[0] = given_left;
      if (live) out[0] = given_left;
    }
    if (!RIGHT && lane == LANES - 1) {
      at_knots[n] = given_right;
      if (live) out[n] = given_right;
    }
    __syncwarp();
#pragma unroll
    for (int e = 0; e < HELD; e++) {
      const int i = lane + LANES * e;
      if (i >= n) continue;
      const real before = at_knots[i], after = at_knots[i + 1];
      real by = 1;
#pragma unroll
      for (int k = 0; k < TIMES; k++) by *= kept.scale[mine][i];
#pragma unroll
      for (int p = 0; p < TERMS; p++) {
        real c = VALUE(p, 0) * before + VALUE(p, ORDER) * after;
#pragma unroll
        for (int k = 1; k < ORDER; k++) c += VALUE(p, k) * inner[e][k - 1];
        kept.table[(p * SERIES + mine) * CELLS + i] = c * by;
      }
    }
    __syncwarp();
  }
  if (!live) return;
  const real* places = x + (long long)b * x_stride;
  real* out = y + (long long)b * queries;
#pragma unroll AT_ONCE
  for (int j = lane; j < queries; j += LANES) {
    const real place = places[j];
    unsigned none[STEPS + 1];
    const int cell = find<false>(kept, mine, place, none);
    const real t = (place - kept.starts[mine][cell]) * kept.scale[mine][cell] - 1;
    const real* c = kept.table + mine * CELLS + cell;
    real sum = c[0], now = t, before = 1;
#pragma unroll
    for (int p = 1; p < TERMS; p++) {
      sum += c[p * SERIES * CELLS] * now;
      const real next = 2 * t * now - before;
      before = now, now = next;
    }
    out[j] = sum;
  }
}
