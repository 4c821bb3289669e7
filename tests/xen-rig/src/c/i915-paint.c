// Pictures on the blitter of a GPU that a stock i915 drives, one after the other, each in new memory and each checked, while
// the guest's balloon does what it is told. Says when the balloon has come to rest, and at the end how many were right.
// i915-paint NODE [PICTURES]: so many, or until SIGTERM; then the last one stays where it is until SIGTERM comes (again)
#include "i915.h"
#include <signal.h>

// A picture of 16 by 8 tiles, each of one colour, and a copy of it with each tile at the opposite place.
#define WIDTH 512
#define HEIGHT 256
#define TILE 32
#define COLUMNS (WIDTH / TILE)
#define ROWS (HEIGHT / TILE)
#define PITCH (WIDTH * 4)
#define BYTES (PITCH * HEIGHT)
#define PAINTED 0x100000000ull
#define COPY 0x7f0000000000ull
// What is filled and let go again now and then, so that entries lead to pages that the balloon takes: 2 MiB.
#define SPARE 0x300000000ull
#define SPARE_LINES 1024
#define SPARE_EVERY 8
#define BCS 3
// Wrong pixels that are told one by one.
#define TOLD 3

#define BALLOON "/sys/devices/system/xen_memory/xen_memory0/"

static volatile sig_atomic_t terms;
static uint32_t pixels[WIDTH * HEIGHT];

static void term(int signal)
{
	(void)signal;
	terms++;
}

// Of each picture another, and of each tile in it.
static uint32_t colour(uint32_t picture, uint32_t column, uint32_t row)
{
	return (15 + 16 * column) << 16 | (31 + 32 * row) << 8 | ((37 * picture + column * row) & 0xff);
}

static int fill(uint32_t *to, uint64_t at, uint32_t x, uint32_t y, uint32_t width, uint32_t height, uint32_t with)
{
	uint32_t command[] = {
		XY_COLOR_BLT_32, DEPTH_32 | ROP_FILL | PITCH, y << 16 | x, (y + height) << 16 | (x + width),
		(uint32_t)at, at >> 32, with,
	};
	memcpy(to, command, sizeof command);
	return 7;
}

static int copy(uint32_t *to, uint32_t x, uint32_t y, uint32_t from_x, uint32_t from_y)
{
	uint32_t command[] = {
		XY_SRC_COPY_BLT_32, DEPTH_32 | ROP_COPY | PITCH, y << 16 | x, (y + TILE) << 16 | (x + TILE),
		(uint32_t)COPY, COPY >> 32, from_y << 16 | from_x, PITCH, (uint32_t)PAINTED, PAINTED >> 32,
	};
	memcpy(to, command, sizeof command);
	return 10;
}

static int end(uint32_t *batch, int n)
{
	batch[n++] = MI_BATCH_BUFFER_END;
	return n + (n & 1);
}

static void paint(uint32_t picture, uint32_t painted, uint32_t copied)
{
	static uint32_t batch[17 * COLUMNS * ROWS + 2];
	int n = 0;
	for (uint32_t i = 0; i < COLUMNS * ROWS; i++) {
		uint32_t column = i % COLUMNS, row = i / COLUMNS;
		n += fill(batch + n, PAINTED, column * TILE, row * TILE, TILE, TILE, colour(picture, column, row));
	}
	for (uint32_t i = 0; i < COLUMNS * ROWS; i++) {
		uint32_t column = i % COLUMNS, row = i / COLUMNS;
		n += copy(batch + n, (COLUMNS - 1 - column) * TILE, (ROWS - 1 - row) * TILE, column * TILE, row * TILE);
	}
	struct exec_object objects[] = {
		object(painted, PAINTED, OBJECT_WRITE), object(copied, COPY, OBJECT_WRITE),
	};
	run(BCS, objects, 2, batch, end(batch, n));
}

static int right(uint32_t picture, uint32_t handle, int opposite)
{
	int wrong = 0;
	get(handle, pixels, BYTES);
	for (uint32_t i = 0; i < WIDTH * HEIGHT; i++) {
		uint32_t column = i % WIDTH / TILE, row = i / WIDTH / TILE;
		uint32_t wanted = opposite ? colour(picture, COLUMNS - 1 - column, ROWS - 1 - row)
					   : colour(picture, column, row);
		if (pixels[i] != wanted && wrong++ < TOLD)
			printf("picture %u pixel %u,%u of the %s WRONG: %#x, not %#x\n", picture, i % WIDTH, i / WIDTH,
			       opposite ? "copy" : "painting", pixels[i], wanted);
	}
	return !wrong;
}

static void spare(void)
{
	uint32_t handle = create(SPARE_LINES * PITCH), batch[10];
	struct exec_object o = object(handle, SPARE, OBJECT_WRITE);
	run(BCS, &o, 1, batch, end(batch, fill(batch, SPARE, 0, 0, WIDTH, SPARE_LINES, 0x5ba7e)));
	discard(handle);
}

static long number(const char *path)
{
	char text[32] = "";
	int file = open(path, O_RDONLY);
	must(file, path);
	must(read(file, text, sizeof text - 1), path);
	close(file);
	return atol(text);
}

// Says when the guest has the memory that it was told to have, and how often it had to ask again for it meanwhile.
static void balloon(uint32_t pictures)
{
	static long rest = -1, rests, tries;
	long target = number(BALLOON "target_kb"), now = number(BALLOON "info/current_kb");
	long try = number(BALLOON "retry_count");
	tries = try > tries ? try : tries;
	if (now == target && now != rest) {
		printf("rest %ld at %ld kB, pictures %u, tries %ld\n", rests++, now, pictures, tries);
		rest = now;
		tries = 0;
	}
}

int main(int argc, char **argv)
{
	uint32_t most = argc > 2 ? (uint32_t)atoi(argv[2]) : UINT32_MAX, picture = 0, wrong = 0;
	uint32_t painted, copied;
	struct sigaction act = { .sa_handler = term };
	open_gpu(argc > 1 ? argv[1] : "/dev/dri/card0");
	must(sigaction(SIGTERM, &act, NULL), "sigaction");
	for (;;) {
		painted = create(BYTES);
		copied = create(BYTES);
		paint(++picture, painted, copied);
		wrong += !(right(picture, painted, 0) & right(picture, copied, 1));
		balloon(picture);
		if (picture >= most || terms)
			break;
		discard(painted);
		discard(copied);
		if (picture % SPARE_EVERY == 0)
			spare();
	}
	printf("pictures %u wrong %u\n", picture, wrong);
	int before = most == UINT32_MAX ? 1 : 0;
	printf("shows %u\n", picture);
	while (terms <= before)
		usleep(100000);
	return wrong != 0;
}
