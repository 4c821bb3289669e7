// The interface of i915 as the programs here use it (include/uapi/drm/i915_drm.h), and the commands that they give the GPU.
#pragma once
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

// The interface: numbers and layouts of i915_drm.h.
struct gem_close { uint32_t handle, pad; };
struct gem_create { uint64_t size; uint32_t handle, pad; };
struct gem_pread { uint32_t handle, pad; uint64_t offset, size, data; };
struct gem_wait { uint32_t handle, flags; int64_t timeout_ns; };
struct exec_object {
	uint32_t handle, relocation_count;
	uint64_t relocs_ptr, alignment, offset, flags, rsvd1, rsvd2;
};
struct execbuffer {
	uint64_t buffers_ptr;
	uint32_t buffer_count, batch_start_offset, batch_len, dr1, dr4, num_cliprects;
	uint64_t cliprects_ptr, flags, rsvd1, rsvd2;
};
struct getparam { int32_t param; int *value; };
struct reset_stats { uint32_t ctx, flags, resets, active, pending, pad; };

#define GEM_CLOSE _IOW('d', 0x09, struct gem_close)
#define I915(n) (0x40 + (n))
#define GETPARAM _IOWR('d', I915(0x06), struct getparam)
#define GEM_CREATE _IOWR('d', I915(0x1b), struct gem_create)
#define GEM_PREAD _IOW('d', I915(0x1c), struct gem_pread)
#define GEM_PWRITE _IOW('d', I915(0x1d), struct gem_pread)
#define GEM_EXECBUFFER2 _IOW('d', I915(0x29), struct execbuffer)
#define GEM_WAIT _IOWR('d', I915(0x2c), struct gem_wait)
#define GET_RESET_STATS _IOWR('d', I915(0x32), struct reset_stats)
#define PARAM_CHIPSET_ID 4
#define OBJECT_WRITE (1 << 2)
#define OBJECT_48BIT (1 << 3)
#define OBJECT_PINNED (1 << 4)
#define EXEC_NO_RELOC (1 << 11)

// Commands (Broadwell PRM, volume 2a).
#define MI_BATCH_BUFFER_END 0x05000000
#define MI_BATCH_BUFFER_START 0x18800101
#define SECOND_LEVEL (1 << 22)
#define MI_STORE_DATA_IMM 0x10000002
#define XY_COLOR_BLT_32 0x54300005
#define XY_SRC_COPY_BLT_32 0x54f00008
#define DEPTH_32 (3 << 24)
#define ROP_FILL (0xf0 << 16)
#define ROP_COPY (0xcc << 16)

// Beyond 4 GiB, so that all four levels of the tables count.
#define BATCH 0x200000000ull

static int fd;

static void must(int result, const char *what)
{
	if (result < 0) {
		printf("FAILED %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

// An ioctl, again and again while a signal comes between.
static int again(unsigned long request, void *arg)
{
	int result;
	do {
		result = ioctl(fd, request, arg);
	} while (result < 0 && (errno == EINTR || errno == EAGAIN));
	return result;
}

static void open_gpu(const char *node)
{
	int id = 0;
	struct getparam g = { .param = PARAM_CHIPSET_ID, .value = &id };
	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = open(node, O_RDWR | O_CLOEXEC);
	must(fd, "open");
	must(again(GETPARAM, &g), "GETPARAM");
	printf("chipset %#x\n", id);
}

static uint32_t create(uint64_t size)
{
	struct gem_create c = { .size = size };
	must(again(GEM_CREATE, &c), "GEM_CREATE");
	return c.handle;
}

static void discard(uint32_t handle)
{
	struct gem_close c = { .handle = handle };
	must(again(GEM_CLOSE, &c), "GEM_CLOSE");
}

static void put(uint32_t handle, const void *data, uint64_t size)
{
	struct gem_pread p = { .handle = handle, .size = size, .data = (uintptr_t)data };
	must(again(GEM_PWRITE, &p), "GEM_PWRITE");
}

static void get(uint32_t handle, void *data, uint64_t size)
{
	struct gem_pread p = { .handle = handle, .size = size, .data = (uintptr_t)data };
	must(again(GEM_PREAD, &p), "GEM_PREAD");
}

static struct exec_object object(uint32_t handle, uint64_t address, uint64_t flags)
{
	return (struct exec_object){
		.handle = handle,
		.offset = address,
		.flags = flags | OBJECT_48BIT | OBJECT_PINNED,
	};
}

// Submits commands to an engine in an object that is not in use, at an address. Where another one is still in use there the driver
// waits for that first.
static void execute(uint32_t batch, uint64_t at, int engine, struct exec_object *others, int count,
		    const uint32_t *commands, int dwords)
{
	struct exec_object objects[4];
	put(batch, commands, dwords * 4);
	memcpy(objects, others, count * sizeof *others);
	objects[count] = object(batch, at, 0);
	struct execbuffer e = {
		.buffers_ptr = (uintptr_t)objects,
		.buffer_count = count + 1,
		.batch_len = dwords * 4,
		.flags = engine | EXEC_NO_RELOC,
	};
	must(again(GEM_EXECBUFFER2, &e), "GEM_EXECBUFFER2");
}

// Submits a batch to an engine; what can be waited for is the batch's handle.
static uint32_t submit_at(uint64_t at, int engine, struct exec_object *others, int count, const uint32_t *commands,
			  int dwords)
{
	uint32_t batch = create((dwords * 4 + 4095) & ~4095);
	execute(batch, at, engine, others, count, commands, dwords);
	return batch;
}

static uint32_t submit(int engine, struct exec_object *others, int count, const uint32_t *commands, int dwords)
{
	return submit_at(BATCH, engine, others, count, commands, dwords);
}

static void wait(uint32_t batch, int seconds)
{
	struct gem_wait w = { .handle = batch, .timeout_ns = seconds * 1000000000ll };
	must(again(GEM_WAIT, &w), "GEM_WAIT");
}

// Runs a batch on an engine and waits for its end.
static void run(int engine, struct exec_object *others, int count, const uint32_t *commands, int dwords)
{
	uint32_t batch = submit(engine, others, count, commands, dwords);
	wait(batch, 20);
	discard(batch);
}
