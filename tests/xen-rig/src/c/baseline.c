/*
 * The peer that the project's IOREQ server is measured against: the least that a C program must do.
 *
 *     baseline DOMID
 *
 * Serves vCPU 0 of a paused guest on ports 0x1000-0x101f and MMIO 0xfe000000-0xfe000fff: blocks in poll() on the event
 * channels' descriptor, since a server must also notice that nothing comes any more, and answers every read with a
 * constant. The guest brackets its accesses by markers written to port 0x1010: 1 starts the port reads, 2 ends them and
 * starts the MMIO reads, 3 ends those; a write to port 0x101c is its last. Each phase becomes a line
 * "PHASE COUNT NANOSECONDS" on stdout. Says "ready" when the guest may run.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include <xenctrl.h>
#include <xen/hvm/dm_op.h>
#include <xen/hvm/ioreq.h>
#include <xen/memory.h>
#include <xendevicemodel.h>
#include <xenevtchn.h>
#include <xenforeignmemory.h>

enum { PATIENCE_MS = 30000 };
enum { PORT_FIRST = 0x1000, PORT_LAST = 0x101f, PORT_MARKER = 0x1010, PORT_END = 0x101c };
#define MMIO_FIRST 0xfe000000ull
#define MMIO_LAST 0xfe000fffull

static void must(long ret, const char *what)
{
    if (ret >= 0)
        return;
    fprintf(stderr, "baseline: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int main(int argc, char **argv)
{
    static const char *const phase_name[] = { NULL, NULL, "pio", "mmio" };

    if (argc != 2) {
        fprintf(stderr, "usage: baseline DOMID\n");
        return 2;
    }
    domid_t domid = (domid_t)strtoul(argv[1], NULL, 10);
    xendevicemodel_handle *model = xendevicemodel_open(NULL, 0);
    xenforeignmemory_handle *memory = xenforeignmemory_open(NULL, 0);
    xenevtchn_handle *events = xenevtchn_open(NULL, 0);
    must(model && memory && events ? 0 : -1, "opening /dev/xen");

    ioservid_t id;
    must(xendevicemodel_create_ioreq_server(model, domid, HVM_IOREQSRV_BUFIOREQ_OFF, &id), "create_ioreq_server");
    void *page = NULL;
    xenforeignmemory_resource_handle *resource = xenforeignmemory_map_resource(
        memory, domid, XENMEM_resource_ioreq_server, id, XENMEM_resource_ioreq_server_frame_ioreq(0), 1, &page,
        PROT_READ | PROT_WRITE, 0);
    must(resource ? 0 : -1, "map_resource");
    must(xendevicemodel_map_io_range_to_ioreq_server(model, domid, id, 0, PORT_FIRST, PORT_LAST), "ports");
    must(xendevicemodel_map_io_range_to_ioreq_server(model, domid, id, 1, MMIO_FIRST, MMIO_LAST), "MMIO");
    must(xendevicemodel_set_ioreq_server_state(model, domid, id, 1), "set_ioreq_server_state");
    volatile ioreq_t *slot = &((shared_iopage_t *)page)->vcpu_ioreq[0];
    xenevtchn_port_or_error_t port = xenevtchn_bind_interdomain(events, domid, slot->vp_eport);
    must(port, "bind_interdomain");
    puts("ready");
    fflush(stdout);

    uint64_t started = 0, count = 0;
    int ended = 0;
    struct pollfd readable = { .fd = xenevtchn_fd(events), .events = POLLIN };
    while (!ended) {
        if (poll(&readable, 1, PATIENCE_MS) <= 0) {
            fprintf(stderr, "baseline: nothing comes from the guest any more\n");
            return 1;
        }
        xenevtchn_port_or_error_t pending = xenevtchn_pending(events);
        must(pending, "event");
        must(xenevtchn_unmask(events, (evtchn_port_t)pending), "unmask");
        if (slot->state != STATE_IOREQ_READY)
            continue;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        slot->state = STATE_IOREQ_INPROCESS;
        if (slot->dir == IOREQ_READ) {
            slot->data = 0x12345678;
            count++;
        } else if (slot->type == IOREQ_TYPE_PIO && slot->addr == PORT_MARKER) {
            uint64_t at = now_ns(), marker = slot->data;

            if (marker == 2 || marker == 3)
                printf("%s %" PRIu64 " %" PRIu64 "\n", phase_name[marker], count, at - started);
            count = 0;
            started = at;
        } else if (slot->type == IOREQ_TYPE_PIO && slot->addr == PORT_END) {
            ended = 1;
        }
        __atomic_thread_fence(__ATOMIC_RELEASE);
        slot->state = STATE_IORESP_READY;
        must(xenevtchn_notify(events, (evtchn_port_t)port), "notify");
    }
    fflush(stdout);
    xenforeignmemory_unmap_resource(memory, resource);
    must(xendevicemodel_destroy_ioreq_server(model, domid, id), "destroy_ioreq_server");
    return 0;
}
