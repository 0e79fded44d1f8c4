/* NVIDIA's driver without a GPU, as far as fcnet.engines.cuda asks for it, and numba-cuda where it compiles.

Device memory is the host's, and a launch is a call into Python (driver.py). What a driver refuses is refused: memory that is not its
own, more shared memory than was allowed, more blocks at once than there is room for, any call without a context. */

#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OWN __attribute__((visibility("default")))
#define OK CUDA_SUCCESS
enum { SHARED = 49152 };

OWN int multiprocessors = 4, shared_optin = 232448, version = 13000;

typedef int (*launched)(const char *code, unsigned blocks, unsigned threads, unsigned shared, void **arguments);
static launched on_launch;
OWN void when_launched(launched call) { on_launch = call; }

/* Memory: what is allocated is known, so that addresses can be checked. */
static struct { char *at; size_t size; } parts[4096];
static CUresult allocate(void **at, size_t size) {
    for (int k = 0; k < 4096; k++)
        if (!parts[k].at) {
            if (posix_memalign(at, 256, size + 256)) return CUDA_ERROR_OUT_OF_MEMORY;
            memset(*at, 0xff, size + 256);
            parts[k].at = *at, parts[k].size = size;
            return OK;
        }
    return CUDA_ERROR_OUT_OF_MEMORY;
}
static CUresult release(void *at) {
    for (int k = 0; k < 4096; k++)
        if (parts[k].at == at) { free(at); parts[k].at = NULL; return OK; }
    return CUDA_ERROR_INVALID_VALUE;
}
OWN size_t part_at(size_t address, size_t *begin) {
    for (int k = 0; k < 4096; k++)
        if (parts[k].at && (size_t)parts[k].at <= address && address < (size_t)parts[k].at + parts[k].size) {
            *begin = (size_t)parts[k].at;
            return parts[k].size;
        }
    return 0;
}
static int within(size_t address, size_t n) {
    size_t begin, size = part_at(address, &begin);
    return n == 0 || (size && address + n <= begin + size);
}

OWN CUresult cuInit(unsigned flags) { return OK; }
OWN CUresult cuDriverGetVersion(int *answer) { *answer = version; return OK; }
OWN CUresult cuDeviceGetCount(int *count) { *count = 1; return OK; }
OWN CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = 0; return ordinal ? CUDA_ERROR_INVALID_DEVICE : OK; }
OWN CUresult cuDeviceGetName(char *name, int n, CUdevice device) { snprintf(name, n, "no GPU"); return OK; }
OWN CUresult cuDeviceGetUuid(CUuuid *uuid, CUdevice device) { memset(uuid, 7, sizeof *uuid); return OK; }
OWN CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
    switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = multiprocessors; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = shared_optin; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = SHARED; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH: case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING: case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
        *value = 1; break;
    default: *value = 0;
    }
    return OK;
}

/* Contexts: one, and a stack of it. */
static __thread CUcontext stack[64];
static __thread int depth;
static CUcontext primary = (CUcontext)0x1000;
OWN CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { *context = primary; return OK; }
OWN CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return OK; }
OWN CUresult cuDevicePrimaryCtxReset(CUdevice device) { return OK; }
OWN CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active) { *flags = 0, *active = 1; return OK; }
OWN CUresult cuCtxGetCurrent(CUcontext *context) { *context = depth ? stack[depth - 1] : NULL; return OK; }
OWN CUresult cuCtxSetCurrent(CUcontext context) {
    if (depth) stack[depth - 1] = context; else stack[depth++] = context;
    return OK;
}
OWN CUresult cuCtxPushCurrent(CUcontext context) { if (depth == 64) return CUDA_ERROR_INVALID_CONTEXT; stack[depth++] = context; return OK; }
OWN CUresult cuCtxPopCurrent(CUcontext *context) {
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    depth--;
    if (context) *context = stack[depth];
    return OK;
}
OWN CUresult cuCtxGetDevice(CUdevice *device) { *device = 0; return depth ? OK : CUDA_ERROR_INVALID_CONTEXT; }
OWN CUresult cuCtxGetId(CUcontext context, unsigned long long *id) { *id = 1; return OK; }
OWN CUresult cuStreamSynchronize(CUstream stream) { return depth && !stream ? OK : CUDA_ERROR_INVALID_CONTEXT; }

/* Memory */
OWN CUresult cuMemGetInfo(size_t *available, size_t *total) { *available = 1ul << 36, *total = 1ul << 37; return OK; }
OWN CUresult cuMemAlloc(CUdeviceptr *at, size_t n) { return depth ? allocate((void **)at, n) : CUDA_ERROR_INVALID_CONTEXT; }
OWN CUresult cuMemsetD8(CUdeviceptr at, unsigned char value, size_t n) {
    if (!depth || !within(at, n)) return CUDA_ERROR_INVALID_VALUE;
    memset((void *)at, value, n);
    return OK;
}
OWN CUresult cuMemFree(CUdeviceptr at) { return release((void *)at); }
OWN CUresult cuMemHostAlloc(void **at, size_t n, unsigned flags) { return allocate(at, n); }
OWN CUresult cuMemFreeHost(void *at) { return release(at); }
OWN CUresult cuMemHostGetDevicePointer(CUdeviceptr *at, void *host, unsigned flags) { *at = (CUdeviceptr)host; return OK; }
static CUresult move(size_t to, int to_device, size_t from, int from_device, size_t n) {
    if (!depth || (to_device && !within(to, n)) || (from_device && !within(from, n))) return CUDA_ERROR_INVALID_VALUE;
    memmove((void *)to, (void *)from, n);
    return OK;
}
OWN CUresult cuMemcpyHtoD(CUdeviceptr to, const void *from, size_t n) { return move(to, 1, (size_t)from, 0, n); }
OWN CUresult cuMemcpyDtoH(void *to, CUdeviceptr from, size_t n) { return move((size_t)to, 0, from, 1, n); }

/* Code: text, which names its function and is what is run; machine code can be loaded, and not be launched. */
struct module { char *code; };
struct function { struct module *module; int shared; };
OWN CUresult cuModuleLoadData(CUmodule *module, const void *code) {
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    struct module *one = calloc(1, sizeof *one);
    if (memcmp(code, "\177ELF", 4)) one->code = strdup(code);
    *module = (CUmodule)one;
    return OK;
}
OWN CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    struct function *one = calloc(1, sizeof *one);
    one->module = (struct module *)module, one->shared = SHARED;
    if (one->module->code && !strstr(one->module->code, name)) return CUDA_ERROR_NOT_FOUND;
    *function = (CUfunction)one;
    return OK;
}
OWN CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute which, int value) {
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || value > shared_optin) return CUDA_ERROR_INVALID_VALUE;
    ((struct function *)function)->shared = value;
    return OK;
}
OWN CUresult cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream, void **arguments, void **extra) {
    struct function *one = (struct function *)f;
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    if ((int)shared > one->shared || bx > 1024 || gy * gz * by * bz != 1 || stream || extra) return CUDA_ERROR_INVALID_VALUE;
    if (!one->module->code) return CUDA_ERROR_NOT_SUPPORTED;
    return on_launch(one->module->code, gx, bx, shared, arguments) ? CUDA_ERROR_LAUNCH_FAILED : OK;
}
OWN CUresult cuLaunchCooperativeKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, CUstream stream, void **arguments) {
    if (gx > (unsigned)multiprocessors) return CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE;
    return cuLaunchKernel(f, gx, gy, gz, bx, by, bz, shared, stream, arguments, NULL);
}

OWN CUresult cuGetProcAddress_v2(const char *name, void **function, int version, cuuint64_t flags, CUdriverProcAddressQueryResult *status) {
    static void *self;
    char versioned[256];
    Dl_info here;
    if (!self && dladdr((void *)when_launched, &here)) self = dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    snprintf(versioned, sizeof versioned, "%s_v2", name); /* cuda.h gives some names to their second versions */
    *function = dlsym(self, versioned);
    if (!*function) *function = dlsym(self, name);
    if (status) *status = *function ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *function ? OK : CUDA_ERROR_NOT_FOUND;
}
