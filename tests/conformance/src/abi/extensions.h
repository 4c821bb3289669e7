/* The extensions that stock headers lack, declared a second time in C from their own sources: the layout and the
 * numbers from the hypervisor that shipped PV-IOMMU (XenServer's Xen), IOMMUOP_* flags from draft B of June 2015. */
struct pv_iommu_op {
    uint16_t subop_id;
    uint16_t flags;
    int32_t status;
    union {
        struct { uint64_t bfn; uint64_t gfn; } map_page;
        struct { uint64_t bfn; } unmap_page;
        struct { uint64_t bfn; uint64_t gfn; uint16_t domid; uint16_t ioserver; } map_foreign_page;
        struct { uint64_t bfn; uint64_t gfn; uint16_t domid; uint16_t ioserver; } lookup_foreign_page;
        struct { uint64_t bfn; uint16_t ioserver; } unmap_foreign_page;
        struct { uint64_t offset; } query_caps;
    } u;
};
#define __HYPERVISOR_iommu_op 56
enum {
    IOMMUOP_query_caps = 1,
    IOMMUOP_map_page,
    IOMMUOP_unmap_page,
    IOMMUOP_map_foreign_page,
    IOMMUOP_lookup_foreign_page,
    IOMMUOP_unmap_foreign_page,
};
#define IOMMU_QUERY_map_cap (1 << 0)
#define IOMMU_QUERY_map_all_mfns (1 << 1)
#define IOMMUOP_readable (1 << 0)
#define IOMMUOP_writeable (1 << 1)
#define IOMMUOP_swap_mfn (1 << 2)
#define IOMMU_OP_readable (1 << 0)
#define IOMMU_OP_writeable (1 << 1)
#define IOMMU_MAP_OP_no_ref_cnt (1 << 2)
#define IOMMU_MAP_OP_add_m2b (1 << 3)
#define IOMMU_UNMAP_OP_remove_m2b (1 << 0)
#define IOMMU_page_order_shift 10
#define IOMMU_page_order_mask (0x3f << IOMMU_page_order_shift)
#define IOMMU_page_order_mask_xs ((uint16_t)(0xf1 << IOMMU_page_order_shift))
/* Revokable grants, draft B of January 2016: structs as in the draft, numbers ours. */
struct gnttab_map_revokable {
    struct gnttab_map_grant_ref map;
    uint64_t lgfn;
};
struct gnttab_revoke {
    grant_ref_t ref;
};
#define GTF_revokable (1 << 9)
enum {
    GNTTABOP_map_revokable = 13,
    GNTTABOP_revoke,
};
#define GNTTAB_REVOKABLE_MAX_MAPS 2
/* Eventfds of privcmd, from Linux's uapi header of 6.7; the last two from where its driver has them. */
#include <linux/ioctl.h>
struct privcmd_irqfd {
    uint64_t dm_op;
    uint32_t size, fd, flags;
    domid_t dom;
    uint8_t pad[2];
};
struct privcmd_ioeventfd {
    uint64_t ioreq, ports, addr;
    uint32_t addr_len, event_fd, vcpus, vq, flags;
    domid_t dom;
    uint8_t pad[2];
};
#define PRIVCMD_IRQFD_FLAG_DEASSIGN (1 << 0)
#define PRIVCMD_IOEVENTFD_FLAG_DEASSIGN (1 << 0)
#define IOCTL_PRIVCMD_IRQFD _IOW('P', 8, struct privcmd_irqfd)
#define IOCTL_PRIVCMD_IOEVENTFD _IOW('P', 9, struct privcmd_ioeventfd)
#define VIRTIO_MMIO_QUEUE_NOTIFY 0x50
#define QUEUE_NOTIFY_VQ_MASK 0xffff
