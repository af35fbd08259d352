/* CUDA without a GPU: what onnxruntime's CUDA provider calls, with memory in memory and kernels that
   compute nothing. Each library is built of its own part; what is not written here returns 0.
   STUB_INIT, STUB_DRIVER, STUB_GPUS, STUB_CAPABILITY and STUB_LAUNCH set what the driver answers. */
#include <stdlib.h>
#include <string.h>
#include <stdint.h>

static int said(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

#ifdef LIBCUDA
int cuInit(unsigned flags) { return said("STUB_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = said("STUB_DRIVER", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = said("STUB_GPUS", 1); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Stub GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  int capability = said("STUB_CAPABILITY", 80);
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
  return 0;
}
#endif

#ifdef LIBCUDART
static size_t used = (size_t)1 << 30;
static int take(void **at, size_t size) {
  used += size;
  size = (size / 512 + 1) * 512;
  *at = aligned_alloc(256, size);
  if (!*at) return 2;
  memset(*at, 0, size);
  return 0;
}
static int make(void **handle) { *handle = malloc(16); return 0; }
static int launched(void) { return said("STUB_LAUNCH", 0); }

int cudaMalloc(void **at, size_t size) { return take(at, size); }
int cudaMallocHost(void **at, size_t size) { return take(at, size); }
int cudaHostAlloc(void **at, size_t size, unsigned flags) { return take(at, size); }
int cudaMallocFromPoolAsync(void **at, size_t size, void *pool, void *stream) { return take(at, size); }
int cudaFree(void *at) { free(at); return 0; }
int cudaFreeHost(void *at) { free(at); return 0; }
int cudaFreeAsync(void *at, void *stream) { free(at); return 0; }
int cudaMemcpy(void *to, const void *from, size_t size, int kind) { memmove(to, from, size); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
  memmove(to, from, size);
  return 0;
}
int cudaMemcpy2DAsync(char *to, size_t pitch, const char *from, size_t other, size_t width,
                      size_t height, int kind, void *stream) {
  for (size_t i = 0; i < height; i++) memmove(to + i * pitch, from + i * other, width);
  return 0;
}
int cudaMemset(void *at, int value, size_t size) { memset(at, value, size); return 0; }
int cudaMemsetAsync(void *at, int value, size_t size, void *stream) { memset(at, value, size); return 0; }
int cudaMemGetInfo(size_t *unused, size_t *total) {
  *total = (size_t)80 << 30;
  *unused = *total - used;
  return 0;
}

int cudaSetDevice(int device) { return said("STUB_INIT", 0); }
int cudaGetDevice(int *device) { *device = 0; return said("STUB_INIT", 0); }
int cudaGetDeviceCount(int *count) { *count = said("STUB_GPUS", 1); return said("STUB_INIT", 0); }
int cudaDriverGetVersion(int *version) { *version = said("STUB_DRIVER", 13000); return 0; }
int cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
int cudaGetDeviceProperties(char *it, int device) { /* struct cudaDeviceProp, by offset */
  static const int sizes[][2] = {{304, 65536}, {308, 32}, {320, 1024}, {324, 1024}, {328, 1024},
    {332, 64}, {336, 2147483647}, {340, 65535}, {344, 65535}, {360, 8}, {384, 80}, {388, 80}};
  memset(it, 0, 1008);
  strcpy(it, "Stub GPU");
  *(size_t *)(it + 288) = (size_t)80 << 30;
  *(size_t *)(it + 296) = 49152;
  *(size_t *)(it + 352) = 65536;
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) *(int *)(it + sizes[i][0]) = sizes[i][1];
  return 0;
}
int cudaDeviceGetAttribute(int *value, int attribute, int device) { /* enum cudaDeviceAttr */
  static const int known[][2] = {{1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647},
    {6, 65535}, {7, 65535}, {8, 49152}, {10, 32}, {12, 65536}, {16, 80}, {39, 2048}, {75, 8},
    {81, 167936}, {97, 166912}};
  *value = 0;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (known[i][0] == attribute) *value = known[i][1];
  return 0;
}

int cudaStreamCreate(void **stream) { return make(stream); }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { return make(stream); }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaEventCreate(void **event) { return make(event); }
int cudaEventCreateWithFlags(void **event, unsigned flags) { return make(event); }
int cudaEventElapsedTime(float *time, void *from, void *to) { *time = 1; return 0; }
int cudaMemPoolCreate(void **pool, void *properties) { return make(pool); }
int cudaLaunchHostFunc(void *stream, void (*call)(void *), void *with) { call(with); return 0; }
int cudaPointerGetAttributes(char *attributes, const void *at) { memset(attributes, 0, 24); return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks) { *blocks = 1; return 0; }
int cudaFuncGetAttributes(char *it, const void *function) { /* struct cudaFuncAttributes */
  memset(it, 0, 64);
  *(int *)(it + 24) = 1024;
  *(int *)(it + 32) = *(int *)(it + 36) = 80; /* versions of PTX and binary */
  return 0;
}
int cudaGetDriverEntryPointByVersion(const char *name, void **at) { *at = 0; return 0; }

int __cudaLaunchKernel(void) { return launched(); }
int cudaLaunchKernel(void) { return launched(); }
int cudaLaunchKernelExC(void) { return launched(); }
int cudaLaunchCooperativeKernel(void) { return launched(); }
int cudaGetLastError(void) { return launched(); }
int cudaPeekAtLastError(void) { return launched(); }
const char *cudaGetErrorName(int error) {
  return error == 209 ? "cudaErrorNoKernelImageForDevice" : error == 100 ? "cudaErrorNoDevice" : "error";
}
const char *cudaGetErrorString(int error) {
  return error == 209   ? "no kernel image is available for execution on the device"
         : error == 100 ? "no CUDA-capable device is detected"
                        : "unknown error";
}
void **__cudaRegisterFatBinary(void *binary) { static void *handle; return &handle; }
int __cudaGetKernel(void **kernel, const void *function) { *kernel = (void *)function; return 0; }
#endif

#ifdef LIBCUDNN
size_t cudnnGetVersion(void) { return 91300; }
const char *cudnnGetErrorString(int error) { return "stub"; }
void cudnnGetLastErrorString(char *text, size_t size) { if (size) *text = 0; }
int cudnnBackendCreateDescriptor(int kind, void **it) { *it = calloc(1, 64); return 0; }
int cudnnBackendGetAttribute(void *of, int name, int type, int64_t most, int64_t *count, void *out) {
  if (count) *count = 1;
  if (out && most > 0 && type != 15) memset(out, 0, 8); /* 15: a descriptor, which stays */
  return 0;
}
#endif
