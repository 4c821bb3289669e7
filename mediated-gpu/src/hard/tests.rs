//! The driver against registers that a test plays: what is written in which order, and what happens when a device does not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use xen_ioreq::Bfn;

use super::*;
use crate::gen8::context::{CSB_ACTIVE_TO_IDLE, CSB_COMPLETE, CSB_IDLE_TO_ACTIVE};
use crate::gen8::gtt::{PTE_SIZE, Pte};
use crate::gen8::regs::{
    self, GFX_FLSH_CNTL_EN, GRDOM_FULL, GT_CONTEXT_SWITCH_INTERRUPT, GT_CS_MASTER_ERROR_INTERRUPT,
    GT_RENDER_USER_INTERRUPT, MASTER_IRQ_CONTROL, MODE_IDLE, RESET_CTL_READY_TO_RESET, engine as reg, gt,
    irq, masked_disable, masked_enable, masked_write,
};
use crate::physical::{Engine, Interrupt, InterruptSink, ResetFailed};

const ENTRIES: u32 = 64;
const E: Engine = Engine::Bcs;
const BASE: u32 = 0x22000;

/// What a device does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Flaw {
    /// Wakes up.
    Asleep,
    /// Is ready for an engine's reset.
    NotReady,
    /// Comes out of a reset of this kind.
    Reset(u32),
    /// Forgets an engine's translations.
    Remembers(Engine),
    /// Forgets them before the engine has been reset.
    RemembersUntilReset(Engine),
}

#[derive(Default)]
struct Played {
    words: BTreeMap<u32, u32>,
    table: BTreeMap<u32, u64>,
    writes: Vec<(u32, u32)>,
    flaws: BTreeSet<Flaw>,
    cut: bool,
}

/// A device of words, some of which do something.
#[derive(Default)]
struct Device(Mutex<Played>);

impl Device {
    fn flaw(&self, flaw: Flaw) {
        self.0.lock().flaws.insert(flaw);
    }

    fn mend(&self, flaw: Flaw) {
        self.0.lock().flaws.remove(&flaw);
    }

    fn set(&self, offset: u32, value: u32) {
        self.0.lock().words.insert(offset, value);
    }

    fn get(&self, offset: u32) -> u32 {
        self.0.lock().words.get(&offset).copied().unwrap_or(0)
    }

    /// What was written to some registers since this was last asked, in order.
    fn written(&self, offsets: &[u32]) -> Vec<(u32, u32)> {
        let writes = std::mem::take(&mut self.0.lock().writes);
        writes.into_iter().filter(|(at, _)| offsets.contains(at)).collect()
    }

    fn cut(&self) -> bool {
        self.0.lock().cut
    }

    /// The engine says something.
    fn say(&self, status: u32, id: u32) {
        let pointers = self.get(BASE + reg::RING_CONTEXT_STATUS_PTR);
        let place = (pointers & 7) + 1;
        let place = if place > 5 { 0 } else { place };
        self.set(BASE + reg::RING_CONTEXT_STATUS_BUF + 8 * place, status);
        self.set(BASE + reg::RING_CONTEXT_STATUS_BUF + 8 * place + 4, id);
        self.set(BASE + reg::RING_CONTEXT_STATUS_PTR, pointers & !7 | place);
    }
}

impl Mmio for Device {
    fn read32(&self, offset: u32) -> u32 {
        let value = self.get(offset);
        let played = self.0.lock();
        match offset {
            gt::FORCEWAKE_ACK_HSW if !played.flaws.contains(&Flaw::Asleep) => {
                played.words.get(&gt::FORCEWAKE_MT).copied().unwrap_or(0)
            }
            _ => match Engine::of_mmio(offset) {
                Some((_, reg::RING_RESET_CTL)) if !played.flaws.contains(&Flaw::NotReady) => {
                    value | value << 1 & RESET_CTL_READY_TO_RESET
                }
                Some((_, reg::RING_MI_MODE)) => value | MODE_IDLE,
                _ => value,
            },
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut played = self.0.lock();
        played.writes.push((offset, value));
        let old = played.words.get(&offset).copied().unwrap_or(0);
        let masked = regs::lookup(offset).is_some_and(|r| r.def.access == regs::Access::Masked);
        let value = match offset {
            _ if masked => masked_write(old, value),
            gt::GDRST if !played.flaws.contains(&Flaw::Reset(value)) => {
                for e in Engine::ALL.into_iter().filter(|e| e.reset_bit() == value) {
                    played.flaws.remove(&Flaw::RemembersUntilReset(e));
                }
                0
            }
            _ if Engine::ALL.iter().any(|e| e.tlb_reg() == offset) => {
                let of = |flaw: &Flaw| match flaw {
                    Flaw::Remembers(e) | Flaw::RemembersUntilReset(e) => e.tlb_reg() == offset,
                    _ => false,
                };
                u32::from(played.flaws.iter().any(of))
            }
            irq::GEN8_GT_IIR0 | irq::GEN8_GT_IIR1 | irq::GEN8_GT_IIR2 | irq::GEN8_GT_IIR3 => old & !value,
            irq::GEN8_MASTER_IRQ => old & !MASTER_IRQ_CONTROL | value,
            _ => value,
        };
        played.words.insert(offset, value);
    }

    fn read64(&self, offset: u32) -> u64 {
        self.0.lock().table.get(&offset).copied().unwrap_or(0)
    }

    fn write64(&self, offset: u32, value: u64) {
        self.0.lock().table.insert(offset, value);
    }

    fn cut_off(&self) {
        self.0.lock().cut = true;
    }
}

/// What the driver told its sink.
#[derive(Default)]
struct Heard(Mutex<Vec<Interrupt>>);

impl InterruptSink for Heard {
    fn interrupt(&self, irq: Interrupt) {
        self.0.lock().push(irq);
    }
}

fn status() -> StatusPages {
    StatusPages::new([1, 2, 3, 4].map(|n| Bfn(0x100 + n)), ())
}

struct Rig {
    device: Arc<Device>,
    gpu: HardGpu,
    heard: Arc<Heard>,
}

impl Rig {
    fn new() -> Self {
        let device = Arc::new(Device::default());
        let gpu = HardGpu::new(device.clone(), 0..ENTRIES, status(), |_| Ok(())).expect("a GPU");
        let heard = Arc::new(Heard::default());
        gpu.set_interrupt_sink(heard.clone());
        device.written(&[]);
        Self { device, gpu, heard }
    }

    fn heard(&self) -> Vec<Interrupt> {
        std::mem::take(&mut *self.heard.0.lock())
    }

    /// Interrupts as the device does.
    fn interrupt(&self, iir: u32, bits: u32, master: u32) {
        self.device.set(iir, bits);
        self.device.set(irq::GEN8_MASTER_IRQ, MASTER_IRQ_CONTROL | master);
        self.gpu.core.interrupt();
    }
}

fn elsp(values: [u32; 4]) -> Vec<(u32, u32)> {
    values.map(|v| (BASE + reg::RING_ELSP, v)).to_vec()
}

#[test]
fn a_gpu_is_woken_reset_and_set_up_before_it_is_used() {
    let device = Arc::new(Device::default());
    for index in 0..ENTRIES {
        device.write64(GTT_OFFSET + index * PTE_SIZE, Pte::new(Bfn(0xbad)).unwrap().0);
    }
    let gpu = HardGpu::new(device.clone(), 0..ENTRIES, status(), |_| Ok(())).expect("a GPU");
    let order =
        device.written(&[gt::FORCEWAKE_MT, gt::GDRST, BASE + reg::RING_MODE_GEN7, irq::GEN8_MASTER_IRQ]);
    let wake = [masked_disable(0xffff), masked_enable(1)].map(|v| (gt::FORCEWAKE_MT, v));
    let mut expected = wake.to_vec();
    expected.extend([(irq::GEN8_MASTER_IRQ, 0), (gt::GDRST, GRDOM_FULL), (gt::GDRST, GRDOM_FULL)]);
    expected.extend(wake);
    expected.push((BASE + reg::RING_MODE_GEN7, masked_enable(1 << 15)));
    expected.push((irq::GEN8_MASTER_IRQ, MASTER_IRQ_CONTROL));
    // It is looked at once as soon as somebody listens.
    expected.extend([0, MASTER_IRQ_CONTROL].map(|v| (irq::GEN8_MASTER_IRQ, v)));
    assert_eq!(order, expected);
    assert_eq!(gpu.ggtt_entries(), ENTRIES - 4);
    assert!((0..ENTRIES - 4).all(|i| gpu.ggtt_read(i).is_none()), "nothing of a predecessor's is left");
    // BCS has the second status page.
    assert_eq!(device.get(BASE + reg::RING_HWS_PGA), (ENTRIES - 3) << 12);
    let entry = Pte(device.read64(GTT_OFFSET + (ENTRIES - 3) * PTE_SIZE));
    assert_eq!(entry.bfn(), Some(Bfn(0x102)));
    assert_eq!(device.get(BASE + reg::RING_CONTEXT_STATUS_PTR), 0x505);
    // What i915 lets out: each engine's in its half of the group.
    assert_eq!(device.get(irq::GEN8_GT_IER0), 0x0119_0119);
    assert_eq!(device.get(irq::GEN8_GT_IMR0), !0x0119_0119);
    assert_eq!((device.get(irq::GEN8_GT_IER2), device.get(irq::GEN8_GT_IMR2)), (0, u32::MAX));
    assert_eq!(device.get(BASE + reg::RING_IMR), !0x0119_0000);
    let attributes = [gt::GEN8_PRIVATE_PAT_LO, gt::GEN8_PRIVATE_PAT_HI].map(|r| device.get(r));
    assert_eq!(attributes, [0x000a_0907, 0x3b2b_1b0b]);
    drop(gpu);
    assert!(device.cut(), "it reaches nothing when nobody drives it");
}

#[test]
fn a_gpu_that_does_not_wake_or_come_back_is_refused_and_cut_off() {
    for (flaw, wanted) in [(Flaw::Asleep, "wake up"), (Flaw::Reset(GRDOM_FULL), "come out of its reset")] {
        let device = Arc::new(Device::default());
        device.flaw(flaw);
        let error = HardGpu::new(device.clone(), 0..ENTRIES, status(), |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        assert!(device.cut());
    }
    for (start, end) in [(0, 0), (0, 63), (0, GGTT_ENTRIES + 1), (100, 163), (5, 4)] {
        let device = Arc::new(Device::default());
        let error = HardGpu::new(device, start..end, status(), |_| Ok(())).unwrap_err();
        assert!(matches!(error, HardError::Table(s, e) if (s, e) == (start, end)));
    }
}

#[test]
fn entries_are_written_whole_and_those_of_the_status_pages_are_out_of_reach() {
    let rig = Rig::new();
    rig.gpu.ggtt_write(5, Some(Bfn(0x1234)));
    assert_eq!(rig.device.read64(GTT_OFFSET + 40), 0x123_4001);
    assert_eq!(rig.gpu.ggtt_read(5), Some(Bfn(0x1234)));
    for index in [ENTRIES - 4, ENTRIES - 1, ENTRIES, u32::MAX] {
        let before = rig.device.0.lock().table.clone();
        rig.gpu.ggtt_write(index, Some(Bfn(1)));
        assert_eq!(rig.device.0.lock().table, before);
        assert_eq!(rig.gpu.ggtt_read(index), None);
    }
    rig.gpu.write32(GTT_OFFSET, 1);
    assert_eq!((rig.gpu.read32(GTT_OFFSET), rig.device.get(GTT_OFFSET)), (u32::MAX, 0));
}

#[test]
fn of_a_part_of_the_table_nothing_else_is_touched() {
    let device = Arc::new(Device::default());
    let gpu = HardGpu::new(device.clone(), 100..200, status(), |_| Ok(())).expect("a GPU");
    [99, 100, 195, 196, 200].into_iter().for_each(|index| gpu.ggtt_write(index, Some(Bfn(7))));
    let touched: Vec<u32> = device.0.lock().table.keys().map(|at| (at - GTT_OFFSET) / PTE_SIZE).collect();
    assert_eq!(touched, (100..200).collect::<Vec<_>>());
    assert_eq!(device.read64(GTT_OFFSET + 196 * PTE_SIZE), 0x10_1001, "RCS's status page");
    assert_eq!((gpu.ggtt_read(195), gpu.ggtt_read(99)), (Some(Bfn(7)), None));
}

#[test]
fn a_flush_is_one_of_the_table_and_of_every_engine_in_this_order() {
    let rig = Rig::new();
    rig.gpu.ggtt_flush();
    let tlb = Engine::ALL.map(Engine::tlb_reg);
    let mut wanted = vec![(gt::GFX_FLSH_CNTL_GEN6, GFX_FLSH_CNTL_EN)];
    wanted.extend(tlb.map(|r| (r, 1)));
    assert_eq!(rig.device.written(&[&[gt::GFX_FLSH_CNTL_GEN6][..], &tlb].concat()), wanted);
    assert_eq!(rig.heard(), []);
}

#[test]
fn a_submission_is_four_dwords_and_the_next_waits_until_it_is_taken() {
    let rig = Rig::new();
    rig.gpu.submit(E, 0x1_0000_2001, Some(0x3_0000_4001));
    rig.gpu.submit(E, 0x5_0000_6001, None);
    let port = [BASE + reg::RING_ELSP];
    assert_eq!(rig.device.written(&port), elsp([3, 0x4001, 1, 0x2001]));
    assert!(!rig.gpu.is_idle(E));
    assert_eq!(rig.device.written(&port), []);
    rig.device.say(CSB_IDLE_TO_ACTIVE, 1);
    rig.interrupt(irq::GEN8_GT_IIR0, GT_CONTEXT_SWITCH_INTERRUPT << 16, E.master_irq_bit());
    assert_eq!(rig.device.written(&port), elsp([0, 0, 5, 0x6001]));
    assert_eq!(rig.heard(), [Interrupt::ContextSwitch(E)]);
    rig.device.say(CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, 1);
    assert!(!rig.gpu.is_idle(E), "the second is still to come");
    rig.device.say(CSB_IDLE_TO_ACTIVE, 5);
    rig.device.say(CSB_COMPLETE | CSB_ACTIVE_TO_IDLE, 5);
    let told: Vec<_> = rig.gpu.take_csb(E).iter().map(|c| (c.status, c.context_id)).collect();
    assert_eq!(told, [(1, 1), (0x18, 1), (1, 5), (0x18, 5)]);
    assert!(rig.gpu.is_idle(E) && rig.gpu.take_csb(E).is_empty());
    // The engine is told how far it was read: the fourth entry is at place 3.
    assert_eq!(rig.device.get(BASE + reg::RING_CONTEXT_STATUS_PTR), 0x303);
}

#[test]
fn an_interrupt_is_taken_back_and_told_by_engine_and_kind() {
    let rig = Rig::new();
    let bits = GT_RENDER_USER_INTERRUPT | GT_CS_MASTER_ERROR_INTERRUPT << 16;
    rig.device.set(BASE + reg::RING_EIR, 1);
    rig.interrupt(irq::GEN8_GT_IIR0, bits, 3);
    assert_eq!(rig.heard(), [Interrupt::User(Engine::Rcs), Interrupt::Error(Engine::Bcs)]);
    rig.device.written(&[]);
    rig.device.set(BASE + reg::RING_EIR, 0);
    rig.interrupt(irq::GEN8_GT_IIR0, bits, 3);
    assert_eq!(rig.heard(), [Interrupt::User(Engine::Rcs)], "an error that a reset has ended is nobody's");
    assert_eq!(rig.device.get(irq::GEN8_GT_IIR0), 0);
    let order = rig.device.written(&[irq::GEN8_MASTER_IRQ, irq::GEN8_GT_IIR0]);
    assert_eq!(
        order,
        [(irq::GEN8_MASTER_IRQ, 0), (irq::GEN8_GT_IIR0, bits), (irq::GEN8_MASTER_IRQ, MASTER_IRQ_CONTROL)]
    );
    rig.interrupt(irq::GEN8_GT_IIR3, GT_CONTEXT_SWITCH_INTERRUPT, Engine::Vecs.master_irq_bit());
    assert_eq!(rig.heard(), [Interrupt::ContextSwitch(Engine::Vecs)]);
    rig.interrupt(irq::GEN8_GT_IIR1, 0, 0);
    assert_eq!(rig.heard(), []);
}

#[test]
fn an_engine_is_reset_by_the_handshake_and_keeps_what_it_has_said() {
    let rig = Rig::new();
    rig.gpu.submit(E, 0x1_0000_2001, None);
    rig.gpu.submit(E, 0x5_0000_6001, None);
    rig.device.say(CSB_IDLE_TO_ACTIVE, 1);
    rig.device.written(&[]);
    rig.gpu.reset_engine(E, Duration::from_secs(10)).expect("a reset");
    let reset_ctl = BASE + reg::RING_RESET_CTL;
    let order = rig.device.written(&[
        BASE + reg::RING_ELSP,
        BASE + reg::RING_MI_MODE,
        reset_ctl,
        gt::GDRST,
        E.tlb_reg(),
    ]);
    assert_eq!(
        order,
        [
            (BASE + reg::RING_MI_MODE, masked_enable(1 << 8)),
            (reset_ctl, masked_enable(1)),
            (gt::GDRST, E.reset_bit()),
            (gt::GDRST, E.reset_bit()),
            (reset_ctl, masked_disable(1)),
            (BASE + reg::RING_MI_MODE, masked_disable(1 << 8)),
            (E.tlb_reg(), 1),
        ]
    );
    assert!(rig.gpu.is_idle(E), "both are forgotten");
    assert_eq!(rig.gpu.take_csb(E).len(), 1);
    rig.gpu.submit(E, 0x7_0000_8001, None);
    assert_eq!(rig.device.written(&[BASE + reg::RING_ELSP]), elsp([0, 0, 7, 0x8001]));
}

#[test]
fn an_engine_that_is_never_ready_is_not_reset_and_the_caller_is_told_in_time() {
    let rig = Rig::new();
    rig.device.flaw(Flaw::NotReady);
    let deadline = Duration::from_millis(20);
    assert_eq!(rig.gpu.reset_engine(E, deadline), Err(ResetFailed { engine: E, deadline }));
    let order = rig.device.written(&[BASE + reg::RING_RESET_CTL, gt::GDRST]);
    let reset_ctl = BASE + reg::RING_RESET_CTL;
    assert_eq!(order, [(reset_ctl, masked_enable(1)), (reset_ctl, masked_disable(1))]);
    rig.device.mend(Flaw::NotReady);
    rig.gpu.reset_engine(E, Duration::from_secs(10)).expect("a reset");
}

#[test]
fn an_engine_that_keeps_its_translations_is_reset_then_all_are_then_the_device_is_cut_off() {
    let rig = Rig::new();
    rig.device.flaw(Flaw::RemembersUntilReset(E));
    rig.gpu.ggtt_flush();
    assert_eq!(rig.heard(), [Interrupt::Error(E)]);
    assert_eq!(rig.device.written(&[gt::GDRST]), [(gt::GDRST, E.reset_bit()); 2]);
    assert!(!rig.device.cut());

    // No reset helps. The flush ends, and nothing is reached any more.
    rig.device.flaw(Flaw::Remembers(E));
    rig.gpu.ggtt_flush();
    assert_eq!(rig.heard(), Engine::ALL.map(Interrupt::Error));
    let resets = rig.device.written(&[gt::GDRST]);
    let wanted = [E.reset_bit(), E.reset_bit(), GRDOM_FULL, GRDOM_FULL];
    assert_eq!(resets, wanted.map(|bit| (gt::GDRST, bit)));
    assert!(rig.device.cut());
    rig.gpu.submit(E, 0x1_0000_2001, None);
    assert_eq!(rig.device.written(&[BASE + reg::RING_ELSP]), []);
    assert_eq!(rig.heard(), [Interrupt::Error(E)], "who submits does not wait for ever");
    assert!(rig.gpu.reset_engine(E, Duration::from_secs(1)).is_err());
}

#[test]
fn a_device_that_is_gone_reads_as_ones_and_nothing_is_trusted() {
    /// All-ones, as a bus gives them for nobody.
    #[derive(Default)]
    struct Gone(std::sync::atomic::AtomicBool);
    impl Mmio for Gone {
        fn read32(&self, _: u32) -> u32 {
            u32::MAX
        }
        fn write32(&self, _: u32, _: u32) {}
        fn read64(&self, _: u32) -> u64 {
            u64::MAX
        }
        fn write64(&self, _: u32, _: u64) {}
        fn cut_off(&self) {
            self.0.store(true, std::sync::atomic::Ordering::Release);
        }
    }
    let gone = Arc::new(Gone::default());
    assert!(matches!(HardGpu::new(gone.clone(), 0..ENTRIES, status(), |_| Ok(())), Err(HardError::NoReset)));
    assert!(gone.0.load(std::sync::atomic::Ordering::Acquire));
}
