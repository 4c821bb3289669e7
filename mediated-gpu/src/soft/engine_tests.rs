//! One engine, driven by hand: what it does does not depend on any thread's timing.

use std::sync::Arc;

use proptest::prelude::*;
use xen_ioreq::Bfn;

use super::*;
use crate::bus::HeapBus;
use crate::gen8::blt::{FastDepth, FastSurface, FastTiling, Rect, XyColorBlt, XyFastCopyBlt};
use crate::gen8::regs::{RING_VALID, engine as reg};
use crate::soft::device::ClockKind;
use crate::soft::ggtt::Ggtt;

const PAGES: u32 = 256;
/// Two context images, the status page, a batch, data.
const IMAGES: [u32; 2] = [0x1000, 0x3000];
const HWSP: u32 = 0x8000;
const BATCH: u64 = 0x2_0000;
const DATA: u64 = 0x4_0000;

struct Hand {
    bus: Arc<HeapBus>,
    dev: Device,
    core: Core,
}

impl Hand {
    /// Pages map the frames of the same number; both contexts have an empty ring of a page, at 0x10000 and 0x11000.
    fn new(engine: Engine) -> Self {
        let bus = Arc::new(HeapBus::new(PAGES as usize));
        let ggtt = Arc::new(Ggtt::new(PAGES));
        (0..PAGES).for_each(|i| ggtt.write(i, Some(Bfn(i.into()))));
        let core = Core::new(engine, Tlb::new(Arc::clone(&bus) as _, ggtt), Team::default());
        let this = Self { bus, dev: Device::new(ClockKind::Counted), core };
        for n in 0..2 {
            this.set_state(n, state::RING_START, 0x1_0000 + 0x1000 * u32::try_from(n).expect("small"));
            this.set_state(n, state::RING_CTL, RING_VALID);
        }
        this
    }

    fn write(&self, addr: u64, dwords: &[u32]) {
        for (at, d) in (addr..).step_by(4).zip(dwords) {
            self.bus.write(Bfn(at >> 12), (at & 0xfff) as usize, &d.to_le_bytes());
        }
    }

    fn read(&self, addr: u64) -> u32 {
        let mut b = [0; 4];
        self.bus.read(Bfn(addr >> 12), (addr & 0xfff) as usize, &mut b);
        u32::from_le_bytes(b)
    }

    fn set_state(&self, n: usize, index: usize, value: u32) {
        self.write(u64::from(IMAGES[n]) + STATE_OFFSET + index as u64 * 4, &[value]);
    }

    fn state(&self, n: usize, index: usize) -> u32 {
        self.read(u64::from(IMAGES[n]) + STATE_OFFSET + index as u64 * 4)
    }

    /// Appends commands to context `n`'s ring, padded to a quadword, and sets the image's tail.
    fn emit(&self, n: usize, commands: &[u32]) {
        let mut tail = self.state(n, state::RING_TAIL);
        let padding = commands.len() % 2;
        for d in commands.iter().chain(&[0][..padding]) {
            self.write(u64::from(self.state(n, state::RING_START) + tail), &[*d]);
            tail = (tail + 4) % 4096;
        }
        self.set_state(n, state::RING_TAIL, tail);
    }

    fn descriptor(n: usize) -> Descriptor {
        Descriptor::ggtt(IMAGES[n], 0x20 + u32::try_from(n).expect("small"))
    }

    fn submit(&self, contexts: &[usize]) {
        let element = |i: usize| contexts.get(i).map(|&n| Self::descriptor(n));
        self.dev.port(self.core.engine).submit([element(0), element(1)]);
    }

    /// Steps until there is nothing to do.
    fn run(&mut self) -> Wait {
        for _ in 0..10_000 {
            if let Step::Idle(wait) = self.core.step(&self.dev) {
                return wait;
            }
        }
        panic!("no end");
    }

    /// Runs commands in context 0 to the end.
    fn run_all(&mut self, commands: &[u32]) -> Wait {
        self.emit(0, commands);
        self.submit(&[0]);
        self.run()
    }

    fn csb(&self) -> Vec<(u32, u32)> {
        self.dev.port(self.core.engine).take_csb().iter().map(|e| (e.status, e.context_id)).collect()
    }
}

fn bcs() -> Hand {
    Hand::new(Engine::Bcs)
}

/// One context ran to its end and nothing else happened.
const ALONE: [(u32, u32); 2] = [(0x1, 0x20), (0x18, 0x20)];

#[test]
fn context_runs_to_its_tail_and_its_head_is_saved() {
    let mut h = bcs();
    assert_eq!(h.run_all(&cmd::store_dword(DATA, 7)), Wait::ForWork);
    assert_eq!((h.read(DATA), h.state(0, state::RING_HEAD)), (7, 16));
    assert_eq!(h.csb(), ALONE);
    assert_eq!(h.core.take_irqs(), [Interrupt::ContextSwitch(Engine::Bcs)]);
    assert!(h.dev.port(Engine::Bcs).is_idle());
    assert!(h.state(0, state::CTX_TIMESTAMP) > 0);
}

#[test]
fn empty_ring_completes_at_once() {
    let mut h = bcs();
    assert_eq!(h.run_all(&[]), Wait::ForWork);
    assert_eq!(h.csb(), ALONE);
}

#[test]
fn two_elements_run_in_order_with_an_element_switch() {
    let mut h = bcs();
    h.emit(0, &cmd::store_dword(DATA, 1));
    h.emit(1, &[0x1480_0002, reg::GEN8_RING_CS_GPR + 0x22000, 0x4_0000, 0]);
    h.emit(1, &cmd::store_register_mem(reg::GEN8_RING_CS_GPR + 0x22000, DATA + 4));
    h.submit(&[0, 1]);
    h.run();
    assert_eq!((h.read(DATA), h.read(DATA + 4)), (1, 1));
    assert_eq!(h.csb(), [(0x1, 0x20), (0x14, 0x20), (0x18, 0x21)]);
}

#[test]
fn status_entries_go_round_the_status_page_after_their_data() {
    let mut h = bcs();
    h.dev.regs.write(0x22000 + reg::RING_HWS_PGA, HWSP);
    let hwsp = u64::from(HWSP);
    for n in 0..4u32 {
        h.run_all(&[cmd::MI_NOOP, cmd::MI_NOOP]);
        let newest = (2 * n + 1) % 6;
        assert_eq!(h.read(hwsp + hwsp::CSB_WRITE), newest);
        let entry = hwsp + hwsp::CSB + u64::from(newest) * 8;
        assert_eq!((h.read(entry), h.read(entry + 4)), (0x18, 0x20));
        let bank = h.dev.regs.engine(Engine::Bcs);
        assert_eq!(bank.get(reg::RING_CONTEXT_STATUS_PTR) & 7, newest);
        assert_eq!(bank.get(reg::RING_CONTEXT_STATUS_BUF + 8 * newest), 0x18);
    }
}

#[test]
fn resubmission_of_the_running_context_goes_on_with_the_new_tail() {
    let mut h = bcs();
    h.emit(0, &[cmd::MI_ARB_CHECK, cmd::MI_NOOP]);
    h.submit(&[0]);
    h.submit(&[0]);
    h.emit(0, &cmd::store_dword(DATA, 3));
    h.run();
    assert_eq!(h.csb(), [(0x1, 0x20), (0x8002, 0x20), (0x18, 0x20)]);
    assert_eq!(h.read(DATA), 3);
}

#[test]
fn resubmission_that_forces_a_restore_reads_the_whole_image_anew() {
    let mut h = bcs();
    h.emit(0, &[cmd::MI_ARB_CHECK, cmd::MI_NOOP]);
    h.emit(0, &cmd::store_dword(DATA, 3));
    h.submit(&[0]);
    let forced = Descriptor(Hand::descriptor(0).0 | Descriptor::FORCE_RESTORE);
    h.dev.port(Engine::Bcs).submit([Some(forced), None]);
    // One that asks for nothing goes on with it.
    h.submit(&[0]);
    h.run();
    assert_eq!(h.csb(), [(0x1, 0x20), (0x2, 0x20), (0x8002, 0x20), (0x18, 0x20)]);
    assert_eq!(h.read(DATA), 3);
}

#[test]
fn resubmission_at_the_end_of_the_ring_goes_on_too() {
    let mut h = bcs();
    h.emit(0, &[cmd::MI_NOOP; 2 * STEP_DWORDS as usize]);
    h.submit(&[0]);
    // Half of it.
    assert_eq!(h.core.step(&h.dev), Step::Worked);
    h.emit(0, &cmd::store_dword(DATA, 3));
    h.submit(&[0]);
    h.run();
    assert_eq!(h.csb(), [(0x1, 0x20), (0x8002, 0x20), (0x18, 0x20)]);
    assert_eq!(h.read(DATA), 3);
}

#[test]
fn other_context_preempts_at_an_arbitration_point_and_the_first_resumes_where_it_was() {
    let mut h = bcs();
    h.emit(0, &cmd::store_dword(DATA, 1));
    h.emit(0, &[cmd::MI_ARB_CHECK, cmd::MI_NOOP]);
    h.emit(0, &cmd::store_dword(DATA, 2));
    h.emit(1, &cmd::store_register_mem(0x22000 + reg::RING_HEAD, DATA + 4));
    h.submit(&[0]);
    h.submit(&[1]);
    h.run();
    assert_eq!(h.csb(), [(0x1, 0x20), (0x2, 0x20), (0x18, 0x21)]);
    assert_eq!((h.read(DATA), h.state(0, state::RING_HEAD)), (1, 20));
    h.submit(&[0]);
    h.run();
    assert_eq!((h.read(DATA), h.csb()), (2, ALONE.to_vec()));
}

#[test]
fn nobody_preempts_while_arbitration_is_off_or_in_a_batch() {
    let mut h = bcs();
    h.write(BATCH, &[cmd::MI_ARB_CHECK, cmd::MI_BATCH_BUFFER_END]);
    h.emit(0, &[&[cmd::MI_ARB_OFF, cmd::MI_ARB_CHECK][..], &[cmd::MI_ARB_ON]].concat());
    h.emit(0, &cmd::batch_buffer_start(BATCH));
    h.submit(&[0]);
    h.submit(&[1]);
    h.run();
    assert_eq!(h.csb(), [(0x1, 0x20), (0x18, 0x20), (0x1, 0x21), (0x18, 0x21)]);
}

#[test]
fn batches_chain_nest_once_and_come_back_to_the_ring() {
    let mut h = bcs();
    let (second, chained) = (BATCH + 0x1000, BATCH + 0x2000);
    let store = |n: u64| cmd::store_dword(DATA + 4 * n, 1 + u32::try_from(n).expect("small"));
    let mut nested = cmd::batch_buffer_start(second);
    nested[0] |= cmd::BB_SECOND_LEVEL;
    h.write(BATCH, &[&store(0)[..], &nested, &store(1), &cmd::batch_buffer_start(chained)].concat());
    h.write(second, &[&store(2)[..], &[cmd::MI_BATCH_BUFFER_END]].concat());
    h.write(chained, &[&store(3)[..], &[cmd::MI_BATCH_BUFFER_END]].concat());
    assert_eq!(h.run_all(&[&cmd::batch_buffer_start(BATCH)[..], &store(4)].concat()), Wait::ForWork);
    assert_eq!([0, 1, 2, 3, 4].map(|n| h.read(DATA + 4 * n)), [1, 2, 3, 4, 5]);
    assert_eq!(h.csb(), ALONE);
}

#[test]
fn commands_may_wrap_around_the_ring() {
    let mut h = bcs();
    for i in [state::RING_HEAD, state::RING_TAIL] {
        h.set_state(0, i, 4096 - 8);
    }
    assert_eq!(h.run_all(&cmd::store_dword(DATA, 0x77)), Wait::ForWork);
    assert_eq!(h.read(DATA), 0x77);
    assert_eq!(h.state(0, state::RING_HEAD), regs::HEAD_WRAP_ONE | 8);
}

#[test]
fn stores_write_dwords_quadwords_and_several_of_them() {
    let mut h = bcs();
    let several = [0x1060_0007, 0x4_0010, 0, 1, 2, 3, 4, 5, 6];
    h.run_all(&[&cmd::store_qword(DATA, 0x2_0000_0001)[..], &several].concat());
    assert_eq!([0, 4].map(|o| h.read(DATA + o)), [1, 2]);
    assert_eq!([16, 20, 24, 28, 32, 36, 40].map(|o| h.read(DATA + o)), [1, 2, 3, 4, 5, 6, 0]);
    h.run_all(&cmd::store_qword(DATA + 0x1ffc, 0xb_0000_000a));
    assert_eq!([0x1ffc, 0x2000].map(|o| h.read(DATA + o)), [10, 11], "across pages");
}

#[test]
fn flush_writes_immediates_timestamps_and_into_the_contexts_own_page() {
    let mut h = bcs();
    let scratch = u64::from(IMAGES[0]) + hwsp::PPHWSP_SCRATCH;
    h.write(DATA, &[9, 9]);
    h.run_all(&[&cmd::flush_dw_store(DATA, 5)[..], &cmd::flush_dw_store_index(0xd0, 0x8_0000_0007)].concat());
    assert_eq!([h.read(DATA), h.read(DATA + 4)], [5, 9], "a dword");
    assert_eq!([h.read(scratch), h.read(scratch + 4)], [7, 8], "a quadword");
    let before = h.dev.clock.ticks();
    h.run_all(&[0x1300_c002, 0x4_0044, 0, 0]);
    assert!(u64::from(h.read(DATA + 0x40)) > before);
}

#[test]
fn flush_that_asks_for_it_notifies_and_drops_the_translations() {
    let mut h = bcs();
    h.run_all(&[0x1300_0102 | cmd::FLUSH_DW_TLB_INVALIDATE, 0, 0, 0]);
    assert!(h.core.take_irqs().contains(&Interrupt::User(Engine::Bcs)));
    assert_eq!(h.bus.live_pins(), 1, "what saving the context needed afterwards");
}

#[test]
fn pipe_control_of_a_stock_driver_writes_its_sequence_number() {
    let mut h = Hand::new(Engine::Rcs);
    let warm_up = [0x7a00_0004, 0x0034_4c1c, 0xd0, 0, 0, 0];
    let seqno = [0x7a00_0004, 0x0110_4080, 0x4_0100, 0, 3, 0];
    h.run_all(&[&warm_up[..], &seqno, &[cmd::MI_USER_INTERRUPT, cmd::MI_ARB_ON]].concat());
    assert_eq!(h.read(DATA + 0x100), 3);
    assert!(h.core.take_irqs().contains(&Interrupt::User(Engine::Rcs)));
}

#[test]
fn register_commands_move_values() {
    let mut h = bcs();
    let gpr = |n: u32| 0x22000 + reg::GEN8_RING_CS_GPR + 8 * n;
    let mut bytes = cmd::load_register_imm(gpr(0), 0xffff_ffff);
    // Bytes 1 and 3 stay.
    bytes[0] |= 0xa00;
    let all = [
        &cmd::load_register_imm(gpr(0), 0x1122_3344)[..],
        &bytes,
        &[0x1500_0001, gpr(0), gpr(1)],
        &cmd::store_register_mem(gpr(1), DATA),
        &[0x1700_0003, 0x4_0004, 0, 0x4_0000, 0],
        &cmd::store_register_mem(0x60000, DATA + 8),
    ]
    .concat();
    assert_eq!(h.run_all(&all), Wait::ForWork);
    assert_eq!([0, 4, 8].map(|o| h.read(DATA + o)), [0x11ff_33ff, 0x11ff_33ff, 0]);
}

#[test]
fn clip_rectangle_bounds_the_blits_that_ask_for_it() {
    let mut h = bcs();
    let mut fill = XyColorBlt::fill(DATA, 64, Rect { x1: 0, y1: 0, x2: 8, y2: 4 }, 0xff);
    fill.clip = true;
    let clip = Rect { x1: 2, y1: 1, x2: 3, y2: 2 }.dwords();
    h.run_all(&[&fill.encode()[..], &[0x40c0_0001, clip[0], clip[1]], &fill.encode()].concat());
    let lit = (0..64).filter(|n| h.read(DATA + n * 4) != 0).collect::<Vec<_>>();
    assert_eq!(lit, [16 + 2]);
}

#[test]
fn register_decides_which_tiles_a_blit_means() {
    let mut h = bcs();
    let mut fill = XyColorBlt::fill(DATA, 128, Rect { x1: 4, y1: 2, x2: 5, y2: 3 }, 0xff);
    fill.dst.tiled = true;
    let y_major = cmd::load_register_imm(0x22000 + reg::BCS_SWCTRL, regs::masked_enable(2));
    h.run_all(&[&fill.encode()[..], &y_major, &fill.encode()].concat());
    let lit = (0..1024).map(|n| n * 4).filter(|n| h.read(DATA + n) != 0).collect::<Vec<_>>();
    // Line 2, byte 16: in an X-major tile, and in a Y-major one's second column.
    assert_eq!(lit, [512 + 32, 1024 + 16]);
}

/// Runs commands that must stop the engine, resets it, and shows that it works again.
fn stops(engine: Engine, commands: &[u32]) {
    let mut h = Hand::new(engine);
    assert_eq!(h.run_all(commands), Wait::ForKick, "{commands:x?}");
    assert!(h.core.take_irqs().contains(&Interrupt::Error(engine)), "{commands:x?}");
    assert_ne!(h.dev.regs.engine(engine).get(reg::RING_EIR), 0);
    assert!(!h.dev.port(engine).is_idle());
    works_after_reset(&mut h);
}

fn works_after_reset(h: &mut Hand) {
    h.core.reset(&h.dev);
    assert_eq!(h.bus.live_pins(), 0);
    h.csb();
    for n in [state::RING_HEAD, state::RING_TAIL] {
        h.set_state(0, n, 0);
    }
    h.set_state(0, state::RING_START, 0x1_0000);
    h.set_state(0, state::RING_CTL, RING_VALID);
    assert_eq!(h.run_all(&cmd::store_dword(DATA + 0x8000, 0xa5)), Wait::ForWork);
    assert_eq!((h.read(DATA + 0x8000), h.csb()), (0xa5, ALONE.to_vec()));
}

#[test]
fn what_cannot_be_executed_stops_the_engine() {
    let pages = u64::from(PAGES) << 12;
    let mut second = cmd::batch_buffer_start(BATCH);
    second[0] |= cmd::BB_SECOND_LEVEL;
    let mut tiled = XyColorBlt::fill(DATA, 64, Rect { x1: 0, y1: 0, x2: 1, y2: 1 }, 0);
    tiled.dst.tiled = true;
    let yf = FastSurface { base: DATA, pitch: 128, tiling: FastTiling::Yf };
    let rect = Rect { x1: 0, y1: 0, x2: 1, y2: 1 };
    let fast = XyFastCopyBlt { depth: FastDepth::Bpp32, dst: yf, rect, src: yf, src_x: 0, src_y: 0 };
    let cases: [&[u32]; 16] = [
        &fast.encode(),
        &[0xffff_ffff, 0],
        &[0x8000_0000, 0],
        &[cmd::MI_BATCH_BUFFER_END, 0],
        // Too short, too long.
        &[0x1040_0001, 0x4_0000, 0, 0],
        &[0x1060_0002, 0x4_0000, 0, 0],
        &[0x1100_0002, 0x22600, 0, 0],
        &[0x1300_4001, 0x4_0000, 0, 0],
        &[0x5430_0004, 0, 0, 0, 0, 0],
        // Not done here, not of this engine.
        &[0x0a00_0001, 0, 0, 0],
        &[0x5180_0004, 0, 0, 0, 0, 0],
        &[0x7a00_0004, 0, 0, 0, 0, 0],
        &second,
        &tiled.encode(),
        // Beyond the GGTT.
        &cmd::store_dword(pages, 1),
        &cmd::batch_buffer_start(0xffff_ffff_fffc),
    ];
    for commands in cases {
        stops(Engine::Bcs, commands);
    }
    stops(Engine::Rcs, &XyColorBlt::fill(DATA, 64, Rect { x1: 0, y1: 0, x2: 1, y2: 1 }, 0).encode());
}

#[test]
fn third_level_of_batches_stops_the_engine() {
    let mut h = bcs();
    let mut nested = cmd::batch_buffer_start(BATCH);
    nested[0] |= cmd::BB_SECOND_LEVEL;
    h.write(BATCH, &nested);
    assert_eq!(h.run_all(&cmd::batch_buffer_start(BATCH)), Wait::ForKick);
    works_after_reset(&mut h);
}

#[test]
fn command_that_reaches_beyond_the_tail_stops_the_engine() {
    let mut h = bcs();
    h.emit(0, &cmd::store_dword(DATA, 1));
    h.set_state(0, state::RING_TAIL, 8);
    h.submit(&[0]);
    assert_eq!(h.run(), Wait::ForKick);
    assert_eq!(h.read(DATA), 0);
    works_after_reset(&mut h);
}

#[test]
fn image_or_descriptor_that_makes_no_sense_stops_the_engine() {
    for (index, value) in [
        (state::RING_CTL, 0),
        (state::RING_TAIL, 4096),
        (state::RING_TAIL, u32::MAX),
        (state::RING_HEAD, 4096),
        (state::RING_START, 0x4000_0000),
        (state::RING_START, u32::MAX),
    ] {
        let mut h = bcs();
        h.emit(0, &cmd::store_dword(DATA, 1));
        h.set_state(0, index, value);
        h.submit(&[0]);
        assert_eq!(h.run(), Wait::ForKick, "{index:#x} {value:#x}");
        works_after_reset(&mut h);
    }
    let own = Hand::descriptor(0).0;
    let no_mode = own & !Descriptor::ADDRESSING_MODE | Descriptor::PPGTT;
    for descriptor in [0, no_mode, no_mode | 2 << 3, own | 0xffff_f000] {
        let mut h = bcs();
        h.dev.port(Engine::Bcs).submit([Some(Descriptor(descriptor)), None]);
        assert_eq!(h.run(), Wait::ForKick, "{descriptor:#x}");
        works_after_reset(&mut h);
    }
}

#[test]
fn lite_restore_to_a_tail_outside_the_ring_stops_the_engine() {
    let mut h = bcs();
    h.emit(0, &[cmd::MI_NOOP; 2 * STEP_DWORDS as usize]);
    h.submit(&[0]);
    assert_eq!(h.core.step(&h.dev), Step::Worked);
    // A larger ring makes room for a tail that the running one does not have.
    h.set_state(0, state::RING_CTL, RING_VALID | 0x1000);
    h.set_state(0, state::RING_TAIL, 0x1800);
    h.submit(&[0]);
    assert_eq!(h.run(), Wait::ForKick);
    works_after_reset(&mut h);
}

#[test]
fn status_page_that_is_not_mapped_stops_the_engine() {
    let mut h = bcs();
    h.dev.regs.write(0x22000 + reg::RING_HWS_PGA, 0xffff_f000);
    assert_eq!(h.run_all(&[]), Wait::ForKick);
    h.dev.regs.write(0x22000 + reg::RING_HWS_PGA, 0);
    works_after_reset(&mut h);
}

/// A dword that is likely to be, or to follow, a command.
fn dword() -> impl Strategy<Value = u32> {
    let headers: Vec<u32> = cmd::TABLE
        .iter()
        .map(|d| match d.client {
            cmd::Client::Mi => d.opcode << 23,
            cmd::Client::Blt => 2 << 29 | d.opcode << 22,
            cmd::Client::Pipe => 3 << 29 | d.opcode << 16,
        })
        .collect();
    prop_oneof![
        4 => (prop::sample::select(headers), 0u32..16, any::<u32>()).prop_map(|(h, n, f)| h | n | f & 0x0070_ff00),
        3 => 0u32..(PAGES << 12),
        1 => any::<u32>(),
        1 => Just(0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the ring, the batch, the image and the descriptor hold: a step ends, a reset helps.
    #[test]
    fn garbage_never_panics_and_never_outlives_a_reset(
        ring in prop::collection::vec(dword(), 0..200),
        batch in prop::collection::vec(dword(), 0..200),
        image in prop::option::weighted(0.2, any::<[u32; 4]>()),
        flip in prop::option::weighted(0.2, any::<u64>()),
        engine in prop::sample::select(Engine::ALL.to_vec()),
    ) {
        let mut h = Hand::new(engine);
        h.write(BATCH, &batch);
        h.emit(0, &ring);
        if let Some(values) = image {
            let at = [state::RING_HEAD, state::RING_TAIL, state::RING_START, state::RING_CTL];
            at.into_iter().zip(values).for_each(|(i, v)| h.set_state(0, i, v));
        }
        let descriptor = Descriptor(Hand::descriptor(0).0 ^ flip.unwrap_or(0));
        h.dev.port(engine).submit([Some(descriptor), Some(Hand::descriptor(1))]);
        for _ in 0..300 {
            if h.core.step(&h.dev) != Step::Worked {
                break;
            }
        }
        h.dev.regs.write(engine.mmio_base() + reg::RING_HWS_PGA, 0);
        h.dev.regs.write(engine.mmio_base() + reg::RING_IMR, 0);
        works_after_reset(&mut h);
    }
}
