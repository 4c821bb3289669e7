//! Lines with and without controllers behind them.

use xen_ioreq::abi::dm_op::*;
use xen_ioreq::{DomId, Errno};

use crate::testing::{DOM0, dm, guest, machine, scope, vcpu};
use crate::{Caller, Config, DomainConfig, InterruptLines, Machine, Vcpu};

fn isa(c: &Caller, d: DomId, isa_irq: u8, level: u8) -> Result<(), Errno> {
    dm(c, d, XEN_DMOP_set_isa_irq_level, &mut xen_dm_op_set_isa_irq_level { isa_irq, level })
}

fn intx(c: &Caller, d: DomId, device: u8, level: u8) -> Result<(), Errno> {
    let mut data = xen_dm_op_set_pci_intx_level { device, level, ..Default::default() };
    dm(c, d, XEN_DMOP_set_pci_intx_level, &mut data)
}

fn link(c: &Caller, d: DomId, link: u8, isa_irq: u8) -> Result<(), Errno> {
    dm(c, d, XEN_DMOP_set_pci_link_route, &mut xen_dm_op_set_pci_link_route { link, isa_irq })
}

/// An HVM guest, its first vCPU, and dom0.
fn hvm(m: &std::sync::Arc<Machine>) -> (DomId, Vcpu, Caller) {
    let config = DomainConfig { legacy_interrupts: true, ..DomainConfig::default() };
    let d = m.create_domain(&config).unwrap();
    (d, vcpu(m, d, 0), m.caller(DOM0).unwrap())
}

fn route(v: &Vcpu, pin: u64, low: u64) {
    v.mmio_write(0xfec0_0000, 4, 0x10 + 2 * pin).unwrap();
    v.mmio_write(0xfec0_0010, 4, low).unwrap();
}

#[test]
fn a_line_that_an_8259_would_hear_is_refused_where_there_is_none() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let c = m.caller(DOM0).unwrap();
    assert_eq!([isa(&c, d, 4, 1), isa(&c, d, 0, 1), isa(&c, d, 15, 1)], [Err(Errno::ENODEV); 3]);
    assert_eq!(m.interrupt_lines(d), Ok(InterruptLines::default()), "nothing has changed");
    assert_eq!([isa(&c, d, 4, 0), isa(&c, d, 2, 1), intx(&c, d, 4, 1)], [Ok(()); 3]);
    assert_eq!(link(&c, d, 0, 11), Err(Errno::ENODEV), "a pin of that link is up");
    assert_eq!([intx(&c, d, 4, 0), link(&c, d, 0, 11)], [Ok(()); 2]);
    assert_eq!(intx(&c, d, 4, 1), Err(Errno::ENODEV));
}

#[test]
fn without_controllers_their_registers_are_nobodys() {
    let m = machine(Config::default());
    let d = guest(&m, 1);
    let v = vcpu(&m, d, 0);
    assert_eq!((v.mmio_read(0xfec0_0010, 4), v.pio_read(0x21, 1)), (Ok(0xffff_ffff), Ok(0xff)));
}

#[test]
fn a_level_comes_again_after_each_end_until_it_is_down() {
    let m = machine(Config::default());
    let (d, v, c) = hvm(&m);
    route(&v, 5, 0x8031);
    isa(&c, d, 5, 1).unwrap();
    for _ in 0..3 {
        assert_eq!(v.enter_interrupt(Some(std::time::Duration::ZERO)), Ok(Some(0x31)));
        assert_eq!(v.enter_interrupt(Some(std::time::Duration::ZERO)), Ok(None), "it is in service");
        v.end_of_interrupt().unwrap();
    }
    isa(&c, d, 5, 0).unwrap();
    assert_eq!(v.take_interrupt(), Ok(Some(0x31)), "it was sent before");
    assert_eq!(v.take_interrupt(), Ok(None));
}

#[test]
fn what_is_in_service_holds_off_its_own_class_and_no_higher_one() {
    let m = machine(Config::default());
    let (d, v, c) = hvm(&m);
    for (pin, vector) in [(5, 0x31), (6, 0x38), (7, 0x40)] {
        route(&v, pin, vector);
    }
    let enter = || v.enter_interrupt(Some(std::time::Duration::ZERO)).unwrap();
    isa(&c, d, 5, 1).unwrap();
    assert_eq!(enter(), Some(0x31));
    isa(&c, d, 6, 1).unwrap();
    assert_eq!(enter(), None);
    isa(&c, d, 7, 1).unwrap();
    assert_eq!(enter(), Some(0x40));
    v.end_of_interrupt().unwrap();
    assert_eq!(enter(), None);
    v.end_of_interrupt().unwrap();
    assert_eq!(enter(), Some(0x38));
}

#[test]
fn a_line_of_the_8259_ends_a_halt_of_the_vcpu_that_is_wired() {
    let m = machine(Config::default());
    let (d, v, c) = hvm(&m);
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1)] {
        v.pio_write(port, 1, value).unwrap();
    }
    v.set_extint(true).unwrap();
    scope(&m, d, |s| {
        let halted = s.spawn(move || (v.wait_interrupt(None), v));
        isa(&c, d, 5, 1).unwrap();
        let (came, v) = halted.join().unwrap();
        assert_eq!(came, Ok(Some(0x25)));
        assert_eq!(v.take_interrupt(), Ok(None), "in service");
        isa(&c, d, 5, 0).unwrap();
        isa(&c, d, 5, 1).unwrap();
        v.pio_write(0x20, 1, 0x20).unwrap();
        assert_eq!(v.take_interrupt(), Ok(Some(0x25)));
    });
}
