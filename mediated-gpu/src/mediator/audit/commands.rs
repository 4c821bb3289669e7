//! The rules, one a command: what it may say, and the command written anew from what it said.

use super::{Place, Refusal, Space, Terms, registers};
use crate::gen8::blt::{XyColorBlt, XySrcCopyBlt};
use crate::gen8::cmd::{self, Client, PostSync, op};
use crate::gen8::ppgtt::ADDRESS_BITS;
use crate::gen8::regs;

/// Where the engine goes after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// To the next one.
    On,
    /// Back to who started the batch.
    End,
    /// To a batch. The caller writes the command that starts the copy.
    Start { place: Place, second_level: bool },
}

/// Dwords of the command with this header.
pub(super) fn length(header: u32) -> Result<usize, Refusal> {
    let decoded = cmd::decode(header).ok_or(Refusal::NotAllowed)?;
    usize::try_from(decoded.dwords).map_err(|_| Refusal::NotAllowed)
}

/// Bits of MI_FLUSH_DW's header that may be set: opcode, TLB invalidation, post-sync, length.
const FLUSH_DW_KEPT: u32 = 0xff80_0000 | cmd::FLUSH_DW_TLB_INVALIDATE | 3 << 14 | 0x3f;
/// Bits of PIPE_CONTROL's flags that may be set: flushes, invalidations, stalls, post-sync. Not: snapshot reset
/// (19), protected memory (22), register write (23), what is reserved.
const PIPE_CONTROL_KEPT: u32 = 0x0515_fdbf & !cmd::PIPE_CONTROL_NOTIFY & !cmd::PIPE_CONTROL_STORE_INDEX;
/// Bits of MI_LOAD_REGISTER_IMM's header that may be set: opcode, posted, length. Not: byte enables.
const LRI_KEPT: u32 = 0xff80_0000 | 1 << 12 | 0xff;
/// Bits of MI_BATCH_BUFFER_START's header that may be set. Not: predicate, offset, resource streamer.
const BB_START_KEPT: u32 = 0xff80_0000 | cmd::BB_SECOND_LEVEL | cmd::BB_PPGTT | 0xff;

/// Audits one whole command, which is in `space`, and appends what the engine is to do instead. Interrupts that it would raise are
/// collected in `interrupts`.
pub(super) fn audit(
    terms: &Terms<'_>,
    space: Space,
    interrupts: &mut u32,
    command: &[u32],
    out: &mut Vec<u32>,
) -> Result<Flow, Refusal> {
    let header = *command.first().ok_or(Refusal::CutOff)?;
    let decoded = cmd::decode(header).ok_or(Refusal::NotAllowed)?;
    if !decoded.legal_on(terms.engine) {
        return Err(Refusal::NotAllowed);
    }
    match (decoded.client, decoded.opcode) {
        (Client::Mi, op::MI_NOOP | op::MI_ARB_CHECK) => out.push(decoded.opcode << 23),
        (Client::Mi, op::MI_ARB_ON_OFF) => out.push(header & (0xff80_0000 | 1)),
        (Client::Mi, op::MI_USER_INTERRUPT) => {
            *interrupts |= regs::GT_RENDER_USER_INTERRUPT;
            out.push(cmd::MI_NOOP);
        }
        (Client::Mi, op::MI_BATCH_BUFFER_END) => {
            out.push(cmd::MI_BATCH_BUFFER_END);
            return Ok(Flow::End);
        }
        (Client::Mi, op::MI_BATCH_BUFFER_START) => return batch_buffer_start(terms, space, command),
        (Client::Mi, op::MI_STORE_DATA_IMM) => store_data_imm(terms, space, command, out)?,
        (Client::Mi, op::MI_LOAD_REGISTER_IMM) => load_register_imm(terms, space, command, out)?,
        (Client::Mi, op::MI_FLUSH_DW) => flush_dw(terms, space, interrupts, command, out)?,
        (Client::Pipe, op::PIPE_CONTROL) => pipe_control(terms, space, interrupts, command, out)?,
        (Client::Blt, op::XY_COLOR_BLT) => {
            let blt = XyColorBlt::decode(&exactly(command)?);
            plain(blt.clip || blt.dst.tiled)?;
            if blt.rect.is_empty() {
                nothing(command, out);
            } else {
                blit_reach(terms, blt.dst_extent())?;
                out.extend(blt.encode());
            }
        }
        (Client::Blt, op::XY_SRC_COPY_BLT) => {
            let blt = XySrcCopyBlt::decode(&exactly(command)?);
            plain(blt.clip || blt.dst.tiled || blt.src.tiled)?;
            if blt.rect.is_empty() {
                nothing(command, out);
            } else {
                blit_reach(terms, blt.dst_extent())?;
                blit_reach(terms, blt.src_extent())?;
                out.extend(blt.encode());
            }
        }
        // 3D and media state: for units that no GPU below has, or that no guest gets.
        (Client::Pipe, _) => nothing(command, out),
        _ => return Err(Refusal::NotAllowed),
    }
    Ok(Flow::On)
}

/// A command of exactly `N` dwords.
fn exactly<const N: usize>(command: &[u32]) -> Result<[u32; N], Refusal> {
    command.try_into().map_err(|_| bad_length(command))
}

fn bad_length(command: &[u32]) -> Refusal {
    Refusal::Length(u32::try_from(command.len()).unwrap_or(u32::MAX))
}

/// As many no-ops as the command has dwords.
fn nothing(command: &[u32], out: &mut Vec<u32>) {
    out.extend(command.iter().map(|_| cmd::MI_NOOP));
}

/// What an address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// The guest's slice.
    Global,
    /// What the context's own tables map, which is the guest's whatever the address.
    Process,
    /// The slice, told by commands that may not: the command does nothing.
    Forbidden,
}

fn slice_reach(terms: &Terms<'_>, addr: u64, len: u64) -> Result<(), Refusal> {
    if terms.slice.contains(addr, len) { Ok(()) } else { Err(Refusal::OutOfSlice { addr, len }) }
}

/// Where `len` bytes at an address lead that a GGTT bit does or does not go with. Without tables of its own all of
/// a context's addresses are the slice's.
fn reach(terms: &Terms<'_>, space: Space, bit: bool, addr: u64, len: u64) -> Result<Target, Refusal> {
    if !terms.ppgtt {
        return slice_reach(terms, addr, len).map(|()| Target::Global);
    }
    match (bit, space) {
        (true, Space::Process) => Ok(Target::Forbidden),
        (true, Space::Global) => slice_reach(terms, addr, len).map(|()| Target::Global),
        (false, _) if addr.checked_add(len).is_some_and(|end| end <= 1 << ADDRESS_BITS) => {
            Ok(Target::Process)
        }
        (false, _) => Err(Refusal::Ppgtt { addr, len }),
    }
}

fn plain(special: bool) -> Result<(), Refusal> {
    if special { Err(Refusal::Mode) } else { Ok(()) }
}

/// Blits have no bit that says which table: it is the context's own, if it has any.
fn blit_reach(terms: &Terms<'_>, extent: Option<std::ops::Range<u64>>) -> Result<(), Refusal> {
    // An extent that cannot be told begins before address 0.
    let range = extent.ok_or(Refusal::OutOfSlice { addr: 0, len: u64::MAX })?;
    reach(terms, Space::Global, false, range.start, range.end.saturating_sub(range.start)).map(|_| ())
}

fn aligned(addr: u64, to: u64) -> Result<(), Refusal> {
    if addr.is_multiple_of(to) { Ok(()) } else { Err(Refusal::Unaligned(addr)) }
}

fn batch_buffer_start(terms: &Terms<'_>, space: Space, command: &[u32]) -> Result<Flow, Refusal> {
    let [header, low, high] = exactly(command)?;
    if header & !BB_START_KEPT != 0 {
        return Err(Refusal::Mode);
    }
    // Commands without privilege start nothing that has it.
    let global = header & cmd::BB_PPGTT == 0 && space == Space::Global;
    let addr = cmd::address(low, high);
    let space = match reach(terms, space, global, addr, 4)? {
        Target::Process => Space::Process,
        Target::Global | Target::Forbidden => Space::Global,
    };
    Ok(Flow::Start { place: Place { space, addr }, second_level: header & cmd::BB_SECOND_LEVEL != 0 })
}

fn store_data_imm(
    terms: &Terms<'_>,
    space: Space,
    command: &[u32],
    out: &mut Vec<u32>,
) -> Result<(), Refusal> {
    let [header, low, high, data @ ..] = command else { return Err(bad_length(command)) };
    let qword = header & cmd::SDI_QWORD != 0;
    if (qword && (data.is_empty() || !data.len().is_multiple_of(2))) || (!qword && data.len() != 1) {
        return Err(bad_length(command));
    }
    let addr = cmd::address(*low, *high);
    aligned(addr, if qword { 8 } else { 4 })?;
    let bit = match reach(terms, space, header & cmd::USE_GGTT != 0, addr, 4 * data.len() as u64)? {
        Target::Global => cmd::USE_GGTT,
        Target::Process => 0,
        Target::Forbidden => {
            nothing(command, out);
            return Ok(());
        }
    };
    out.push(header & (0xff80_0000 | cmd::SDI_QWORD | 0x3ff) | bit);
    out.extend(cmd::split(addr));
    out.extend(data);
    Ok(())
}

fn load_register_imm(
    terms: &Terms<'_>,
    space: Space,
    command: &[u32],
    out: &mut Vec<u32>,
) -> Result<(), Refusal> {
    let [header, pairs @ ..] = command else { return Err(bad_length(command)) };
    if header & !LRI_KEPT != 0 {
        return Err(Refusal::Mode);
    }
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(bad_length(command));
    }
    for pair in pairs.chunks_exact(2) {
        let [offset, value] = exactly(pair)?;
        match registers::check(terms.engine, offset, value) {
            Ok(registers::Verdict::Write) => out.extend(cmd::load_register_imm(offset, value)),
            Ok(registers::Verdict::Ignore) => out.extend([cmd::MI_NOOP; 3]),
            // Without privilege the write does nothing.
            Err(_) if space == Space::Process && terms.ppgtt => out.extend([cmd::MI_NOOP; 3]),
            Err(refusal) => return Err(refusal),
        }
    }
    Ok(())
}

/// Where a post-sync write goes: an address, or an offset in the per-process status page.
fn post_sync(
    terms: &Terms<'_>,
    space: Space,
    index: bool,
    is_ggtt: bool,
    addr: u64,
    len: u64,
) -> Result<(Target, u64), Refusal> {
    if index {
        // The page is the first of the context image.
        let addr = terms.status_page.saturating_add(addr & 0xff8);
        return slice_reach(terms, addr, len).map(|()| (Target::Global, addr));
    }
    reach(terms, space, is_ggtt, addr, len).map(|target| (target, addr))
}

fn flush_dw(
    terms: &Terms<'_>,
    space: Space,
    interrupts: &mut u32,
    command: &[u32],
    out: &mut Vec<u32>,
) -> Result<(), Refusal> {
    let [header, low, high, data @ ..] = command else { return Err(bad_length(command)) };
    if !(1..=2).contains(&data.len()) {
        return Err(bad_length(command));
    }
    if header & !(FLUSH_DW_KEPT | cmd::FLUSH_DW_STORE_INDEX | cmd::FLUSH_DW_NOTIFY | 1 << 7) != 0 {
        return Err(Refusal::Mode);
    }
    if header & cmd::FLUSH_DW_NOTIFY != 0 {
        *interrupts |= regs::GT_RENDER_PIPECTL_NOTIFY_INTERRUPT;
    }
    let (mut addr, mut use_gtt) = (0, 0);
    let bytes = match PostSync::of(*header) {
        PostSync::None => 0,
        PostSync::Immediate => 4 * data.len() as u64,
        PostSync::Timestamp => 8,
        PostSync::DepthCount => return Err(Refusal::Mode),
    };
    if bytes > 0 {
        let told = cmd::address(*low & !7, *high);
        let index = header & cmd::FLUSH_DW_STORE_INDEX != 0;
        let bit = low & cmd::FLUSH_DW_USE_GTT != 0;
        let (target, to) = post_sync(terms, space, index, bit, told, bytes)?;
        addr = to;
        match target {
            Target::Global => use_gtt = cmd::FLUSH_DW_USE_GTT,
            Target::Process => {}
            Target::Forbidden => {
                nothing(command, out);
                return Ok(());
            }
        }
    }
    let [low, high] = cmd::split(addr);
    out.extend([header & FLUSH_DW_KEPT, low | use_gtt, high]);
    out.extend(data);
    Ok(())
}

fn pipe_control(
    terms: &Terms<'_>,
    space: Space,
    interrupts: &mut u32,
    command: &[u32],
    out: &mut Vec<u32>,
) -> Result<(), Refusal> {
    let [header, flags, low, high, data_low, data_high] = exactly(command)?;
    if flags & !(PIPE_CONTROL_KEPT | cmd::PIPE_CONTROL_NOTIFY | cmd::PIPE_CONTROL_STORE_INDEX) != 0 {
        return Err(Refusal::Mode);
    }
    if flags & cmd::PIPE_CONTROL_NOTIFY != 0 {
        *interrupts |= regs::GT_RENDER_PIPECTL_NOTIFY_INTERRUPT;
    }
    let mut addr = 0;
    let mut kept = flags & PIPE_CONTROL_KEPT;
    if PostSync::of(flags) != PostSync::None {
        let told = cmd::address(low, high);
        let index = flags & cmd::PIPE_CONTROL_STORE_INDEX != 0;
        let bit = flags & cmd::PIPE_CONTROL_GLOBAL_GTT != 0;
        let (target, to) = post_sync(terms, space, index, bit, told, 8)?;
        aligned(to, 8)?;
        addr = to;
        match target {
            Target::Global => kept |= cmd::PIPE_CONTROL_GLOBAL_GTT,
            Target::Process => kept &= !cmd::PIPE_CONTROL_GLOBAL_GTT,
            Target::Forbidden => {
                nothing(command, out);
                return Ok(());
            }
        }
    }
    let [low, high] = cmd::split(addr);
    out.extend([header & 0xffff_00ff, kept, low, high, data_low, data_high]);
    Ok(())
}
