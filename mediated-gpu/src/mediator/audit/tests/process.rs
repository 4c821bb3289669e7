//! Contexts with tables of their own: whose addresses, and what commands without privilege may do.

use super::*;

/// A driver's commands and a process's, at the same numbers.
#[derive(Default)]
pub(super) struct Both {
    pub(super) global: Pages,
    pub(super) process: Pages,
}

impl CommandSource for Both {
    fn copy(&self, space: Space, addr: u64, buf: &mut [u8]) -> Result<(), Refusal> {
        let pages = if space == Space::Global { &self.global } else { &self.process };
        pages.copy(space, addr, buf)
    }
}

/// A number of no slice, that a process's tables may map.
pub(super) const FAR: u64 = 0x7fff_1234_5000;

pub(super) fn audited(engine: Engine, source: &Both, dwords: &[u32]) -> Result<Audited, Refusal> {
    whole(ring(Terms { ppgtt: true, ..terms(engine) }, source, dwords, |_| 0)).map_err(|r| r.why)
}

pub(super) fn own_batch(addr: u64) -> Vec<u32> {
    let [header, rest @ ..] = cmd::batch_buffer_start(addr);
    [[header | cmd::BB_PPGTT].as_slice(), &rest].concat()
}

pub(super) fn own_store(addr: u64, value: u32) -> Vec<u32> {
    let [header, rest @ ..] = cmd::store_dword(addr, value);
    [[header & !cmd::USE_GGTT].as_slice(), &rest].concat()
}

/// What the audit makes of a batch of the process's.
pub(super) fn batch(engine: Engine, commands: &[u32]) -> Result<Vec<u32>, Refusal> {
    let mut source = Both::default();
    source.process.put(FAR, &[commands, &[cmd::MI_BATCH_BUFFER_END]].concat());
    Ok(audited(engine, &source, &own_batch(FAR))?.batches)
}

#[test]
fn own_address_may_be_any_and_keeps_its_bit_and_one_of_the_slice_must_be_in_it() {
    let none = Both::default();
    let store = own_store(FAR, 1);
    assert_eq!(audited(Engine::Bcs, &none, &store).map(|a| a.ring), Ok(store));
    let store = cmd::store_dword(OWN, 1);
    assert_eq!(audited(Engine::Bcs, &none, &store).map(|a| a.ring), Ok(store.to_vec()));
    let outside = audited(Engine::Bcs, &none, &cmd::store_dword(FAR, 1));
    assert!(matches!(outside, Err(Refusal::OutOfSlice { addr: FAR, .. })));
    let quads = [0x1020_0005, 0xffff_fff8, 0xffff, 0, 0, 0, 0];
    let beyond = audited(Engine::Bcs, &none, &quads);
    assert_eq!(beyond, Err(Refusal::Ppgtt { addr: 0xffff_ffff_fff8, len: 16 }));
}

#[test]
fn flushes_write_where_their_bits_say() {
    let none = Both::default();
    let flush = |bit: u32| [0x1300_4002, FAR as u32 | bit, (FAR >> 32) as u32, 7];
    assert_eq!(audited(Engine::Vcs, &none, &flush(0)).map(|a| a.ring), Ok(flush(0).to_vec()));
    assert!(audited(Engine::Vcs, &none, &flush(cmd::FLUSH_DW_USE_GTT)).is_err());
    let pipe = |flags: u32| [0x7a00_0004, flags | 1 << 14, FAR as u32, (FAR >> 32) as u32, 7, 0];
    assert_eq!(audited(Engine::Rcs, &none, &pipe(0)).map(|a| a.ring), Ok(pipe(0).to_vec()));
    assert!(audited(Engine::Rcs, &none, &pipe(cmd::PIPE_CONTROL_GLOBAL_GTT)).is_err());
}

#[test]
fn command_of_a_process_that_needs_privilege_does_nothing() {
    for (engine, command) in [
        (Engine::Bcs, cmd::store_dword(OWN, 1).to_vec()),
        (Engine::Bcs, cmd::flush_dw_store(OWN, 1).to_vec()),
        (Engine::Rcs, cmd::pipe_control_store(OWN, 1).to_vec()),
        (Engine::Bcs, cmd::load_register_imm(0x22080, 0).to_vec()),
        (Engine::Rcs, cmd::load_register_imm(0x7300, 0).to_vec()),
    ] {
        let rewritten = batch(engine, &command).unwrap();
        let nothing = vec![cmd::MI_NOOP; command.len()];
        assert_eq!(rewritten, [nothing.as_slice(), &[cmd::MI_BATCH_BUFFER_END]].concat(), "{command:x?}");
    }
    let allowed = cmd::load_register_imm(0x22200, 0x0001_0001);
    assert_eq!(batch(Engine::Bcs, &allowed).unwrap()[..3], allowed);
}

#[test]
fn batches_of_driver_and_process_at_one_number_are_two() {
    let mut source = Both::default();
    source.global.put(BATCH, &[&cmd::store_dword(OWN, 1)[..], &[cmd::MI_BATCH_BUFFER_END]].concat());
    source.process.put(BATCH, &[own_store(FAR, 2).as_slice(), &[cmd::MI_BATCH_BUFFER_END]].concat());
    let ring = [own_batch(BATCH), cmd::batch_buffer_start(BATCH).to_vec(), own_batch(BATCH)].concat();
    let audited = audited(Engine::Bcs, &source, &ring).unwrap();
    assert_eq!(audited.batches[..4], own_store(FAR, 2)[..]);
    assert_eq!(audited.batches[16..20], cmd::store_dword(OWN, 1));
    // Both are copies in memory of the mediator's, wherever they came from.
    let start = |at| cmd::batch_buffer_start(BASE + at).to_vec();
    assert_eq!(audited.ring, [start(0), start(64), start(0)].concat());
}

#[test]
fn batch_of_a_process_goes_on_as_one_whatever_it_says() {
    let mut source = Both::default();
    let next = FAR + 0x1000;
    source.process.put(FAR, &cmd::batch_buffer_start(next));
    source.process.put(next, &[own_store(FAR, 3).as_slice(), &[cmd::MI_BATCH_BUFFER_END]].concat());
    let audited = audited(Engine::Bcs, &source, &own_batch(FAR)).unwrap();
    assert_eq!(audited.batches[16..20], own_store(FAR, 3)[..]);
}

#[test]
fn blit_of_a_context_with_tables_may_reach_what_they_map() {
    let fill = XyColorBlt::fill(FAR, 64, Rect { x1: 0, y1: 0, x2: 4, y2: 4 }, 0).encode();
    assert_eq!(batch(Engine::Bcs, &fill).unwrap()[..7], fill);
    let edge = XyColorBlt::fill(0xffff_ffff_f000, 4096, Rect { x1: 0, y1: 0, x2: 4, y2: 4 }, 0).encode();
    assert!(matches!(batch(Engine::Bcs, &edge), Err(Refusal::Ppgtt { .. })));
}

#[test]
fn three_d_state_is_skipped_with_its_length() {
    // PIPELINE_SELECT is one dword, STATE_BASE_ADDRESS 16, 3DSTATE_VF_STATISTICS one.
    let mut commands = vec![0x6904_0000, 0x6101_000e];
    commands.extend([0xffff_ffff; 15]);
    commands.push(0x780b_0000);
    commands.extend(own_store(FAR, 9));
    let rewritten = batch(Engine::Rcs, &commands).unwrap();
    assert_eq!(rewritten[..18], [cmd::MI_NOOP; 18]);
    assert_eq!(rewritten[18..22], own_store(FAR, 9)[..]);
    assert!(batch(Engine::Bcs, &[0x6904_0000]).is_err(), "not on the blitter");
}
