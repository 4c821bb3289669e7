//! The whole GPU with its threads, through its public face.
#![expect(clippy::cast_possible_truncation, reason = "test addresses are small")]

use std::time::Duration;

use super::rig::{Rig, Stopped};
use super::*;
use crate::gen8::blt::{Depth, ROP_SRCCOPY, Rect, Surface, XyColorBlt, XySrcCopyBlt};
use crate::gen8::cmd;
use crate::gen8::regs::{GFX_RUN_LIST_ENABLE, gt::GDRST, masked_disable, masked_enable};
use crate::physical::Interrupt;
use xen_ioreq::PAGE_SIZE;

const FOREVER: Duration = Duration::from_secs(3600);
const DATA: u64 = Rig::FREE;

fn rig() -> Rig {
    Rig::new(Engine::Bcs, 4 << 20).expect("threads")
}

/// Puts a batch at `addr` that jumps to itself.
fn endless(rig: &Rig, addr: u64) {
    let bytes: Vec<u8> = cmd::batch_buffer_start(addr).iter().flat_map(|d| d.to_le_bytes()).collect();
    rig.write(addr, &bytes);
}

/// Starts a batch that fills a surface at `DATA`, of so many bytes a line, over and over and never ends.
fn endless_fills(rig: &mut Rig, pitch: i16, rect: Rect) {
    let batch = DATA + (3 << 20);
    let fill = XyColorBlt::fill(DATA, pitch, rect, 0x1122_3344).encode();
    let jump = cmd::batch_buffer_start(batch);
    let bytes: Vec<u8> = fill.iter().chain(&jump).flat_map(|d| d.to_le_bytes()).collect();
    rig.write(batch, &bytes);
    rig.emit(&jump);
    rig.submit();
}

/// Starts such a batch, and waits until it does draw.
fn endless_fill(rig: &mut Rig) {
    endless_fills(rig, 1024, Rect { x1: 0, y1: 0, x2: 256, y2: 64 });
    while rig.read32(DATA) != 0x1122_3344 {
        std::thread::yield_now();
    }
}

#[test]
fn fill_and_copy_of_scattered_pages_draw_what_they_say() {
    let mut rig = rig();
    let rect = Rect { x1: 0, y1: 0, x2: 300, y2: 200 };
    let surface = |base| Surface { base, pitch: 1200, tiled: false };
    let copy = XySrcCopyBlt {
        write_alpha: true,
        write_rgb: true,
        depth: Depth::Bpp32,
        rop: ROP_SRCCOPY,
        clip: false,
        dst: surface(DATA + (1 << 20) + 12),
        rect,
        src: surface(DATA),
        src_x: 0,
        src_y: 0,
    };
    let fill = XyColorBlt::fill(DATA, 1200, rect, 0xdead_beef);
    rig.run(&[&fill.encode()[..], &copy.encode()[..]].concat()).expect("runs");
    let mut got = vec![0; 300 * 200 * 4 + 4];
    rig.read(copy.dst.base, &mut got);
    let (drawn, beyond) = got.split_at(300 * 200 * 4);
    assert!(drawn.chunks(4).all(|p| p == 0xdead_beef_u32.to_le_bytes()));
    assert_eq!(beyond, [0; 4]);
}

#[test]
fn submission_through_the_register_runs_both_elements() {
    let mut rig = rig();
    rig.emit(&cmd::store_dword(DATA, 7));
    rig.set_state(crate::gen8::context::state::RING_TAIL, 16);
    let [lo, hi] = cmd::split(rig.descriptor().0);
    let elsp = Engine::Bcs.mmio_base() + reg::RING_ELSP;
    for dword in [hi + 1, lo, hi, lo] {
        rig.gpu.write32(elsp, dword);
    }
    rig.wait().expect("runs");
    assert_eq!(rig.read32(DATA), 7);
    let csb: Vec<_> = rig.gpu.take_csb(Engine::Bcs).iter().map(|e| (e.status, e.context_id)).collect();
    assert_eq!(csb, [(1, hi), (0x14, hi), (0x18, hi + 1)]);
    assert_eq!(rig.gpu.take_csb(Engine::Bcs), [], "taken once");
}

#[test]
fn every_engine_runs_a_context_of_its_own() {
    for engine in Engine::ALL {
        let mut rig = Rig::new(engine, 1 << 20).expect("threads");
        rig.run(&cmd::store_qword(DATA + 8, 0x1_0000_0002)).expect("runs");
        assert_eq!((rig.read32(DATA + 8), rig.read32(DATA + 12)), (2, 1), "{engine:?}");
    }
}

#[test]
fn flush_during_an_endless_batch_gives_back_every_pin() {
    let mut rig = rig();
    endless_fill(&mut rig);
    let index = (DATA >> 12) as u32;
    let frame = rig.gpu.ggtt_read(index).expect("mapped");
    let other = rig.gpu.ggtt_read(index + 512).expect("mapped");
    for _ in 0..100 {
        // The page is replaced under the running batch: after the flush nothing may hold the old frame.
        rig.gpu.ggtt_write(index, Some(other));
        rig.gpu.ggtt_flush();
        assert_eq!(rig.bus.pins(frame), 0);
        rig.bus.write(frame, 0, &[0; 4]);
        std::thread::yield_now();
        let mut first = [1; 4];
        rig.bus.read(frame, 0, &mut first);
        assert_eq!(first, [0; 4], "written after the flush");
        rig.gpu.ggtt_write(index, Some(frame));
        rig.gpu.write32(gt::GFX_FLSH_CNTL_GEN6, GFX_FLSH_CNTL_EN);
        while rig.read32(DATA) == 0 {
            std::thread::yield_now();
        }
    }
    assert!(!rig.gpu.is_idle(Engine::Bcs), "still drawing");
    assert_eq!(rig.gpu.reset_engine(Engine::Bcs, FOREVER), Ok(()));
    assert_eq!(rig.bus.live_pins(), 0);
}

#[test]
fn flush_during_a_large_fill_that_others_help_with_leaves_nobody_at_a_page() {
    let config = SoftGpuConfig { helpers: 2, clock: ClockKind::Counted, ..SoftGpuConfig::default() };
    let mut rig = Rig::with(Engine::Bcs, 4 << 20, config).expect("threads");
    // A surface of 2 MiB again and again; what it takes alone and what it takes with help is tried in turn.
    endless_fills(&mut rig, 4096, Rect { x1: 0, y1: 0, x2: 1024, y2: 512 });
    let pages = (DATA >> 12) as u32..(DATA >> 12) as u32 + 512;
    let frames: Vec<_> = pages.clone().map(|i| rig.gpu.ggtt_read(i).expect("mapped")).collect();
    for round in 0..100 {
        while rig.read32(DATA + (2 << 20) - 4) == 0 {
            std::thread::yield_now();
        }
        // All its pages are taken from it, while it draws; scratch is one of another surface.
        let scratch = rig.gpu.ggtt_read(pages.end).expect("mapped");
        pages.clone().for_each(|i| rig.gpu.ggtt_write(i, Some(scratch)));
        rig.gpu.ggtt_flush();
        for &frame in &frames {
            assert_eq!(rig.bus.pins(frame), 0);
            rig.bus.write(frame, 0, &[0; PAGE_SIZE]);
        }
        std::thread::yield_now();
        for &frame in &frames {
            let mut page = [1; PAGE_SIZE];
            rig.bus.read(frame, 0, &mut page);
            assert!(page.iter().all(|b| *b == 0), "round {round}: drawn after the flush");
        }
        pages.clone().zip(&frames).for_each(|(i, f)| rig.gpu.ggtt_write(i, Some(*f)));
        rig.gpu.ggtt_flush();
    }
    assert!(rig.reset());
    assert_eq!(rig.bus.live_pins(), 0);
}

#[test]
fn every_submission_of_the_context_that_runs_has_its_status_whenever_it_comes() {
    use crate::gen8::context::{CSB_COMPLETE, CSB_LITE_RESTORE};
    let mut rig = rig();
    let mut told = 0;
    for submitted in 1..=3000 {
        // The engine looks whether there is a newer one with each of these.
        rig.emit(&[cmd::MI_ARB_CHECK; 256]);
        rig.submit();
        // One runs, and nothing waits: so the next comes at any moment of its looking.
        while submitted - told > 1 {
            let idle = rig.gpu.is_idle(Engine::Bcs);
            for CsbEntry { status, .. } in rig.gpu.take_csb(Engine::Bcs) {
                told += u32::from(status & (CSB_COMPLETE | CSB_LITE_RESTORE) != 0);
            }
            assert!(!idle || told == submitted, "{told} of {submitted} have a status");
        }
    }
    assert_eq!(rig.wait(), Ok(()));
}

#[test]
fn flush_frees_a_frame_for_retirement_while_the_batch_goes_on() {
    let mut rig = rig();
    endless_fill(&mut rig);
    let index = (DATA >> 12) as u32 + 1;
    let frame = rig.gpu.ggtt_read(index).expect("mapped");
    let scratch = rig.gpu.ggtt_read(index + 512).expect("mapped");
    rig.gpu.ggtt_write(index, Some(scratch));
    rig.gpu.ggtt_flush();
    assert_eq!(rig.bus.retire(frame), 0);
    assert!(rig.reset());
    assert!(
        !rig.interrupts().contains(&Interrupt::Error(Engine::Bcs)),
        "never reached for the retired frame"
    );
}

#[test]
fn reset_stops_an_endless_batch_and_the_engine_works_again() {
    let mut rig = rig();
    endless(&rig, DATA);
    for _ in 0..20 {
        rig.emit(&cmd::batch_buffer_start(DATA));
        rig.submit();
        assert!(!rig.gpu.is_idle(Engine::Bcs));
        assert!(rig.reset());
        assert!(rig.gpu.is_idle(Engine::Bcs));
        assert_eq!(rig.bus.live_pins(), 0);
        rig.run(&cmd::store_dword(DATA + 0x1000, 9)).expect("runs after the reset");
    }
    assert_eq!(rig.read32(DATA + 0x1000), 9);
}

#[test]
fn reset_stops_the_largest_blit_there_is() {
    let mut rig = rig();
    let rect = Rect { x1: i16::MIN, y1: i16::MIN, x2: i16::MAX, y2: i16::MAX };
    // All lines are one: 17 GB drawn into 256 KiB.
    let base = DATA + (1 << 20) + 0x2_0000;
    let fill = XyColorBlt::fill(base, 0, rect, 1);
    rig.emit(&fill.encode());
    rig.submit();
    while rig.read32(base) != 1 {
        std::thread::yield_now();
    }
    assert!(!rig.gpu.is_idle(Engine::Bcs));
    assert!(rig.reset());
    assert!(rig.gpu.is_idle(Engine::Bcs));
}

#[test]
fn drop_ends_an_endless_batch_and_gives_back_every_pin() {
    let mut rig = rig();
    endless_fill(&mut rig);
    let bus = Arc::clone(&rig.bus);
    drop(rig);
    assert_eq!(bus.live_pins(), 0);
}

#[test]
fn unmapped_address_stops_the_engine_until_reset_and_no_other() {
    let mut rig = rig();
    let index = (DATA >> 12) as u32 + 3;
    rig.gpu.ggtt_write(index, None);
    rig.gpu.ggtt_flush();
    let at = DATA + 0x3010;
    assert_eq!(rig.run(&cmd::store_dword(at, 1)), Err(Stopped(Engine::Bcs)));
    assert!(!rig.gpu.is_idle(Engine::Bcs), "it did not finish");
    assert_eq!(rig.gpu.read32(gt::RING_FAULT_REG) & 1, 1);
    assert_eq!(u64::from(rig.gpu.read32(gt::GEN8_FAULT_TLB_DATA0)), at >> 12);
    rig.gpu.submit(Engine::Rcs, rig.descriptor().0, None);
    while !rig.gpu.is_idle(Engine::Rcs) && rig.gpu.read32(Engine::Rcs.mmio_base() + reg::RING_EIR) == 0 {
        std::thread::yield_now();
    }
    assert!(rig.reset());
    rig.run(&cmd::store_dword(DATA, 2)).expect("runs after the reset");
    assert_eq!(rig.read32(DATA), 2);
}

#[test]
fn device_that_may_only_read_faults_on_a_write() {
    let mut rig = rig();
    let frame = rig.gpu.ggtt_read((DATA >> 12) as u32).expect("mapped");
    rig.bus.set_read_only(frame, true);
    let load = [0x1480_0002, Engine::Bcs.mmio_base() + reg::GEN8_RING_CS_GPR, DATA as u32, 0];
    rig.run(&load).expect("reads");
    assert_eq!(rig.run(&cmd::store_dword(DATA, 1)), Err(Stopped(Engine::Bcs)));
    assert_eq!(rig.read32(DATA), 0);
}

#[test]
fn reset_by_register_stops_the_engine_that_it_names() {
    let mut rig = rig();
    endless_fill(&mut rig);
    let base = Engine::Bcs.mmio_base();
    rig.gpu.write32(GDRST, Engine::Vcs.reset_bit());
    assert!(!rig.gpu.is_idle(Engine::Bcs));
    rig.gpu.write32(base + reg::RING_RESET_CTL, masked_enable(1));
    assert_eq!(rig.gpu.read32(base + reg::RING_RESET_CTL), 3);
    rig.gpu.write32(GDRST, Engine::Bcs.reset_bit());
    assert_eq!(rig.gpu.read32(GDRST), 0);
    assert!(rig.gpu.is_idle(Engine::Bcs));
    assert_eq!(rig.gpu.read32(base + reg::RING_RESET_CTL), 0);
    assert_eq!(rig.bus.live_pins(), 0);
}

#[test]
fn stopped_ring_waits_and_goes_on() {
    let mut rig = rig();
    let mode = Engine::Bcs.mmio_base() + reg::RING_MI_MODE;
    rig.gpu.write32(mode, masked_enable(STOP_RING as u16));
    rig.emit(&cmd::store_dword(DATA, 5));
    rig.submit();
    assert_eq!(rig.gpu.read32(mode), STOP_RING | MODE_IDLE);
    assert!(!rig.gpu.is_idle(Engine::Bcs));
    assert_eq!(rig.read32(DATA), 0);
    rig.gpu.write32(mode, masked_disable(STOP_RING as u16));
    rig.wait().expect("runs");
    assert_eq!(rig.read32(DATA), 5);
}

#[test]
fn masked_interrupts_do_not_arrive_and_others_do() {
    let mut rig = rig();
    let imr = Engine::Bcs.mmio_base() + reg::RING_IMR;
    rig.gpu.write32(imr, crate::gen8::regs::GT_RENDER_USER_INTERRUPT << Engine::Bcs.irq_group().1);
    rig.run(&[cmd::MI_USER_INTERRUPT, 0]).expect("runs");
    rig.wait_for(Interrupt::ContextSwitch(Engine::Bcs));
    assert!(!rig.interrupts().contains(&Interrupt::User(Engine::Bcs)));
    rig.gpu.write32(imr, 0);
    rig.run(&[cmd::MI_USER_INTERRUPT, 0]).expect("runs");
    rig.wait_for(Interrupt::User(Engine::Bcs));
    let master = rig.gpu.read32(irq::GEN8_MASTER_IRQ);
    assert_eq!(master & !MASTER_IRQ_CONTROL, Engine::Bcs.master_irq_bit());
    rig.gpu.write32(irq::GEN8_GT_IIR0, u32::MAX);
    assert_eq!(rig.gpu.read32(irq::GEN8_MASTER_IRQ), MASTER_IRQ_CONTROL);
}

#[test]
fn registers_read_as_told_and_unknown_ones_as_all_ones() {
    let rig = rig();
    let base = Engine::Vcs.mmio_base();
    assert_eq!(rig.gpu.read32(base + reg::RING_MODE_GEN7), GFX_RUN_LIST_ENABLE);
    rig.gpu.write32(base + reg::RING_HWS_PGA, 0x5000);
    assert_eq!(rig.gpu.read32(base + reg::RING_HWS_PGA), 0x5000);
    let ticks = |_| rig.gpu.read32(base + reg::RING_TIMESTAMP);
    let [a, b] = [0, 1].map(ticks);
    assert!(a < b);
    rig.gpu.write32(gt::FORCEWAKE_MT, masked_enable(1));
    assert_eq!(rig.gpu.read32(gt::FORCEWAKE_ACK_HSW), 1);
    for offset in [0, 0x78000, 0x22234 + 8, 0x1f_fffc, u32::MAX] {
        rig.gpu.write32(offset, 1);
        assert_eq!(rig.gpu.read32(offset), u32::MAX, "{offset:#x}");
    }
}

#[test]
fn ggtt_entry_beyond_the_table_or_the_address_width_maps_nothing() {
    let rig = rig();
    let entries = rig.gpu.ggtt_entries();
    rig.gpu.ggtt_write(entries, Some(Bfn(1)));
    rig.gpu.ggtt_write(u32::MAX, Some(Bfn(1)));
    assert_eq!((rig.gpu.ggtt_read(entries), rig.gpu.ggtt_read(u32::MAX)), (None, None));
    rig.gpu.ggtt_write(5, Some(Bfn(1 << 40)));
    assert_eq!(rig.gpu.ggtt_read(5), None);
}
