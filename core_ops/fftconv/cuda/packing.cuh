// Packed sequences to rows of their own and back: a warp moves up to PIECE samples of one row.
// x (B, H, L) with unit stride in time, rows (n, H, m) contiguous; where[row] = (batch, first sample, samples) of a sequence.
// Options: ITEM (2 or 4, bytes of a sample).
#if ITEM == 2
typedef unsigned short sample;
#else
typedef unsigned sample;
#endif
typedef long long i64;
constexpr int WARPS = 8, PIECE = 4096;

struct Part {
  i64 row, at;
  int first, last, samples;
  __device__ Part(const int4* where, i64 sb, i64 sh, int n, int H, int m) {
    const int pieces = (m + PIECE - 1) / PIECE;
    const i64 id = (i64)blockIdx.x * WARPS + threadIdx.x / 32;
    row = id / pieces;
    samples = first = last = 0;
    if (row < (i64)n * H) {
      const int4 w = where[row / H];
      samples = w.z;
      first = (int)(id % pieces) * PIECE;
      last = first + PIECE < m ? first + PIECE : m;
      at = w.x * sb + row % H * sh + w.y;
    }
  }
};

// rows = x, zero behind each sequence.
extern "C" __global__ void __launch_bounds__(32 * WARPS) gather(
    const sample* x, sample* rows, const int4* where, i64 sb, i64 sh, int n, int H, int m) {
  const Part p(where, sb, sh, n, H, m);
#pragma unroll 8
  for (int i = p.first + threadIdx.x % 32; i < p.last; i += 32)
    rows[p.row * m + i] = i < p.samples ? x[p.at + i] : (sample)0;
}

// x = rows, what lies behind a sequence left out.
extern "C" __global__ void __launch_bounds__(32 * WARPS) scatter(
    sample* x, const sample* rows, const int4* where, i64 sb, i64 sh, i64 row_sb, i64 row_sh, int n, int H, int m) {
  const Part p(where, sb, sh, n, H, m);
  const int last = p.last < p.samples ? p.last : p.samples;
  const sample* from = rows + p.row / H * row_sb + p.row % H * row_sh;
#pragma unroll 8
  for (int i = p.first + threadIdx.x % 32; i < last; i += 32) x[p.at + i] = from[i];
}
