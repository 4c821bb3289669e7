//! Registers that are memory of the guest's, too: that memory is right whenever the guest can look.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use xen_ioreq::{DomId, Gfn, PAGE_SIZE};

use super::rig::*;
use super::world::World;
use crate::gen8::cmd;
use crate::gen8::regs::{GRDOM_BLT, GRDOM_FULL, gt};
use crate::vgpu::shown::{PAGE, PAGES};

const FIRST: Gfn = Gfn(0x8_0000);
const MASTER: u32 = 0x4_4200;
const IDENTITY: u32 = 0x4_4308;

fn page(number: usize) -> Gfn {
    Gfn(FIRST.0 + number as u64)
}

/// Shows all of them, in frames of the guest's that hold something else before.
fn show(g: &TestGuest) {
    for number in 0..PAGES.len() {
        if g.world.mfn(g.domid, page(number)).is_none() {
            g.world.populate(g.domid, page(number));
        }
        g.world.write(g.domid, page(number), 0, &[0xa5; PAGE_SIZE]);
        assert!(g.vgpu.show_registers(number, page(number)));
    }
}

/// What a register is in memory.
fn seen(world: &World, domid: DomId, offset: u32) -> u32 {
    let number = PAGES.iter().position(|first| *first == offset & !(PAGE - 1)).unwrap();
    let mut bytes = [0; 4];
    world.read(domid, page(number), (offset % PAGE) as usize, &mut bytes);
    u32::from_le_bytes(bytes)
}

/// The first dword that reads otherwise in memory than by a trap.
fn difference(g: &TestGuest) -> Option<(u32, u32, u32)> {
    let all = PAGES.into_iter().flat_map(|first| (first..first + PAGE).step_by(4));
    let both = all.map(|offset| (offset, seen(&g.world, g.domid, offset), g.reg(offset)));
    both.into_iter().find(|(_, memory, trapped)| memory != trapped)
}

#[test]
fn an_interrupt_finds_in_memory_why_it_was_sent() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    show(&g);
    let found = [Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0))];
    let (world, domid, at_interrupt) = (g.world.clone(), g.domid, found.clone());
    *g.on_msi.lock() = Some(Box::new(move || {
        for (register, found) in [MASTER, IDENTITY].into_iter().zip(&at_interrupt) {
            found.store(seen(&world, domid, register), Ordering::SeqCst);
        }
    }));
    g.emit(&[cmd::MI_USER_INTERRUPT, 0]);
    g.submit();
    g.wait(1);
    eventually("the interrupt", || g.msis.load(Ordering::SeqCst) > 0);
    let found = found.map(|f| f.load(Ordering::SeqCst));
    assert_eq!(found[0], 0x8000_0002, "the master says which group");
    assert_ne!(found[1], 0, "the group says what");
    assert_eq!(difference(&g), None);
}

#[test]
fn a_page_that_the_guest_takes_away_is_free_and_its_registers_go_on() {
    let host = Host::new();
    let g = host.guest();
    show(&g);
    let used = g.world.used();
    g.give_back(page(1));
    assert_eq!(g.world.used(), used - 1, "nothing holds the frame");
    g.set_reg(0x4_4304, 0x1234);
    g.set_reg(0x40e0, 7);
    assert_eq!((g.reg(0x4_4304), g.reg(0x40e0), seen(&g.world, g.domid, 0x40e0)), (0x1234, 7, 7));
    // There is another one now: it is the guest's own business until it is shown again.
    g.world.populate(g.domid, page(1));
    g.set_reg(0x4_4304, 0x5678);
    assert_eq!(seen(&g.world, g.domid, 0x4_4304), 0);
    show(&g);
    assert_eq!(difference(&g), None);
}

#[test]
fn a_page_that_is_not_shown_any_more_is_not_written() {
    let host = Host::new();
    let g = host.guest();
    show(&g);
    g.vgpu.hide_registers(0);
    g.set_reg(0x40e0, 7);
    g.set_reg(0x4_4304, 8);
    assert_eq!((seen(&g.world, g.domid, 0x40e0), seen(&g.world, g.domid, 0x4_4304)), (0, 8));
    assert!(!g.vgpu.show_registers(0, Gfn(0xf_ffff)), "there is no such frame");
}

#[derive(Clone, Debug)]
enum Step {
    Write(u32, u32),
    Submit,
    Reset(u32),
    /// A page goes, and comes back.
    Balloon(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let register = prop_oneof![
        prop::sample::select(vec![
            MASTER,
            IDENTITY,
            0x4_4304,
            0x4_430c,
            0x4_4050,
            0x4094,
            0x426c,
            0x40e0,
            BCS + 0xa8,
            0x4_4408
        ]),
        (prop::sample::select(PAGES.to_vec()), 0..PAGE / 4).prop_map(|(page, dword)| page + 4 * dword),
    ];
    let value = prop_oneof![any::<u32>(), Just(u32::MAX), Just(0), Just(1 << 31)];
    prop_oneof![
        8 => (register, value).prop_map(|(register, value)| Step::Write(register, value)),
        3 => Just(Step::Submit),
        1 => prop::sample::select(vec![GRDOM_BLT, GRDOM_FULL]).prop_map(Step::Reset),
        1 => (0..PAGES.len()).prop_map(Step::Balloon),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happens: a dword reads the same in memory as it does by a trap.
    #[test]
    fn memory_reads_as_the_registers_do(steps in prop::collection::vec(step(), 1..24)) {
        let host = Host::new();
        let mut g = host.guest();
        g.start();
        show(&g);
        for step in steps {
            match step {
                Step::Write(register, value) => g.set_reg(register, value),
                Step::Submit => {
                    let before = g.vgpu.statistics().completions;
                    g.emit(&[cmd::MI_USER_INTERRUPT, 0]);
                    g.submit();
                    g.wait(before + 1);
                }
                Step::Reset(domains) => {
                    g.set_reg(gt::GDRST, domains);
                    eventually("the engines have stopped", || g.reg(gt::GDRST) == 0);
                    g.init_engine();
                }
                Step::Balloon(number) => {
                    g.give_back(page(number));
                    g.world.populate(g.domid, page(number));
                    g.world.write(g.domid, page(number), 0, &[0x5a; PAGE_SIZE]);
                    prop_assert!(g.vgpu.show_registers(number, page(number)));
                }
            }
            prop_assert_eq!(difference(&g), None);
        }
    }
}
