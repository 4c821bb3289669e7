//! A guest's write of a GGTT entry whose frame the mediator has mapped already, against its write of a register that does nothing
//! but keep what is written.
//!
//! Both are trapped and go the whole way, on the model, in the same rounds. Each entry leads to another page than before at each
//! of its writes; other entries lead to these pages, too, so that none has to be mapped.

use std::cell::RefCell;

use guest::layout::frame;
use guest::regs::GEN8_PAGE_PRESENT;
use integration::drawing::Switch;
use integration::{Painter, Profile, World};
use xen_ioreq::PAGE_SIZE;

use crate::harness::{Figure, Target, interleave, seconds};

/// Names of the figures.
pub(crate) const NAMES: &[&str] = &["pte-write"];

const ROUNDS: usize = 41;
/// Writes in a round.
const WRITES: u64 = 1024;
/// Pages that the entries lead to by turns.
const PAGES: u64 = 64;
/// Entries so far behind the slice's first are in nobody's use.
const BEHIND: u64 = 2048;
/// BLC_PWM_CPU_CTL2: the backlight of a panel that is not there.
const REGISTER: u32 = 0x4_8250;

/// Measures it.
pub(crate) fn measure() -> Result<Vec<Figure>, String> {
    let world = World::new(Profile::Draft);
    let domid = world.domain(1);
    let service = world.serve(domid);
    let painter = Painter::new(world.cpu(domid, &Switch::default()));
    let first = painter.canvas().first;
    let frames: Vec<_> = (first..first + PAGES).filter_map(|page| frame(&painter.cpu, page)).collect();
    let entries = painter.gpu.layout.hwsp.gm + BEHIND * PAGE_SIZE as u64;
    let painter = RefCell::new(painter);

    let start = service.vgpu().statistics();
    let mut turn = 0;
    let (ratio, ours, peer) = interleave(
        ROUNDS,
        || {
            turn += 1;
            let Painter { cpu, gpu } = &mut *painter.borrow_mut();
            seconds(|| {
                for (n, gfn) in (0..WRITES).zip(frames.iter().cycle().skip(turn)) {
                    gpu.write_pte(cpu, entries + n * PAGE_SIZE as u64, gfn.addr() | GEN8_PAGE_PRESENT);
                }
            })
        },
        || {
            let Painter { cpu, gpu } = &mut *painter.borrow_mut();
            seconds(|| (0..WRITES).for_each(|n| gpu.write32(cpu, REGISTER, u32::try_from(n).unwrap_or(0))))
        },
    );
    let end = service.vgpu().statistics();

    // What was measured must have happened.
    let rounds = ROUNDS as u64 + 1;
    let entries = end.pte_writes - start.pte_writes;
    let accesses = end.mmio_accesses - start.mmio_accesses;
    if (entries, accesses) != (rounds * WRITES, 2 * rounds * WRITES) {
        return Err(format!("{entries} entries were written, with {accesses} accesses"));
    }
    if end.live_mappings - start.live_mappings != WRITES {
        return Err(format!(
            "{} entries lead to frames that did not",
            end.live_mappings - start.live_mappings
        ));
    }
    drop((painter, service));
    world.end();

    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let us = |s: f64| s * 1e6 / WRITES as f64;
    let detail = format!("an entry {:.2} us, a register {:.2} us", us(ours), us(peer));
    Ok(vec![Figure { name: "pte-write", ratio, target: Target::AtMost(4.0), detail }])
}
