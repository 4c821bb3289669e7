//! Rows of `dm_op` about interrupts, before the guest has run and after.

use xen_ioreq::Errno;
use xen_ioreq::abi::dm_op::*;
use xen_ioreq::abi::sched::SHUTDOWN_crash;

use super::stage::Stage;
use crate::case::{Answer, Case, cases};

fn intx(s: &Stage, device: u8, intx: u8, level: u8) -> Answer {
    s.tell(
        XEN_DMOP_set_pci_intx_level,
        xen_dm_op_set_pci_intx_level { device, intx, level, ..Default::default() },
    )
}

fn isa(s: &Stage, isa_irq: u8, level: u8) -> Answer {
    s.tell(XEN_DMOP_set_isa_irq_level, xen_dm_op_set_isa_irq_level { isa_irq, level })
}

fn link(s: &Stage, link: u8, isa_irq: u8) -> Answer {
    s.tell(XEN_DMOP_set_pci_link_route, xen_dm_op_set_pci_link_route { link, isa_irq })
}

fn msi(s: &Stage, addr: u64, data: u32) -> Answer {
    s.tell(XEN_DMOP_inject_msi, xen_dm_op_inject_msi { data, pad: 0, addr })
}

/// An NMI.
fn event(vcpuid: u32) -> xen_dm_op_inject_event {
    xen_dm_op_inject_event {
        vcpuid,
        vector: 2,
        r#type: XEN_DMOP_EVENT_nmi,
        error_code: !0,
        ..Default::default()
    }
}

/// Of a guest that has not run yet: its local APICs are off. No row raises an ISA line that an 8259 would hear, by itself or by a
/// link: a PVH guest has none, and Xen 4.17.7 was seen to panic. `vpic.c` takes the two that nobody has set up for cascaded ones
/// and raises the input of the one "above", which lies before the array. The model refuses that with ENODEV. Lines of HVM guests
/// are rows of `guest::rows`.
#[rustfmt::skip]
pub(super) const LINES: &[Case<Stage>] = cases! { Stage;
    "intx_of_device_32_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_pci_intx_level, xen_dm_op_set_pci_intx_level { device: 32, ..Default::default() });
    "intx_of_bus_1_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_pci_intx_level, xen_dm_op_set_pci_intx_level { bus: 1, ..Default::default() });
    "intx_of_pin_4_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_pci_intx_level, xen_dm_op_set_pci_intx_level { intx: 4, ..Default::default() });
    "intx_of_segment_1_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_pci_intx_level, xen_dm_op_set_pci_intx_level { domain: 1, ..Default::default() });
    "isa_irq_16_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_isa_irq_level, xen_dm_op_set_isa_irq_level { isa_irq: 16, level: 0 });
    "link_4_is_einval" ["irq.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_pci_link_route, xen_dm_op_set_pci_link_route { link: 4, isa_irq: 5 });
    "link_to_isa_irq_16_is_einval" ["irq.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_set_pci_link_route, xen_dm_op_set_pci_link_route { link: 0, isa_irq: 16 });
    "msi_with_pad_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_inject_msi, xen_dm_op_inject_msi { pad: 1, data: 0x40, addr: 0xfee0_0000 });
    "intx_up_and_down" ["irq.c"] => Ok(0), |s| { intx(s, 31, 3, 1)?; intx(s, 31, 3, 0) };
    "intx_up_twice_and_down_once" ["irq.c: levels"] => Ok(0), |s| { intx(s, 2, 0, 1)?; intx(s, 2, 0, 1)?; intx(s, 2, 0, 0) };
    "intx_level_2_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| intx(s, 2, 0, 2);
    "isa_irq_down_that_was_not_up" ["irq.c"] => Ok(0), |s| isa(s, 15, 0);
    "isa_irq_2_up_and_down_which_no_8259_hears" ["vpic.c: the cascade"] => Ok(0), |s| { isa(s, 2, 1)?; isa(s, 2, 0) };
    "isa_irq_level_2_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| isa(s, 4, 2);
    "link_there_and_nowhere" ["irq.c"] => Ok(0), |s| { link(s, 3, 11)?; link(s, 3, 0) };
    "msi_for_nobody" ["vmsi.c"] => Ok(0), |s| msi(s, 0xfee0_0000, 0x41);
    "msi_of_vector_15" ["vlapic.c: dropped there"] => Ok(0), |s| msi(s, 0xfee0_0000, 0x0f);
    "msi_of_lowest_priority_for_nobody_is_esrch" ["vmsi.c"] => Err(Errno::ESRCH), |s| msi(s, 0xfeef_f000, 0x141);
    "msi_of_delivery_mode_4_is_einval" ["vmsi.c"] => Err(Errno::EINVAL), |s| msi(s, 0xfee0_0000, 0x441);
    "msi_of_channel_0_is_erange" ["irq.c"] => Err(Errno::ERANGE), |s| msi(s, 0xfee0_0000, 0);
    "event_for_a_vcpu_that_is_not_there_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_inject_event, event(1));
    "event_for_vcpu_0xffffffff_is_einval" ["dm.c"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_inject_event, event(!0));
    "event_with_pad0_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_inject_event, xen_dm_op_inject_event { pad0: 1, ..event(0) });
    "event_with_pad1_is_einval" ["dm_op.h"] => Err(Errno::EINVAL), |s| s.tell(XEN_DMOP_inject_event, xen_dm_op_inject_event { pad1: 1, ..event(0) });
};

/// Of a guest that does not run any more, in this order: what they leave behind stays.
#[rustfmt::skip]
pub(super) const END: &[Case<Stage>] = cases! { Stage;
    "shut_down" ["dm.c"] => Ok(0), |s| s.tell(XEN_DMOP_remote_shutdown, xen_dm_op_remote_shutdown { reason: SHUTDOWN_crash });
    "shut_down_again_for_another_reason" ["domain.c: the first stays"] => Ok(0), |s| s.tell(XEN_DMOP_remote_shutdown, xen_dm_op_remote_shutdown { reason: 0xff });
    "event" ["dm.c"] => Ok(0), |s| s.tell(XEN_DMOP_inject_event, event(0));
    "event_before_the_first_was_met_is_ebusy" ["dm.c"] => Err(Errno::EBUSY), |s| s.tell(XEN_DMOP_inject_event, event(0));
    "nr_vcpus_of_a_guest_that_is_down" ["dm.c"] => Ok(1), |s| s.nr_vcpus(s.guest(), 0);
};
