// A Vulkan layer that makes a driver's calls fail. QLLAMA_FAULT says which; it is read whenever an instance is made, and
// counting begins anew where it is another than before.
//
//   KIND:N    the Nth call of that kind fails, counted from 1
//   KIND:N+   so does each one behind it
//   bytes:N   each allocation that would bring the sum of all held memory above N bytes
//
// Kinds: see KINDS below. From a failing submission or wait on the device is lost: all its submissions and waits fail. A
// device that is made afterwards is a new one. QLLAMA_FAULT_LOG names a file that is written whenever counting
// begins anew: a line a kind with its number of calls till then, and the most bytes that were held.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

#define KINDS(X) X(instance) X(device) X(alloc) X(map) X(buffer) X(image) X(view) X(module) X(layout) X(pipeline) X(pool) \
    X(set) X(commands) X(begin) X(end) X(fence) X(semaphore) X(submit) X(wait)
enum {
#define NAME(kind) kind,
    KINDS(NAME)
#undef NAME
    COUNT
};
static const char *const NAMES[] = {
#define NAME(kind) #kind,
    KINDS(NAME)
#undef NAME
};

// What the layer calls of the next one, by the name behind "vk".
#define CALLS(X) X(AllocateMemory) X(FreeMemory) X(MapMemory) X(CreateBuffer) X(CreateImage) X(CreateImageView) \
    X(CreateShaderModule) X(CreateDescriptorSetLayout) X(CreatePipelineLayout) X(CreateComputePipelines) \
    X(CreateDescriptorPool) X(AllocateDescriptorSets) X(CreateCommandPool) X(AllocateCommandBuffers) X(BeginCommandBuffer) \
    X(EndCommandBuffer) X(CreateFence) X(CreateSemaphore) X(QueueSubmit) X(QueueWaitIdle) X(DeviceWaitIdle) \
    X(WaitForFences) X(GetFenceStatus) X(WaitSemaphores) X(WaitSemaphoresKHR) X(GetSemaphoreCounterValue) \
    X(GetSemaphoreCounterValueKHR) X(DestroyDevice)

struct device {
    // The loader's: equal for a device, its queues and its command buffers.
    void *key;
    VkDevice handle;
    int lost;
    PFN_vkGetDeviceProcAddr get;
#define FIELD(name) PFN_vk##name name;
    CALLS(FIELD)
#undef FIELD
};

static struct device devices[256];
static struct { VkDeviceMemory memory; uint64_t bytes; } allocations[1 << 16];
static uint64_t counts[COUNT], held, most, first, limit;
static int kind = -1, on;
static char fault[64];
static PFN_vkGetInstanceProcAddr next_instance;
static VkInstance made;

static void write_log(void) {
    const char *path = getenv("QLLAMA_FAULT_LOG");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    for (int i = 0; i < COUNT; i++) fprintf(file, "%s %llu\n", NAMES[i], (unsigned long long)counts[i]);
    fprintf(file, "bytes %llu\n", (unsigned long long)most);
    fclose(file);
}

// Whether counting begins anew.
static int read_fault(void) {
    const char *now = getenv("QLLAMA_FAULT");
    if (!now) now = "";
    if (!strncmp(now, fault, sizeof fault - 1)) return 0;
    write_log();
    snprintf(fault, sizeof fault, "%s", now);
    memset(counts, 0, sizeof counts);
    kind = -1, limit = 0, most = held;
    const char *colon = strchr(fault, ':');
    if (!colon) return 1;
    char *end;
    first = strtoull(colon + 1, &end, 10);
    on = *end == '+';
    size_t length = colon - fault;
    if (length == 5 && !strncmp(fault, "bytes", 5)) limit = first;
    for (int i = 0; i < COUNT; i++)
        if (strlen(NAMES[i]) == length && !strncmp(fault, NAMES[i], length)) kind = i;
    return 1;
}

static int fails(int what) {
    uint64_t n = ++counts[what];
    return kind == what && (on ? n >= first : n == first);
}

static struct device *of(const void *handle) {
    void *key = *(void *const *)handle;
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++)
        if (devices[i].key == key) return &devices[i];
    abort();
}

// A submission or a wait: whether the device is lost.
static int lost(struct device *device, int what) {
    // A lost device computes no more, and its memory may be freed at once: so what this one was given ends before.
    if (fails(what) && !device->lost) device->DeviceWaitIdle(device->handle), device->lost = 1;
    return device->lost;
}

#define OURS static VKAPI_ATTR VkResult VKAPI_CALL
#define HOST const VkAllocationCallbacks *host

OURS our_AllocateMemory(VkDevice d, const VkMemoryAllocateInfo *info, HOST, VkDeviceMemory *out) {
    uint64_t bytes = info->allocationSize;
    if (fails(alloc) || (limit && held + bytes > limit)) return VK_ERROR_OUT_OF_DEVICE_MEMORY;
    VkResult result = of(d)->AllocateMemory(d, info, host, out);
    if (result != VK_SUCCESS) return result;
    held += bytes;
    if (held > most) most = held;
    for (size_t i = 0; i < sizeof allocations / sizeof *allocations; i++)
        if (!allocations[i].memory) {
            allocations[i].memory = *out, allocations[i].bytes = bytes;
            break;
        }
    return result;
}

static VKAPI_ATTR void VKAPI_CALL our_FreeMemory(VkDevice d, VkDeviceMemory memory, HOST) {
    for (size_t i = 0; memory && i < sizeof allocations / sizeof *allocations; i++)
        if (allocations[i].memory == memory) {
            held -= allocations[i].bytes, allocations[i].memory = 0;
            break;
        }
    of(d)->FreeMemory(d, memory, host);
}

OURS our_MapMemory(VkDevice d, VkDeviceMemory memory, VkDeviceSize at, VkDeviceSize size, VkMemoryMapFlags flags, void **out) {
    return fails(map) ? VK_ERROR_MEMORY_MAP_FAILED : of(d)->MapMemory(d, memory, at, size, flags, out);
}

// Calls that make one thing: their kind, and what they say when they fail.
#define MAKES(name, Info, Out, kind, error) \
    OURS our_##name(VkDevice d, const Info *info, HOST, Out *out) { \
        return fails(kind) ? error : of(d)->name(d, info, host, out); \
    }
MAKES(CreateBuffer, VkBufferCreateInfo, VkBuffer, buffer, VK_ERROR_OUT_OF_DEVICE_MEMORY)
MAKES(CreateImage, VkImageCreateInfo, VkImage, image, VK_ERROR_OUT_OF_DEVICE_MEMORY)
MAKES(CreateImageView, VkImageViewCreateInfo, VkImageView, view, VK_ERROR_OUT_OF_HOST_MEMORY)
MAKES(CreateShaderModule, VkShaderModuleCreateInfo, VkShaderModule, module, VK_ERROR_OUT_OF_HOST_MEMORY)
MAKES(CreateDescriptorSetLayout, VkDescriptorSetLayoutCreateInfo, VkDescriptorSetLayout, layout, VK_ERROR_OUT_OF_HOST_MEMORY)
MAKES(CreatePipelineLayout, VkPipelineLayoutCreateInfo, VkPipelineLayout, layout, VK_ERROR_OUT_OF_HOST_MEMORY)
MAKES(CreateDescriptorPool, VkDescriptorPoolCreateInfo, VkDescriptorPool, pool, VK_ERROR_OUT_OF_DEVICE_MEMORY)
MAKES(CreateCommandPool, VkCommandPoolCreateInfo, VkCommandPool, commands, VK_ERROR_OUT_OF_HOST_MEMORY)
MAKES(CreateFence, VkFenceCreateInfo, VkFence, fence, VK_ERROR_OUT_OF_HOST_MEMORY)
MAKES(CreateSemaphore, VkSemaphoreCreateInfo, VkSemaphore, semaphore, VK_ERROR_OUT_OF_HOST_MEMORY)

OURS our_CreateComputePipelines(VkDevice d, VkPipelineCache cache, uint32_t n, const VkComputePipelineCreateInfo *info, HOST, VkPipeline *out) {
    return fails(pipeline) ? VK_ERROR_OUT_OF_HOST_MEMORY : of(d)->CreateComputePipelines(d, cache, n, info, host, out);
}
OURS our_AllocateDescriptorSets(VkDevice d, const VkDescriptorSetAllocateInfo *info, VkDescriptorSet *out) {
    return fails(set) ? VK_ERROR_OUT_OF_DEVICE_MEMORY : of(d)->AllocateDescriptorSets(d, info, out);
}
OURS our_AllocateCommandBuffers(VkDevice d, const VkCommandBufferAllocateInfo *info, VkCommandBuffer *out) {
    return fails(commands) ? VK_ERROR_OUT_OF_DEVICE_MEMORY : of(d)->AllocateCommandBuffers(d, info, out);
}
OURS our_BeginCommandBuffer(VkCommandBuffer c, const VkCommandBufferBeginInfo *info) {
    return fails(begin) ? VK_ERROR_OUT_OF_DEVICE_MEMORY : of(c)->BeginCommandBuffer(c, info);
}
OURS our_EndCommandBuffer(VkCommandBuffer c) {
    return fails(end) ? VK_ERROR_OUT_OF_DEVICE_MEMORY : of(c)->EndCommandBuffer(c);
}
OURS our_QueueSubmit(VkQueue q, uint32_t n, const VkSubmitInfo *info, VkFence f) {
    return lost(of(q), submit) ? VK_ERROR_DEVICE_LOST : of(q)->QueueSubmit(q, n, info, f);
}
OURS our_QueueWaitIdle(VkQueue q) { return lost(of(q), wait) ? VK_ERROR_DEVICE_LOST : of(q)->QueueWaitIdle(q); }
OURS our_DeviceWaitIdle(VkDevice d) { return lost(of(d), wait) ? VK_ERROR_DEVICE_LOST : of(d)->DeviceWaitIdle(d); }
OURS our_WaitForFences(VkDevice d, uint32_t n, const VkFence *fences, VkBool32 all, uint64_t time) {
    return lost(of(d), wait) ? VK_ERROR_DEVICE_LOST : of(d)->WaitForFences(d, n, fences, all, time);
}
OURS our_GetFenceStatus(VkDevice d, VkFence f) { return of(d)->lost ? VK_ERROR_DEVICE_LOST : of(d)->GetFenceStatus(d, f); }
OURS our_WaitSemaphores(VkDevice d, const VkSemaphoreWaitInfo *info, uint64_t time) {
    return lost(of(d), wait) ? VK_ERROR_DEVICE_LOST : of(d)->WaitSemaphores(d, info, time);
}
OURS our_WaitSemaphoresKHR(VkDevice d, const VkSemaphoreWaitInfo *info, uint64_t time) {
    return lost(of(d), wait) ? VK_ERROR_DEVICE_LOST : of(d)->WaitSemaphoresKHR(d, info, time);
}
OURS our_GetSemaphoreCounterValue(VkDevice d, VkSemaphore s, uint64_t *out) {
    return of(d)->lost ? VK_ERROR_DEVICE_LOST : of(d)->GetSemaphoreCounterValue(d, s, out);
}
OURS our_GetSemaphoreCounterValueKHR(VkDevice d, VkSemaphore s, uint64_t *out) {
    return of(d)->lost ? VK_ERROR_DEVICE_LOST : of(d)->GetSemaphoreCounterValueKHR(d, s, out);
}
static VKAPI_ATTR void VKAPI_CALL our_DestroyDevice(VkDevice d, HOST) {
    struct device *device = d ? of(d) : NULL;
    if (!device) return;
    device->DestroyDevice(d, host);
    device->key = NULL;
}

#define LINK(Info, info, type) \
    Info *chain = (void *)info->pNext; \
    while (chain && !(chain->sType == type && chain->function == VK_LAYER_LINK_INFO)) chain = (void *)chain->pNext; \
    if (!chain) return VK_ERROR_INITIALIZATION_FAILED;

OURS our_CreateInstance(const VkInstanceCreateInfo *info, HOST, VkInstance *out) {
    // The instance by which a test has counting begin is none of those that it counts.
    if (!read_fault() && fails(instance)) return VK_ERROR_OUT_OF_HOST_MEMORY;
    LINK(VkLayerInstanceCreateInfo, info, VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO)
    next_instance = chain->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    chain->u.pLayerInfo = chain->u.pLayerInfo->pNext;
    VkResult result = ((PFN_vkCreateInstance)next_instance(NULL, "vkCreateInstance"))(info, host, out);
    if (result == VK_SUCCESS) made = *out;
    return result;
}

OURS our_CreateDevice(VkPhysicalDevice physical, const VkDeviceCreateInfo *info, HOST, VkDevice *out) {
    if (fails(device)) return VK_ERROR_OUT_OF_HOST_MEMORY;
    LINK(VkLayerDeviceCreateInfo, info, VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO)
    PFN_vkGetInstanceProcAddr get_instance = chain->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    PFN_vkGetDeviceProcAddr get = chain->u.pLayerInfo->pfnNextGetDeviceProcAddr;
    chain->u.pLayerInfo = chain->u.pLayerInfo->pNext;
    VkResult result = ((PFN_vkCreateDevice)get_instance(made, "vkCreateDevice"))(physical, info, host, out);
    if (result != VK_SUCCESS) return result;
    struct device *device = devices;
    while (device->key) device++;
    memset(device, 0, sizeof *device);
    device->key = *(void **)*out;
    device->handle = *out;
    device->get = get;
#define NEXT(name) device->name = (PFN_vk##name)get(*out, "vk" #name);
    CALLS(NEXT)
#undef NEXT
    return result;
}

static PFN_vkVoidFunction ours(const char *name) {
#define IF(call) if (!strcmp(name, "vk" #call)) return (PFN_vkVoidFunction)our_##call;
    CALLS(IF)
#undef IF
    return NULL;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device(VkDevice d, const char *name) {
    if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)get_device;
    PFN_vkVoidFunction next = of(d)->get(d, name);
    PFN_vkVoidFunction own = next ? ours(name) : NULL;
    return own ? own : next;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_instance(VkInstance which, const char *name) {
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (PFN_vkVoidFunction)get_instance;
    if (!strcmp(name, "vkGetDeviceProcAddr")) return (PFN_vkVoidFunction)get_device;
    if (!strcmp(name, "vkCreateInstance")) return (PFN_vkVoidFunction)our_CreateInstance;
    if (!strcmp(name, "vkCreateDevice")) return (PFN_vkVoidFunction)our_CreateDevice;
    PFN_vkVoidFunction own = ours(name);
    return own ? own : next_instance ? next_instance(which, name) : NULL;
}

__attribute__((visibility("default"))) VKAPI_ATTR VkResult VKAPI_CALL
vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *version) {
    version->loaderLayerInterfaceVersion = 2;
    version->pfnGetInstanceProcAddr = get_instance;
    version->pfnGetDeviceProcAddr = get_device;
    version->pfnGetPhysicalDeviceProcAddr = NULL;
    return VK_SUCCESS;
}
