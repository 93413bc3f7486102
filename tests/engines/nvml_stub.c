/* A driver library with two GPUs that plays the scene named by NVML_STUB_SCENE:
 *   (none)        both GPUs answer everything
 *   not_loaded    nvmlInit fails: driver not loaded
 *   no_permission nvmlInit fails: insufficient permissions
 *   no_gpus       there are none
 *   unreadable    GPU 1 refuses each reading (not supported), as consumer boards and MIG parents do
 *   no_handle     GPU 1 cannot be opened (lost before the start)
 * and while the file NVML_STUB_LOST names exists, GPU 1 is lost. Built with -DOLD, the library lacks functions.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, NOT_SUPPORTED = 3, NO_PERMISSION = 4, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };

typedef struct { int index; } Device;
static Device devices[2] = {{0}, {1}};

static int scene(const char *name) {
    const char *now = getenv("NVML_STUB_SCENE");
    return now && strcmp(now, name) == 0;
}

static int lost(Device *device) {
    const char *file = getenv("NVML_STUB_LOST");
    return device->index == 1 && file && access(file, F_OK) == 0;
}

static int reading(Device *device) {
    if (lost(device)) return GPU_IS_LOST;
    if (device->index == 1 && scene("unreadable")) return NOT_SUPPORTED;
    return OK;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (scene("not_loaded")) return DRIVER_NOT_LOADED;
    if (scene("no_permission")) return NO_PERMISSION;
    return OK;
}
int nvmlShutdown(void) { return OK; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "575.64"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = scene("no_gpus") ? 0 : 2; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index == 1 && scene("no_handle")) return GPU_IS_LOST;
    *device = &devices[index];
    return OK;
}
int nvmlDeviceGetName(Device *device, char *text, unsigned length) {
    snprintf(text, length, "Stub GPU %c", 'A' + device->index);
    return OK;
}
int nvmlDeviceGetUUID(Device *device, char *text, unsigned length) {
    snprintf(text, length, "GPU-0000-%d", device->index);
    return OK;
}
int nvmlDeviceGetCudaComputeCapability(Device *device, int *major, int *minor) {
    (void)device;
    *major = 8;
    *minor = 9;
    return OK;
}
struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(Device *device, struct memory *memory) {
    int error = reading(device);
    if (error) return error;
    memory->total = 24ull << 30;
    memory->used = 3ull << 30; /* with what the driver reserves */
    memory->free = memory->total - memory->used;
    return OK;
}
#ifndef OLD
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };
int nvmlDeviceGetMemoryInfo_v2(Device *device, struct memory_v2 *memory) {
    int error = reading(device);
    if (error) return error;
    memory->total = 24ull << 30;
    memory->reserved = 1ull << 30;
    memory->used = 2ull << 30;
    memory->free = memory->total - memory->reserved - memory->used;
    return OK;
}
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    int error = reading(device);
    if (!error) *milliwatts = 123400;
    return error;
}
#endif
struct utilization { unsigned gpu, memory; };
int nvmlDeviceGetUtilizationRates(Device *device, struct utilization *utilization) {
    int error = reading(device);
    if (error) return error;
    utilization->gpu = 71;
    utilization->memory = 12;
    return OK;
}
int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *celsius) {
    int error = reading(device);
    (void)sensor;
    if (!error) *celsius = 64;
    return error;
}
int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    (void)device;
    *milliwatts = 450000;
    return OK;
}
