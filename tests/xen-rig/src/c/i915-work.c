// Work for every engine of a GPU that a stock i915 drives, by its own interface (include/uapi/drm/i915_drm.h): stores on
// four engines, a fill and a copy on the blitter, each checked. Says a line for each, and ends with status 0 if all held.
// i915-work [NODE [PART...]]: stores and blits, or what is named: others (stores on all engines but the blitter), stream (many
// batches, not waited for one by one), piled (the same behind blits that take seconds), frames (pictures of several batches each, of
// which all but two have to be done before the next), loop (a batch that goes round for ever), long (blits that take minutes); the
// driver has to end the last two by a reset.
#include "i915.h"

// A picture of 512 by 256 pixels, whose pages are not neighbours.
#define WIDTH 512
#define HEIGHT 256
#define PITCH (WIDTH * 4)
#define BYTES (PITCH * HEIGHT)
// Beyond 4 GiB, so that all four levels of the tables count.
#define TARGET 0x123456780000ull
#define SOURCE 0x100000000ull
#define COPY 0x7f0000000000ull

static int failures;

static void check(const char *what, int holds)
{
	failures += !holds;
	printf("%s %s\n", what, holds ? "ok" : "WRONG");
}

static const struct { const char *name; int engine; } engines[] = {
	{ "RCS", 1 }, { "VCS", 2 }, { "BCS", 3 }, { "VECS", 4 },
};

static void stores_but(int skipped)
{
	for (int i = 0; i < 4; i++) {
		if (i == skipped)
			continue;
		uint32_t target = create(8192), words[2048] = { 0 };
		int right = 1;
		for (uint32_t n = 0; n < 10; n++) {
			uint32_t value = 0xc0de0000 + 256 * i + n;
			uint64_t at = TARGET + 400 * n;
			uint32_t batch[] = {
				MI_STORE_DATA_IMM, (uint32_t)at, (uint32_t)(at >> 32), value,
				MI_BATCH_BUFFER_END, 0,
			};
			struct exec_object o = object(target, TARGET, OBJECT_WRITE);
			run(engines[i].engine, &o, 1, batch, 6);
			get(target, words, sizeof words);
			right &= words[100 * n] == value;
		}
		char line[32];
		snprintf(line, sizeof line, "store %s", engines[i].name);
		check(line, right);
	}
}

static void stores(void)
{
	stores_but(-1);
}

static void others(void)
{
	stores_but(2);
}

static uint32_t colour(int band)
{
	return 0x00102030u * (band + 1) & 0xffffff;
}

// Bands of colour are drawn into one surface and copied to another, upside down.
static void blits(void)
{
	uint32_t source = create(BYTES), copy = create(BYTES), batch[256];
	uint32_t *pixels = malloc(BYTES);
	int n = 0, right = 1;
	for (int band = 0; band < 8; band++) {
		uint32_t fill[] = {
			XY_COLOR_BLT_32, DEPTH_32 | ROP_FILL | PITCH, (band * 32) << 16,
			(band * 32 + 32) << 16 | WIDTH, (uint32_t)SOURCE, SOURCE >> 32, colour(band),
		};
		memcpy(batch + n, fill, sizeof fill);
		n += 7;
	}
	for (int band = 0; band < 8; band++) {
		uint32_t blit[] = {
			XY_SRC_COPY_BLT_32, DEPTH_32 | ROP_COPY | PITCH, (band * 32) << 16,
			(band * 32 + 32) << 16 | WIDTH, (uint32_t)COPY, COPY >> 32,
			((7 - band) * 32) << 16, PITCH, (uint32_t)SOURCE, SOURCE >> 32,
		};
		memcpy(batch + n, blit, sizeof blit);
		n += 10;
	}
	batch[n++] = MI_BATCH_BUFFER_END;
	n += n & 1;
	struct exec_object objects[] = {
		object(source, SOURCE, OBJECT_WRITE),
		object(copy, COPY, OBJECT_WRITE),
	};
	run(3, objects, 2, batch, n);
	get(source, pixels, BYTES);
	for (int i = 0; i < WIDTH * HEIGHT; i++)
		right &= pixels[i] == colour(i / WIDTH / 32);
	check("fill BCS", right);
	right = 1;
	get(copy, pixels, BYTES);
	for (int i = 0; i < WIDTH * HEIGHT; i++)
		right &= pixels[i] == colour(7 - i / WIDTH / 32);
	check("copy BCS", right);
	free(pixels);
}

// Stores on an engine, of which each is a batch; only the last is waited for.
static void store_many(const char *how, int i)
{
	enum { BATCHES = 32 };
	uint32_t target = create(4096), words[1024] = { 0 }, last = 0;
	struct exec_object o = object(target, TARGET, OBJECT_WRITE);
	int right = 1;
	for (uint32_t n = 0; n < BATCHES; n++) {
		uint64_t at = TARGET + 4 * n;
		uint32_t batch[] = {
			MI_STORE_DATA_IMM, (uint32_t)at, (uint32_t)(at >> 32), n + 1,
			MI_BATCH_BUFFER_END, 0,
		};
		last = submit_at(BATCH + 65536 * (n + 1), engines[i].engine, &o, 1, batch, 6);
	}
	wait(last, 20);
	get(target, words, sizeof words);
	for (uint32_t n = 0; n < BATCHES; n++)
		right &= words[n] == n + 1;
	char line[32];
	snprintf(line, sizeof line, "%s %s", how, engines[i].name);
	check(line, right);
}

static void stream(void)
{
	for (int i = 0; i < 4; i++)
		store_many("stream", i);
}

// Pictures one after the other, as a user's driver draws them: into two surfaces by turns, several batches each, whose objects are used
// again, and none is begun before the last but one is done.
static void frames(void)
{
	enum { FRAMES = 32, PARTS = 4, LINES = HEIGHT / PARTS, FRONT_AND_BACK = 2 };
	uint32_t surfaces[FRONT_AND_BACK], batches[FRONT_AND_BACK][PARTS];
	uint32_t *pixels = malloc(BYTES);
	for (int s = 0; s < FRONT_AND_BACK; s++) {
		surfaces[s] = create(BYTES);
		for (int part = 0; part < PARTS; part++)
			batches[s][part] = create(4096);
	}
	for (int frame = 0; frame < FRAMES; frame++) {
		int s = frame % FRONT_AND_BACK;
		uint64_t surface = s ? COPY : SOURCE;
		struct exec_object o = object(surfaces[s], surface, OBJECT_WRITE);
		if (frame >= FRONT_AND_BACK)
			wait(batches[s][PARTS - 1], 20);
		for (int part = 0; part < PARTS; part++) {
			uint32_t fill[] = {
				XY_COLOR_BLT_32, DEPTH_32 | ROP_FILL | PITCH, (part * LINES) << 16,
				((part + 1) * LINES) << 16 | WIDTH, (uint32_t)surface, surface >> 32,
				colour(PARTS * frame + part), MI_BATCH_BUFFER_END,
			};
			execute(batches[s][part], BATCH + 65536 * (PARTS * s + part + 1), 3, &o, 1, fill, 8);
		}
	}
	int right = 1;
	for (int frame = FRAMES - FRONT_AND_BACK; frame < FRAMES; frame++) {
		int s = frame % FRONT_AND_BACK;
		wait(batches[s][PARTS - 1], 20);
		get(surfaces[s], pixels, BYTES);
		for (int i = 0; i < WIDTH * HEIGHT; i++)
			right &= pixels[i] == colour(PARTS * frame + i / WIDTH / LINES);
	}
	check("frames BCS", right);
	free(pixels);
}

// Waits until the driver has ended a batch that does not end, and looks whom it blames.
static void hangs(const char *what, int engine, struct exec_object *others, int count, const uint32_t *batch, int dwords)
{
	struct reset_stats stats = { 0 };
	char line[64];
	wait(submit(engines[engine].engine, others, count, batch, dwords), 120);
	must(again(GET_RESET_STATS, &stats), "GET_RESET_STATS");
	snprintf(line, sizeof line, "%s %s ended", what, engines[engine].name);
	check(line, stats.active == 1);
}

static void loop(void)
{
	uint32_t batch[] = { MI_BATCH_BUFFER_START, (uint32_t)BATCH, BATCH >> 32, MI_BATCH_BUFFER_END };
	hangs("loop", 2, NULL, 0, batch, 4);
}

// A batch that calls another, which is in its second page, so often or as often as fits. That one fills so many lines, again and again.
static void fills(uint32_t *batch, uint64_t at, int lines, int calls)
{
	int n = 0;
	for (; n + 4 < 1024 && calls-- > 0; n += 3) {
		uint32_t call[] = {
			MI_BATCH_BUFFER_START | SECOND_LEVEL, (uint32_t)BATCH + 4096, BATCH >> 32,
		};
		memcpy(batch + n, call, sizeof call);
	}
	batch[n] = MI_BATCH_BUFFER_END;
	for (n = 1024; n + 8 < 2048; n += 7) {
		uint32_t fill[] = {
			XY_COLOR_BLT_32, DEPTH_32 | ROP_FILL | PITCH, 0, lines << 16 | WIDTH,
			(uint32_t)at, at >> 32, n,
		};
		memcpy(batch + n, fill, sizeof fill);
	}
	batch[n] = MI_BATCH_BUFFER_END;
}

static void lengthy(void)
{
	uint32_t batch[2048] = { 0 };
	// 400 GB, which take minutes under emulation: longer than the driver is patient
	struct exec_object o = object(create(16 * BYTES), TARGET, OBJECT_WRITE);
	fills(batch, TARGET, 16 * HEIGHT, 1024);
	hangs("long", 2, &o, 1, batch, 2048);
}

static void piled(void)
{
	uint32_t batch[2048] = { 0 };
	struct exec_object o = object(create(BYTES), SOURCE, OBJECT_WRITE);
	fills(batch, SOURCE, HEIGHT, 12);
	submit(engines[2].engine, &o, 1, batch, 2048);
	store_many("piled", 2);
}

int main(int argc, char **argv)
{
	open_gpu(argc > 1 ? argv[1] : "/dev/dri/card0");
	static const struct { const char *name; void (*run)(void); int usual; } parts[] = {
		{ "stores", stores, 1 }, { "others", others, 0 }, { "blits", blits, 1 },
		{ "stream", stream, 0 }, { "piled", piled, 0 }, { "frames", frames, 0 }, { "loop", loop, 0 },
		{ "long", lengthy, 0 },
	};
	for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
		int named = argc <= 2 && parts[i].usual;
		for (int a = 2; a < argc; a++)
			named |= !strcmp(argv[a], parts[i].name);
		if (named)
			parts[i].run();
	}
	printf("work %s\n", failures ? "FAILED" : "done");
	return failures != 0;
}
