//! Registers that go with a context: what it leaves in them it finds again, and nobody else does.

use super::rig::*;
use crate::gen8::blt::{DST_TILED, Rect, XyColorBlt};
use crate::gen8::cmd::{self, AluOp, AluReg, MI_BATCH_BUFFER_END};
use crate::gen8::context::{Descriptor, state};
use crate::gen8::regs;

const GPR: u32 = BCS + 0x600;
const SWCTRL: u32 = BCS + 0x200;

/// R0 = R0 + R1, in the ring.
fn add() -> Vec<u32> {
    let program = [
        cmd::alu(AluOp::Load, AluReg::SrcA, AluReg::R(0)),
        cmd::alu(AluOp::Load, AluReg::SrcB, AluReg::R(1)),
        cmd::alu(AluOp::Add, AluReg::R(0), AluReg::R(0)),
        cmd::alu(AluOp::Store, AluReg::R(0), AluReg::Accu),
    ];
    [[cmd::math(4)].as_slice(), &program].concat()
}

#[test]
fn context_computes_on_with_what_it_left_and_another_guests_finds_nothing() {
    let host = Host::new();
    let (mut a, mut b) = (host.guest(), host.guest());
    a.start();
    b.start();
    let load = [cmd::load_register_imm(GPR, 40), cmd::load_register_imm(GPR + 8, 2)].concat();
    a.run(&load);
    // Another guest looks at all of them, and leaves its own there.
    for n in 0..32 {
        let register = GPR + 4 * n;
        let look = cmd::store_register_mem(register, b.gm(DATA));
        let leave = cmd::load_register_imm(register, 0xdead_0000 + n);
        b.write32(DATA, 1);
        b.run(&[look.as_slice(), &leave].concat());
        assert_eq!(b.read32(DATA), 0, "register {register:#x}");
    }
    let store = cmd::store_register_mem(GPR, a.gm(DATA));
    a.run(&[add(), store.to_vec()].concat());
    assert_eq!(a.read32(DATA), 42);
    a.run(&[add(), store.to_vec()].concat());
    assert_eq!(a.read32(DATA), 44, "once more, from one submission to the next");
    b.run(&cmd::store_register_mem(GPR + 4, b.gm(DATA)));
    assert_eq!(b.read32(DATA), 0xdead_0001);
}

#[test]
fn context_whose_image_is_not_to_be_restored_begins_with_zeros() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.run(&cmd::load_register_imm(GPR, 7));
    g.set_state(state::CONTEXT_CONTROL, regs::masked_enable(1));
    g.write32(DATA, 1);
    g.run(&cmd::store_register_mem(GPR, g.gm(DATA)));
    assert_eq!(g.read32(DATA), 0);
}

#[test]
fn two_contexts_of_one_guest_have_registers_of_their_own() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    g.run(&cmd::load_register_imm(GPR, 7));
    // The same ring in another image: two pages in the data.
    let other = DATA + 0x4000;
    g.emit(&cmd::store_register_mem(GPR, g.gm(DATA)));
    for dword in 0..0x40 {
        let value = g.read32(CONTEXT + 0x1000 + 4 * dword);
        g.write32(other + 0x1000 + 4 * dword, value);
    }
    g.write32(DATA, 1);
    let before = g.vgpu.statistics().completions;
    g.submit_raw(Descriptor::ggtt(g.gm(other) as u32, ID + 1).0, 0);
    g.wait(before + 1);
    assert_eq!(g.read32(DATA), 0);
}

#[test]
fn tiled_fill_lies_as_the_contexts_own_register_says() {
    let host = Host::new();
    let (mut x, mut y) = (host.guest(), host.guest());
    x.start();
    y.start();
    // 512 bytes by 32 lines: four tiles either way. One pixel at (4, 1).
    let fill = |g: &TestGuest| {
        let rect = Rect { x1: 4, y1: 1, x2: 5, y2: 2 };
        let mut fill = XyColorBlt::fill(g.gm(DATA), 128, rect, 0xc0ffee).encode();
        fill[0] |= DST_TILED;
        fill
    };
    y.run(&cmd::load_register_imm(SWCTRL, 0x0003_0003));
    x.run(&fill(&x));
    y.run(&fill(&y));
    assert_eq!((x.read32(DATA + 512 + 16), x.read32(DATA + 512)), (0xc0ffee, 0), "X-major: line 1");
    assert_eq!((y.read32(DATA + 512 + 16), y.read32(DATA + 512)), (0xc0ffee, 0), "Y-major: column 1, line 1");
    let far = |g: &mut TestGuest| {
        let rect = Rect { x1: 0, y1: 8, x2: 1, y2: 9 };
        let mut fill = XyColorBlt::fill(g.gm(DATA), 128, rect, 0xbeef).encode();
        fill[0] |= DST_TILED;
        g.run(&fill);
    };
    far(&mut x);
    far(&mut y);
    assert_eq!((x.read32(DATA + 0x1000), y.read32(DATA + 0x80)), (0xbeef, 0xbeef), "line 8");
}

#[test]
fn condition_in_a_batch_looks_at_memory_when_it_is_executed() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let mut batch = cmd::conditional_batch_buffer_end(g.gm(DATA), 5).to_vec();
    batch.extend(cmd::store_dword(g.gm(DATA + 4), 1));
    batch.push(MI_BATCH_BUFFER_END);
    (0u64..).zip(&batch).for_each(|(i, d)| g.write32(BATCH + 4 * i, *d));
    for (value, stored) in [(5, 0), (6, 1)] {
        g.write32(DATA + 4, 0);
        g.run(
            &[cmd::store_dword(g.gm(DATA), value).as_slice(), &cmd::batch_buffer_start(g.gm(BATCH))].concat(),
        );
        assert_eq!(g.read32(DATA + 4), stored, "with {value}");
    }
}

#[test]
fn wait_for_memory_goes_on_when_the_guests_processor_has_written_it() {
    let host = Host::new();
    let mut g = host.guest();
    g.start();
    let wait = cmd::semaphore_wait(g.gm(DATA), cmd::Compare::Equal, 9);
    g.emit(&[wait.as_slice(), &cmd::store_dword(g.gm(DATA + 4), 3)].concat());
    let before = g.vgpu.statistics();
    g.submit();
    eventually("it is on the engine", || g.vgpu.statistics().submissions > before.submissions);
    assert_eq!((g.read32(DATA + 4), g.vgpu.statistics().completions), (0, before.completions));
    g.write32(DATA, 9);
    g.wait(before.completions + 1);
    assert_eq!(g.read32(DATA + 4), 3);
}

#[test]
fn ring_as_long_as_any_can_be_is_refused_if_more_has_to_go_with_it() {
    let host = Host::new();
    let mut g = host.guest_of(crate::vgpu::slice::VgpuType::Custom(crate::vgpu::slice::SliceSize {
        low: 4 * crate::vgpu::slice::MIB,
        ..SIZE
    }));
    g.start();
    let ring = 0x10_0000;
    (0..0x200).for_each(|page| g.map(ring + page * 0x1000));
    g.set_state(state::RING_START, g.gm(ring) as u32);
    g.set_state(state::RING_CTL, (0x20_0000 - 4096) | regs::RING_VALID);
    let full = 0x20_0000 - 8;
    g.set_state(state::RING_TAIL, full);
    let done = g.vgpu.statistics().completions;
    g.submit();
    g.wait(done + 1);
    g.set_state(state::RING_HEAD, 0);
    (0u64..).zip(cmd::load_register_imm(GPR, 1)).for_each(|(i, d)| g.write32(ring + 4 * i, d));
    let before = g.vgpu.statistics().refusals;
    g.submit();
    eventually("it is refused", || g.vgpu.statistics().refusals > before && g.idle());
}
