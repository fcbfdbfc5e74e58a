// Rows in global memory: I/O types, staging through shared memory by 16-byte asynchronous copies. IO: 0 fp32, 1 fp16, 2 bf16.
#pragma once
#include "fft.cuh"
#ifndef HOST_EMULATION
#if IO == 1
#include <cuda_fp16.h>
typedef __half io;
FI float load(io x) { return __half2float(x); }
FI io store(float x) { return __float2half_rn(x); }
#elif IO == 2
#include <cuda_bf16.h>
typedef __nv_bfloat16 io;
FI float load(io x) { return __bfloat162float(x); }
FI io store(float x) { return __float2bfloat16_rn(x); }
#else
typedef float io;
FI float load(io x) { return x; }
FI io store(float x) { return x; }
#endif
#if IO != 1
#include <cuda_fp16.h>
#endif
FI c2 unpack(unsigned x) { return __half22float2(*(const __half2*)&x); }
FI unsigned pack(c2 x) { __half2 h = __float22half2_rn(x); return *(unsigned*)&h; }
#define SHARED(name) extern __shared__ __align__(128) unsigned char name[]
// 16 bytes, of which the first `bytes` are read and the rest are zero.
FI void copy16(void* to, const void* from, int bytes) {
  unsigned a = (unsigned)__cvta_generic_to_shared(to);
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(a), "l"(from), "r"(bytes) : "memory");
}
FI void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int LEFT> FI void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory"); }
#endif
typedef long long i64;

// A tensor (B, H, L) with unit stride in time.
template <class X> struct Tensor3 {
  X* p;
  i64 sb, sh;
  FI X* row(int b, int h) const { return p + b * sb + h * sh; }
};

// ROWS rows of N elements in shared memory, moved by GROUP threads; a thread always moves the same chunks.
template <int N, int ROWS, int GROUP> struct Stage {
  static constexpr int CHUNKS = N * (int)sizeof(io) / 16, EACH = 16 / (int)sizeof(io);
  static constexpr int STRIDE = N + (ROWS > 1 ? EACH : 0), BYTES = ROWS * STRIDE * (int)sizeof(io);
  static FI void fetch(io* s, Tensor3<const io> x, int b, int end, int h, int L, int tid) {
    for (int i = tid; i < ROWS * CHUNKS; i += GROUP) {
      int r = ROWS == 1 ? 0 : i / CHUNKS, c = ROWS == 1 ? i : i % CHUNKS, left = (L - c * EACH) * (int)sizeof(io);
      int bytes = b + r < end ? (left < 0 ? 0 : (left > 16 ? 16 : left)) : 0;
      copy16(s + r * STRIDE + c * EACH, bytes ? x.row(b + r, h) + c * EACH : x.p, bytes);
    }
  }
  static FI void flush(const io* s, Tensor3<io> y, int b, int end, int h, int L, int tid) {
    for (int i = tid; i < ROWS * CHUNKS; i += GROUP) {
      int r = ROWS == 1 ? 0 : i / CHUNKS, c = ROWS == 1 ? i : i % CHUNKS;
      if (b + r < end) {
        const io* from = s + r * STRIDE + c * EACH;
        io* to = y.row(b + r, h) + c * EACH;
        if ((c + 1) * EACH <= L) *(uint4*)to = *(const uint4*)from;
        else for (int e = 0; c * EACH + e < L; e++) to[e] = from[e];
      }
    }
  }
};
