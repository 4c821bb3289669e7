//! Saved, destroyed, made anew in a fresh mediator, and not told apart from one that went on.

use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;
use xen_ioreq::{DomId, Gfn, PAGE_SIZE};

use super::rig::*;
use crate::gen8::cmd;
use crate::mediator::{MediatorError, SavedError};
use crate::saved::SavedGuest;
use crate::vgpu::config;
use crate::vgpu::slice::SliceError;

/// What a guest does, one after the other.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Stores a value in a dword of a data page, by a context that is not waited for.
    Store(u8, u32),
    /// Lets an entry of a data page lead to another page's frame, or nowhere.
    Entry(u8, Option<u8>),
    /// Sets a register that keeps what is written.
    Register(u8, u32),
    /// Half a submission.
    Port(u8),
    /// Balloons a data page out and in again, and does not write its entry anew.
    Balloon(u8),
    /// Resets the blitter.
    Reset,
    /// Is saved, destroyed, and made anew.
    Break,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0u8..16, any::<u32>()).prop_map(|(page, value)| Op::Store(page, value)),
        3 => (0u8..16, prop::option::weighted(0.8, 0u8..16)).prop_map(|(page, to)| Op::Entry(page, to)),
        1 => (0u8..8, any::<u32>()).prop_map(|(n, value)| Op::Register(n, value)),
        1 => (0u8..4).prop_map(Op::Port),
        1 => (0u8..16).prop_map(Op::Balloon),
        1 => Just(Op::Reset),
        3 => Just(Op::Break),
    ]
}

fn data(page: u8) -> u64 {
    DATA + u64::from(page) * PAGE_SIZE as u64
}

/// What can be seen at the end, by the guest and by us.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    memory: Vec<Vec<u8>>,
    table: Vec<u64>,
    registers: Vec<u64>,
    status: Vec<(u32, u32)>,
}

/// A guest, and whoever serves it now.
struct Played {
    host: Host,
    guest: TestGuest,
    /// Contexts since it was last waited for.
    pending: u32,
    /// Pages whose entries lead to a frame.
    mapped: [bool; 16],
}

impl Played {
    fn new() -> Self {
        let host = Host::new();
        let mut guest = host.guest();
        guest.start();
        Self { host, guest, pending: 0, mapped: [true; 16] }
    }

    fn wait(&mut self) {
        eventually("it is idle", || self.guest.idle());
        self.pending = 0;
    }

    fn play(&mut self, op: Op, breaks: bool) {
        match op {
            Op::Store(page, value) if self.mapped[usize::from(page)] => {
                if self.pending >= 4 {
                    self.wait();
                }
                let at = self.guest.gm(data(page)) + u64::from(value % 64) * 4;
                self.guest.emit(&cmd::store_dword(at, value));
                // As another context each time: the same would go on or begin anew, by how far it is.
                let other = u64::from(self.pending) << 32;
                self.guest.submit_raw(self.guest.descriptor().0 + other, 0);
                self.pending += 1;
            }
            Op::Store(..) => {}
            Op::Entry(page, to) => {
                self.wait();
                let frame = to.map_or(0, |to| self.guest.gfn(data(to)).addr() | 1);
                self.guest.write_pte(self.guest.gm(data(page)), frame);
                self.mapped[usize::from(page)] = to.is_some();
            }
            Op::Register(n, value) => self.guest.set_reg(0xb100 + 4 * u32::from(n), value),
            Op::Port(n) => {
                self.wait();
                // What is half done is given up by the reset.
                (0..n).for_each(|i| self.guest.set_reg(BCS + 0x230, i.into()));
                if breaks {
                    self.save_and_restore();
                }
                (n..4).for_each(|_| self.guest.set_reg(BCS + 0x230, 0));
            }
            Op::Balloon(page) => {
                self.wait();
                self.guest.balloon_out(data(page));
                self.guest.vgpu.settle();
                self.guest.world.populate(self.guest.domid, self.guest.gfn(data(page)));
                // Whatever leads to that frame is written anew, as a driver does: until then it leads to scratch.
                for n in 0..16 {
                    let gm = self.guest.gm(data(n));
                    let entry = self.guest.vgpu.mmio_read(TestGuest::entry(gm), 8);
                    self.guest.write_pte(gm, entry);
                }
            }
            Op::Reset => {
                self.wait();
                self.guest.reset();
            }
            Op::Break if breaks => self.save_and_restore(),
            Op::Break => {}
        }
    }

    fn save(&self) -> Vec<u8> {
        self.guest.vgpu.pause();
        let config = config::config(CONFIG.aperture).unwrap();
        let saved = SavedGuest::new(CONFIG.aperture, &config, self.guest.vgpu.save().unwrap());
        let file = saved.to_bytes().unwrap();
        assert_eq!(SavedGuest::from_bytes(&file).as_ref(), Ok(&saved));
        file
    }

    /// Another mediator, GPU and client, over the same guest's memory.
    fn save_and_restore(&mut self) {
        let file = self.save();
        self.host.mediator().destroy(self.guest.vgpu.id()).unwrap();
        drop(self.host.mediator.take());
        let world = self.host.world.clone();
        self.host = Host::on(world);
        self.guest.vgpu = restore(&self.host, &self.guest, &file);
    }

    fn end(mut self) -> Seen {
        self.guest.vgpu.resume();
        self.wait();
        let g = &self.guest;
        let memory = (0..16).map(|n| g.world.page(g.domid, g.gfn(data(n)))).collect();
        let table =
            (0..0x40u64).map(|page| g.vgpu.mmio_read(TestGuest::entry(g.gm(page << 12)), 8)).collect();
        let blitter = [0x80, 0xa8, 0x234, 0x238, 0x29c, 0x3a0, 0x370, 0x374].map(|r| BCS + r);
        let shared = [0x44200, 0x44304, 0x4430c, 0x941c, 0x78000, 0x78040, 0x78050];
        let plain = (0..8).map(|n| 0xb100 + 4 * n);
        let registers = blitter.into_iter().chain(shared).chain(plain);
        let registers = registers.map(|r| g.vgpu.mmio_read(r, 4)).collect();
        let seen = Seen { memory, table, registers, status: g.csb() };
        self.host.mediator().destroy(g.vgpu.id()).unwrap();
        drop(self.host.mediator.take());
        g.world.depopulate(g.domid);
        assert_eq!(g.world.used(), 0, "every frame is back");
        seen
    }
}

fn restore(host: &Host, guest: &TestGuest, file: &[u8]) -> Arc<crate::mediator::Vgpu> {
    let saved = SavedGuest::from_bytes(file).unwrap();
    host.restore(&saved, guest).unwrap()
}

fn run(ops: &[Op], breaks: bool) -> Seen {
    let mut played = Played::new();
    ops.iter().for_each(|op| played.play(*op, breaks));
    played.end()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_run_with_breaks_is_a_run_without(ops in prop::collection::vec(op(), 1..40)) {
        prop_assert_eq!(run(&ops, true), run(&ops, false));
    }
}

#[test]
fn work_that_waited_is_done_by_the_successor_and_its_interrupt_comes() {
    let mut played = Played::new();
    played.guest.vgpu.pause();
    for n in 0..4 {
        let at = played.guest.gm(data(n));
        played.guest.emit(&cmd::store_dword(at, 7 + u32::from(n)));
        played.guest.submit();
    }
    assert_eq!(played.guest.read32(data(0)), 0, "nothing runs while it is paused");
    played.save_and_restore();
    played.wait();
    assert_eq!([0, 1, 2, 3].map(|n| played.guest.read32(data(n))), [7, 8, 9, 10]);
    let others = [(0x8002, ID), (0x8002, ID), (0x8002, ID), (0x18, ID)];
    assert_eq!(played.guest.csb()[1..], others, "the last three went on where the first was");
    assert_eq!(played.guest.reg(0x44200) & 2, 2, "the blitter has something to say");
    played.end();
}

#[test]
fn an_interrupt_that_was_pending_is_sent_again() {
    let mut played = Played::new();
    played.guest.run(&cmd::store_dword(played.guest.gm(DATA), 1));
    played.save_and_restore();
    assert!(
        played.guest.msis.load(std::sync::atomic::Ordering::SeqCst) >= 2,
        "before the break, and after it"
    );
    played.end();
}

#[test]
fn a_vgpu_at_work_is_not_saved_and_one_whose_place_is_taken_not_restored() {
    let host = Host::new();
    let mut guest = host.guest();
    guest.start();
    assert!(matches!(guest.vgpu.save(), Err(SavedError::NotPaused)));
    let played = Played { host, guest, pending: 0, mapped: [true; 16] };
    let saved = SavedGuest::from_bytes(&played.save()).unwrap();
    let used = played.guest.world.used();
    let refused = played.host.restore(&saved, &played.guest);
    assert!(
        matches!(refused, Err(SavedError::Mediator(MediatorError::Slice(SliceError::Taken { .. })))),
        "{refused:?}"
    );
    assert_eq!(played.guest.world.used(), used);
    played.end();
}

/// The file of a guest that has done a bit of everything.
fn file() -> Vec<u8> {
    let mut played = Played::new();
    for op in
        [Op::Store(1, 5), Op::Entry(3, None), Op::Entry(4, Some(5)), Op::Register(2, 9), Op::Store(2, 6)]
    {
        played.play(op, false);
    }
    played.guest.vgpu.pause();
    played.guest.submit();
    let file = played.save();
    played.end();
    file
}

#[test]
fn damaged_files_end_in_an_error_or_in_a_vgpu_that_is_harmless() {
    let whole = file();
    let host = Host::new();
    let mut guest = host.guest();
    guest.start();
    host.mediator().destroy(guest.vgpu.id()).unwrap();
    let used = host.world.used();
    let mut rng = fastrand::Rng::with_seed(3);
    let mut restored = 0;
    for _ in 0..600 {
        let mut content = whole[20..].to_vec();
        for _ in 0..rng.usize(1..6) {
            let within = if rng.bool() { content.len().min(64) } else { content.len() };
            let at = rng.usize(..within);
            content[at] = rng.u8(..);
        }
        if rng.u8(..) < 32 {
            content.truncate(rng.usize(..content.len()));
        }
        let mut file = whole[..12].to_vec();
        file.extend((content.len() as u32).to_le_bytes());
        file.extend(crc32fast::hash(&content).to_le_bytes());
        file.extend(content);
        let Ok(saved) = SavedGuest::from_bytes(&file) else { continue };
        if let Ok(vgpu) = host.restore(&saved, &guest) {
            restored += 1;
            vgpu.mmio_write(0x941c, 4, 1);
            host.mediator().destroy(vgpu.id()).unwrap();
        }
        assert_eq!(host.world.used(), used);
    }
    assert!(restored > 20, "the way through is taken, too: {restored}");
}

/// Where the two processes of the next test meet.
const MEETING: &str = "MGPU_TEST_SAVED";
const FIRST: [Op; 6] = [
    Op::Store(0, 1),
    Op::Store(1, 2),
    Op::Entry(2, Some(3)),
    Op::Register(1, 8),
    Op::Store(2, 77),
    Op::Store(3, 4),
];
const SECOND: [Op; 4] = [Op::Store(1, 65), Op::Entry(2, Some(1)), Op::Store(2, 9), Op::Balloon(6)];

#[test]
fn restored_in_another_process_it_draws_on_as_if_nothing_had_been() {
    if let Some(dir) = std::env::var_os(MEETING) {
        return go_on_in(dir.as_ref());
    }
    let dir = tempfile::tempdir().unwrap();
    let mut played = Played::new();
    FIRST.iter().for_each(|op| played.play(*op, false));
    let file = played.save();
    std::fs::write(dir.path().join("vgpu"), &file).unwrap();
    std::fs::write(dir.path().join("tail"), played.guest.tail.to_le_bytes()).unwrap();
    // As `xl save` does.
    let mut memory = Vec::new();
    for gfn in played.guest.world.gfns(played.guest.domid) {
        memory.extend(gfn.0.to_le_bytes());
        memory.extend(played.guest.world.page(played.guest.domid, gfn));
    }
    std::fs::write(dir.path().join("memory"), memory).unwrap();
    played.end();

    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "mediator::tests::saved::restored_in_another_process_it_draws_on_as_if_nothing_had_been",
        ])
        .env(MEETING, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

/// The other process.
fn go_on_in(dir: &std::path::Path) {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let host = Host::new();
    let domid = DomId(1);
    for record in read("memory").chunks_exact(8 + PAGE_SIZE) {
        let gfn = Gfn(u64::from_le_bytes(record[..8].try_into().unwrap()));
        host.world.populate(domid, gfn);
        host.world.write(domid, gfn, 0, &record[8..]);
    }
    let mut guest = host.stranger(domid);
    guest.tail = u32::from_le_bytes(read("tail").try_into().unwrap());
    guest.vgpu = restore(&host, &guest, &read("vgpu"));
    let mut played = Played { host, guest, pending: 0, mapped: [true; 16] };
    SECOND.iter().for_each(|op| played.play(*op, false));
    let whole: Vec<_> = FIRST.into_iter().chain(SECOND).collect();
    assert_eq!(played.end(), run(&whole, false));
}
